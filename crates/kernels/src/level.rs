//! Which instruction set the kernels run on, found at run time.

#[cfg(target_arch = "aarch64")]
use crate::vector::neon::Neon;
#[cfg(target_arch = "x86_64")]
use crate::vector::x86::{Avx2, Avx512};
use crate::vector::{Portable, Vector};

/// An instruction set that the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// AVX-512F: sixteen lanes.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX2 with FMA: eight lanes.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// NEON: four lanes.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// Plain Rust, eight lanes, whatever the compilation target's baseline makes of them.
    Portable,
}

/// Work written once over [`Vector`] and compiled for every [`Level`].
pub(crate) trait Kernel {
    /// Implementations are `#[inline(always)]`, so that they are compiled for `V`'s instructions.
    fn run<V: Vector>(self);
}

impl Level {
    /// The best level of this machine. The answer is cached by the standard library, so asking is cheap.
    pub fn detected() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                return Self::Avx512;
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return Self::Avx2;
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon") {
            return Self::Neon;
        }
        Self::Portable
    }

    /// Whether this machine can run this level.
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => is_x86_feature_detected!("avx512f"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            Self::Portable => true,
        }
    }

    /// Every level that this machine can run, best first.
    pub fn available() -> impl Iterator<Item = Self> {
        [
            #[cfg(target_arch = "x86_64")]
            Self::Avx512,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2,
            #[cfg(target_arch = "aarch64")]
            Self::Neon,
            Self::Portable,
        ]
        .into_iter()
        .filter(|level| level.is_available())
    }

    /// Lanes of this level's vectors: packed weights are laid out in groups of them.
    pub(crate) fn lanes(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => Avx512::LANES,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => Avx2::LANES,
            #[cfg(target_arch = "aarch64")]
            Self::Neon => Neon::LANES,
            Self::Portable => Portable::LANES,
        }
    }

    /// Runs `kernel` compiled for this level.
    pub(crate) fn run<K: Kernel>(self, kernel: K) {
        assert!(self.is_available(), "this machine cannot run {self:?}");
        match self {
            // SAFETY: the assertion above found AVX-512F.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { run_avx512(kernel) },
            // SAFETY: the assertion above found AVX2 and FMA.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { run_avx2(kernel) },
            // SAFETY: the assertion above found NEON.
            #[cfg(target_arch = "aarch64")]
            Self::Neon => unsafe { run_neon(kernel) },
            Self::Portable => kernel.run::<Portable>(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn run_avx512<K: Kernel>(kernel: K) {
    kernel.run::<Avx512>();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run_avx2<K: Kernel>(kernel: K) {
    kernel.run::<Avx2>();
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
fn run_neon<K: Kernel>(kernel: K) {
    kernel.run::<Neon>();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_detected_level_is_the_first_available() {
        assert_eq!(Level::available().next(), Some(Level::detected()));
        assert_eq!(Level::available().last(), Some(Level::Portable));
    }

    struct PartialMoves<'a> {
        from: &'a [f32],
        to: &'a mut Vec<Vec<f32>>,
    }

    impl Kernel for PartialMoves<'_> {
        #[inline(always)]
        fn run<V: Vector>(self) {
            for count in 0..=V::LANES {
                let mut out = vec![-1.0; V::LANES + 1];
                // SAFETY: `from` has at least 16 values and `out` LANES + 1.
                unsafe {
                    let v = V::load_up_to(self.from.as_ptr(), count);
                    v.sub(V::splat(3.0))
                        .relu()
                        .only(v.sub(V::splat(5.0)).positive())
                        .store_up_to(out.as_mut_ptr(), count);
                }
                out.truncate(count + 1);
                self.to.push(out);
            }
        }
    }

    #[test]
    fn partial_moves_touch_only_their_lanes() {
        let from: Vec<f32> = (0..16u8).map(f32::from).collect();
        for level in Level::available() {
            let mut to = Vec::new();
            level.run(PartialMoves { from: &from, to: &mut to });
            for (count, out) in to.iter().enumerate() {
                let expected: Vec<f32> = from[..count].iter().map(|x| if *x > 5.0 { x - 3.0 } else { 0.0 }).collect();
                assert_eq!(out[..count], expected, "{level:?}, {count} lanes");
                assert_eq!(out[count], -1.0, "{level:?}: lane {count} was written");
            }
        }
    }
}
