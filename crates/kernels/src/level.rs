//! Which instruction set the kernels run on: the machine's best, or the one that [`VARIABLE`] names.

#[cfg(target_arch = "aarch64")]
use crate::vector::neon::Neon;
#[cfg(target_arch = "x86_64")]
use crate::vector::x86::{Avx2, Avx512};
use crate::vector::{Portable, Vector};
use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

/// The environment variable that forces a level, so that what other machines run can be tested and timed on this one.
pub const VARIABLE: &str = "GABION_LEVEL";

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

/// Every level by its name, whatever this crate is compiled for.
const NAMES: [&str; 4] = ["avx512", "avx2", "neon", "portable"];

/// Why a level cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LevelError {
    /// No level has this name.
    Unknown(String),
    /// This machine lacks the instructions.
    Unavailable(String),
}

impl fmt::Display for LevelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(name) => {
                write!(f, "{name:?} is no instruction set of the kernels; they are {}", NAMES.join(", "))
            }
            Self::Unavailable(name) => {
                let here: Vec<_> = Level::available().map(|level| level.to_string()).collect();
                write!(f, "this machine cannot run {name}; it can run {}", here.join(", "))
            }
        }
    }
}

impl std::error::Error for LevelError {}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "avx2",
            #[cfg(target_arch = "aarch64")]
            Self::Neon => "neon",
            Self::Portable => "portable",
        })
    }
}

impl FromStr for Level {
    type Err = LevelError;

    fn from_str(name: &str) -> Result<Self, LevelError> {
        if !NAMES.contains(&name) {
            return Err(LevelError::Unknown(name.into()));
        }
        let unavailable = || LevelError::Unavailable(name.into());
        Self::available().find(|level| level.to_string() == name).ok_or_else(unavailable)
    }
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

    /// The level that [`VARIABLE`] forces, if it forces one.
    ///
    /// # Errors
    /// When it names no level, or one that this machine cannot run.
    pub fn forced() -> Result<Option<Self>, LevelError> {
        match std::env::var_os(VARIABLE) {
            None => Ok(None),
            Some(name) if name.is_empty() => Ok(None),
            Some(name) => name.to_string_lossy().parse().map(Some),
        }
    }

    /// The level that everything here runs on: the forced one, else the best. Decided at the first call.
    ///
    /// # Panics
    /// When [`VARIABLE`] asks for what cannot be had; a program that wants to say so in its own way asks
    /// [`Level::forced`] first.
    pub fn current() -> Self {
        static CURRENT: OnceLock<Level> = OnceLock::new();
        *CURRENT.get_or_init(|| match Self::forced() {
            Ok(level) => level.unwrap_or_else(Self::detected),
            Err(error) => panic!("{VARIABLE}: {error}"),
        })
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
            Self::Avx512 => Avx512::<false>::LANES,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => Avx2::LANES,
            #[cfg(target_arch = "aarch64")]
            Self::Neon => Neon::LANES,
            Self::Portable => Portable::LANES,
        }
    }

    /// Vector registers of this level: a tile's accumulators fill some of them.
    pub(crate) fn registers(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => Avx512::<false>::REGISTERS,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => Avx2::REGISTERS,
            #[cfg(target_arch = "aarch64")]
            Self::Neon => Neon::REGISTERS,
            Self::Portable => Portable::REGISTERS,
        }
    }

    /// Whether this machine has instructions of this level that multiply bf16 (AVX512_BF16). Without them numbers are
    /// rounded to bf16 all the same, and widened to f32 for their products: the same answers up to the order of sums, from
    /// smaller weights, in no less time.
    pub fn multiplies_bf16(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        if self == Self::Avx512 {
            return self.is_available() && is_x86_feature_detected!("avx512bf16");
        }
        false
    }

    /// Whether this machine has instructions of this level that multiply bytes (AVX512_VNNI, NEON's dot products). Without
    /// them plain Rust finds the same integers, more slowly than f32 finds its sums.
    pub fn multiplies_int8(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        if self == Self::Avx512 {
            let found = is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512bw");
            return found && self.is_available();
        }
        #[cfg(target_arch = "aarch64")]
        if self == Self::Neon {
            return self.is_available() && std::arch::is_aarch64_feature_detected!("dotprod");
        }
        false
    }

    /// As [`Level::run`]; a kernel that multiplies bf16 gets the machine's instructions for that, where it has them.
    pub(crate) fn run_products<K: Kernel>(self, bf16: bool, kernel: K) {
        #[cfg(target_arch = "x86_64")]
        if bf16 && self.multiplies_bf16() {
            // SAFETY: this level and the instructions were just found.
            return unsafe { run_avx512_bf16(kernel) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = bf16;
        self.run(kernel);
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
    kernel.run::<Avx512<false>>();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
fn run_avx512_bf16<K: Kernel>(kernel: K) {
    kernel.run::<Avx512<true>>();
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

    #[test]
    fn levels_have_names() {
        for level in Level::available() {
            assert_eq!(level.to_string().parse(), Ok(level));
        }
        assert_eq!("portable".parse(), Ok(Level::Portable));
        let error = "sse9".parse::<Level>().unwrap_err();
        assert_eq!(error, LevelError::Unknown("sse9".into()));
        assert!(error.to_string().contains("avx512, avx2, neon, portable"), "{error}");
        let foreign = if cfg!(target_arch = "aarch64") { "avx2" } else { "neon" };
        let error = foreign.parse::<Level>().unwrap_err();
        assert_eq!(error, LevelError::Unavailable(foreign.into()));
        assert!(error.to_string().ends_with("portable"), "{error}");
    }

    /// Runs itself again in a process of its own for every level, because a process decides once.
    #[test]
    fn the_environment_forces_a_level() {
        const WANTED: &str = "GABION_TEST_LEVEL";
        if let Ok(wanted) = std::env::var(WANTED) {
            assert_eq!(Level::current().to_string(), wanted);
            return;
        }
        let run = |forced: &str, wanted: &str| {
            let mut child = std::process::Command::new(std::env::current_exe().expect("this test has a path"));
            child.args(["--exact", "level::tests::the_environment_forces_a_level", "--nocapture"]);
            child.env(VARIABLE, forced).env(WANTED, wanted).output().expect("it starts")
        };
        for level in Level::available() {
            assert!(run(&level.to_string(), &level.to_string()).status.success(), "{level}");
        }
        assert!(run("", &Level::detected().to_string()).status.success());
        let refused = run("sse9", "portable");
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && said.contains("GABION_LEVEL: \"sse9\" is no instruction set"), "{said}");
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
