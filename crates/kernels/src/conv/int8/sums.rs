//! Sums of products of bytes, by the machine's instructions and in plain Rust.

use super::{LANES, STEPS, WORD};

#[cfg(target_arch = "aarch64")]
pub(super) use sdot::Sdot;
#[cfg(target_arch = "x86_64")]
pub(super) use vnni::Vnni;

/// Sums of a vector's lanes.
pub(super) trait Sums: Copy {
    /// With registers for a vector of four pixels alone.
    const NARROW: bool = false;
    /// A line as it is multiplied with.
    type Factors: Copy;

    /// Before any product, of lanes whose weights sum to `totals`.
    fn start(totals: &[i32; LANES]) -> Self;
    fn of(line: &[i8; LANES * WORD]) -> Self::Factors;
    /// The four products of each lane are added.
    fn dot(self, word: [u8; WORD], factors: Self::Factors) -> Self;
    fn times(self, factors: &[f32; LANES]) -> [f32; LANES];
    fn quantise(from: &[f32], scale: f32, to: &mut [u8]);
}

/// Plain Rust.
#[derive(Clone, Copy)]
pub(super) struct Plain([i32; LANES]);

impl Sums for Plain {
    type Factors = [[i16; LANES]; WORD];

    #[inline(always)]
    fn start(_: &[i32; LANES]) -> Self {
        Self([0; LANES])
    }
    #[inline(always)]
    fn of(line: &[i8; LANES * WORD]) -> Self::Factors {
        std::array::from_fn(|k| std::array::from_fn(|lane| i16::from(line[lane * WORD + k])))
    }
    #[inline(always)]
    fn dot(mut self, word: [u8; WORD], factors: Self::Factors) -> Self {
        for k in 0..WORD {
            for lane in 0..LANES {
                self.0[lane] += i32::from(word[k]) * i32::from(factors[k][lane]);
            }
        }
        self
    }
    #[inline(always)]
    fn times(self, factors: &[f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|lane| self.0[lane] as f32 * factors[lane])
    }
    #[inline(always)]
    fn quantise(from: &[f32], scale: f32, to: &mut [u8]) {
        quantise(from, scale, to);
    }
}

/// To the nearest step within 0 to 255, ties to even; what is no number is 0.
#[inline(always)]
#[allow(clippy::manual_clamp)] // `clamp` keeps what is no number
pub(super) fn quantise(from: &[f32], scale: f32, to: &mut [u8]) {
    for (from, to) in from.iter().zip(to) {
        // From 2^23 on a float counts in ones: the sum's rounding is the one that is wanted.
        *to = ((from * scale).max(0.0).min(STEPS) + 8_388_608.0).to_bits() as u8;
    }
}

#[cfg(target_arch = "x86_64")]
mod vnni {
    use super::{LANES, Sums, WORD, quantise};
    use std::arch::x86_64::*;

    /// AVX512_VNNI; named only where it was found, with AVX-512BW.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Vnni(__m512i);

    impl Sums for Vnni {
        type Factors = __m512i;

        #[inline(always)]
        fn start(_: &[i32; LANES]) -> Self {
            // SAFETY: AVX-512F was found.
            Self(unsafe { _mm512_setzero_si512() })
        }
        #[inline(always)]
        fn of(line: &[i8; LANES * WORD]) -> __m512i {
            // SAFETY: AVX-512F was found, and a line is 64 bytes.
            unsafe { _mm512_loadu_si512(line.as_ptr().cast()) }
        }
        #[inline(always)]
        fn dot(self, word: [u8; WORD], factors: __m512i) -> Self {
            // SAFETY: AVX512_VNNI was found.
            Self(unsafe { _mm512_dpbusd_epi32(self.0, _mm512_set1_epi32(i32::from_ne_bytes(word)), factors) })
        }
        #[inline(always)]
        fn times(self, factors: &[f32; LANES]) -> [f32; LANES] {
            let mut done = [0.0; LANES];
            // SAFETY: AVX-512F was found; both are sixteen floats.
            unsafe {
                let value = _mm512_mul_ps(_mm512_cvtepi32_ps(self.0), _mm512_loadu_ps(factors.as_ptr()));
                _mm512_storeu_ps(done.as_mut_ptr(), value);
            }
            done
        }
        #[inline(always)]
        fn quantise(from: &[f32], scale: f32, to: &mut [u8]) {
            let (whole, rest) = from.as_chunks::<LANES>();
            let (to_whole, to_rest) = to.as_chunks_mut::<LANES>();
            for (from, to) in whole.iter().zip(to_whole) {
                // SAFETY: AVX-512F was found; sixteen floats are read and as many bytes written.
                unsafe {
                    let scaled = _mm512_mul_ps(_mm512_loadu_ps(from.as_ptr()), _mm512_set1_ps(scale));
                    // The second operand where the first is no number.
                    let scaled = _mm512_max_ps(scaled, _mm512_setzero_ps());
                    let scaled = _mm512_min_ps(scaled, _mm512_set1_ps(super::super::STEPS));
                    let steps = _mm512_cvtps_epi32(scaled);
                    _mm_storeu_si128(to.as_mut_ptr().cast(), _mm512_cvtusepi32_epi8(steps));
                }
            }
            quantise(rest, scale, to_rest);
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod sdot {
    use super::{LANES, Sums, WORD, quantise};
    use std::arch::aarch64::*;
    use std::arch::asm;

    /// Dot products of NEON; named only where they were found. They take both bytes for signed: an activation counts as 128
    /// less, which the sums have before they begin.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Sdot([int32x4_t; LANES / 4]);

    impl Sums for Sdot {
        const NARROW: bool = true;
        type Factors = [int8x16_t; LANES / 4];

        #[inline(always)]
        fn start(totals: &[i32; LANES]) -> Self {
            // SAFETY: NEON was found, and there are four totals at each place.
            Self(std::array::from_fn(|at| unsafe { vshlq_n_s32::<7>(vld1q_s32(totals.as_ptr().add(4 * at))) }))
        }
        #[inline(always)]
        fn of(line: &[i8; LANES * WORD]) -> Self::Factors {
            // SAFETY: NEON was found, and a line is four vectors of bytes.
            std::array::from_fn(|at| unsafe { vld1q_s8(line.as_ptr().add(16 * at)) })
        }
        #[inline(always)]
        fn dot(mut self, word: [u8; WORD], factors: Self::Factors) -> Self {
            let lowered = i32::from_ne_bytes(word.map(|byte| byte ^ 0x80));
            // SAFETY: NEON and its dot products were found. The intrinsic is not in every Rust that builds this.
            unsafe {
                let word = vdupq_n_s32(lowered);
                for (sum, factors) in self.0.iter_mut().zip(factors) {
                    asm!(
                        "sdot {sum:v}.4s, {factors:v}.16b, {word:v}.16b",
                        sum = inout(vreg) *sum, factors = in(vreg) factors, word = in(vreg) word,
                        options(pure, nomem, nostack, preserves_flags)
                    );
                }
            }
            self
        }
        #[inline(always)]
        fn times(self, factors: &[f32; LANES]) -> [f32; LANES] {
            let mut done = [0.0; LANES];
            for (at, sum) in self.0.into_iter().enumerate() {
                // SAFETY: NEON was found; both are sixteen floats.
                unsafe {
                    let value = vmulq_f32(vcvtq_f32_s32(sum), vld1q_f32(factors.as_ptr().add(4 * at)));
                    vst1q_f32(done.as_mut_ptr().add(4 * at), value);
                }
            }
            done
        }
        #[inline(always)]
        fn quantise(from: &[f32], scale: f32, to: &mut [u8]) {
            quantise(from, scale, to);
        }
    }
}
