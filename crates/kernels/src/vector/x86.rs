//! AVX-512 and AVX2 with FMA.

use super::Vector;
use half::bf16;
use std::arch::x86_64::*;

/// Sixteen lanes, 32 registers, masked tails; with `BF16` the machine's own products of bf16.
#[derive(Clone, Copy)]
pub(crate) struct Avx512<const BF16: bool>(__m512);

#[inline(always)]
fn first(count: usize) -> __mmask16 {
    debug_assert!(count < 16);
    (1u16 << count) - 1
}

impl<const BF16: bool> Vector for Avx512<BF16> {
    const LANES: usize = 16;
    const REGISTERS: usize = 32;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: see `Vector`: AVX-512F was detected.
        Self(unsafe { _mm512_set1_ps(value) })
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: AVX-512F was detected; 16 values are readable.
        Self(unsafe { _mm512_loadu_ps(from) })
    }
    #[inline(always)]
    unsafe fn load_partial(from: *const f32, count: usize) -> Self {
        // SAFETY: AVX-512F was detected; masked-off lanes are not read.
        Self(unsafe { _mm512_maskz_loadu_ps(first(count), from) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: AVX-512F was detected; 16 values are writable.
        unsafe { _mm512_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn store_partial(self, to: *mut f32, count: usize) {
        // SAFETY: AVX-512F was detected; masked-off lanes are not written.
        unsafe { _mm512_mask_storeu_ps(to, first(count), self.0) }
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        // SAFETY: AVX-512F was detected.
        Self(unsafe { _mm512_add_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        // SAFETY: AVX-512F was detected.
        Self(unsafe { _mm512_sub_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        // SAFETY: AVX-512F was detected.
        Self(unsafe { _mm512_mul_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        // SAFETY: AVX-512F was detected.
        Self(unsafe { _mm512_fmadd_ps(self.0, factor.0, addend.0) })
    }
    #[inline(always)]
    fn relu(self) -> Self {
        // The second operand is what comes back when either is a NaN.
        // SAFETY: AVX-512F was detected.
        Self(unsafe { _mm512_max_ps(_mm512_setzero_ps(), self.0) })
    }
    #[inline(always)]
    fn positive(self) -> u16 {
        // SAFETY: AVX-512F was detected.
        unsafe { _mm512_cmp_ps_mask::<_CMP_GT_OQ>(self.0, _mm512_setzero_ps()) }
    }
    #[inline(always)]
    fn only(self, bits: u16) -> Self {
        // SAFETY: AVX-512F was detected.
        Self(unsafe { _mm512_maskz_mov_ps(bits, self.0) })
    }
    #[inline(always)]
    fn low_half(self) -> Self {
        // SAFETY: AVX-512F was detected.
        unsafe { Self(_mm512_castsi512_ps(halves_512::<BF16>(self.0))) }
    }
    #[inline(always)]
    fn above(self, low: Self) -> Self {
        // SAFETY: AVX-512F was detected.
        unsafe {
            let high = _mm512_slli_epi32::<16>(halves_512::<BF16>(self.0));
            Self(_mm512_castsi512_ps(_mm512_or_si512(high, _mm512_castps_si512(low.0))))
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self {
        // SAFETY: AVX-512F was detected; 16 values of two bytes are readable.
        unsafe {
            let halves = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            Self(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(halves)))
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16) {
        // SAFETY: AVX-512F was detected; 16 values of two bytes are writable.
        unsafe {
            let halves = _mm512_cvtepi32_epi16(halves_512::<BF16>(self.0));
            _mm256_storeu_si256(to.cast(), halves);
        }
    }
    #[inline(always)]
    fn prefetch(from: *const f32) {
        // SAFETY: a prefetch faults nowhere.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(from.cast()) }
    }
    #[inline(always)]
    fn dot(self, factors: Self, sum: Self) -> Self {
        // SAFETY: AVX-512F was detected, and where `BF16` says so AVX512_BF16; 512 bits are 512 bits.
        unsafe {
            if BF16 {
                let [a, b] = [self, factors].map(|x| std::mem::transmute::<__m512, __m512bh>(x.0));
                return Self(_mm512_dpbf16_ps(sum.0, a, b));
            }
            let low = |x: Self| Self(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_castps_si512(x.0))));
            let mask = _mm512_set1_epi32(0xffff_0000u32.cast_signed());
            let high = |x: Self| Self(_mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(x.0), mask)));
            high(self).mul_add(high(factors), low(self).mul_add(low(factors), sum))
        }
    }
}

/// The bits of the nearest bf16, ties to even, below zeros; a NaN stays one. The machine's own instruction takes numbers
/// below the smallest normal one for zeros.
///
/// # Safety
/// AVX-512F is there, and where `BF16` says so AVX512_BF16.
#[inline(always)]
unsafe fn halves_512<const BF16: bool>(x: __m512) -> __m512i {
    // SAFETY: the caller's; 256 bits are 256 bits.
    unsafe {
        if BF16 {
            return _mm512_cvtepu16_epi32(std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(x)));
        }
        let bits = _mm512_castps_si512(x);
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
        let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
        _mm512_srli_epi32::<16>(_mm512_mask_or_epi32(up, nan, bits, _mm512_set1_epi32(0x0040_0000)))
    }
}

/// Eight lanes, 16 registers.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(__m256);

/// Eight ones and eight zeros: the window that starts at `8 - count` selects the first `count` lanes.
static WINDOW: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

#[inline(always)]
fn window(count: usize) -> __m256i {
    debug_assert!(count < 8);
    // SAFETY: AVX2 was detected; 8 - count + 8 <= 16, so the window lies inside the table.
    unsafe { _mm256_loadu_si256(WINDOW.as_ptr().add(8 - count).cast()) }
}

impl Vector for Avx2 {
    const LANES: usize = 8;
    const REGISTERS: usize = 16;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: see `Vector`: AVX2 and FMA were detected.
        Self(unsafe { _mm256_set1_ps(value) })
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: AVX2 was detected; 8 values are readable.
        Self(unsafe { _mm256_loadu_ps(from) })
    }
    #[inline(always)]
    unsafe fn load_partial(from: *const f32, count: usize) -> Self {
        // SAFETY: AVX2 was detected; masked-off lanes are not read.
        Self(unsafe { _mm256_maskload_ps(from, window(count)) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: AVX2 was detected; 8 values are writable.
        unsafe { _mm256_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn store_partial(self, to: *mut f32, count: usize) {
        // SAFETY: AVX2 was detected; masked-off lanes are not written.
        unsafe { _mm256_maskstore_ps(to, window(count), self.0) }
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        // SAFETY: AVX2 was detected.
        Self(unsafe { _mm256_add_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        // SAFETY: AVX2 was detected.
        Self(unsafe { _mm256_sub_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        // SAFETY: AVX2 was detected.
        Self(unsafe { _mm256_mul_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        // SAFETY: FMA was detected.
        Self(unsafe { _mm256_fmadd_ps(self.0, factor.0, addend.0) })
    }
    #[inline(always)]
    fn relu(self) -> Self {
        // The second operand is what comes back when either is a NaN.
        // SAFETY: AVX2 was detected.
        Self(unsafe { _mm256_max_ps(_mm256_setzero_ps(), self.0) })
    }
    #[inline(always)]
    fn positive(self) -> u16 {
        // SAFETY: AVX was detected.
        let mask = unsafe { _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(self.0, _mm256_setzero_ps())) };
        mask.cast_unsigned() as u16
    }
    #[inline(always)]
    fn only(self, bits: u16) -> Self {
        // SAFETY: AVX2 was detected.
        unsafe {
            let lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
            let set = _mm256_and_si256(_mm256_set1_epi32(i32::from(bits)), lane);
            Self(_mm256_and_ps(_mm256_castsi256_ps(_mm256_cmpeq_epi32(set, lane)), self.0))
        }
    }
    #[inline(always)]
    fn low_half(self) -> Self {
        // SAFETY: AVX2 was detected.
        unsafe { Self(_mm256_castsi256_ps(_mm256_srli_epi32::<16>(rounded_256(self.0)))) }
    }
    #[inline(always)]
    fn above(self, low: Self) -> Self {
        // SAFETY: AVX2 was detected.
        unsafe { Self(_mm256_castsi256_ps(_mm256_or_si256(rounded_256(self.0), _mm256_castps_si256(low.0)))) }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self {
        // SAFETY: AVX2 was detected; 8 values of two bytes are readable.
        unsafe {
            let halves = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            Self(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(halves)))
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16) {
        // SAFETY: AVX2 was detected; 8 values of two bytes are writable.
        unsafe {
            let halves = _mm256_srli_epi32::<16>(rounded_256(self.0));
            // Two quarters of each half, then the halves together.
            let packed = _mm256_permute4x64_epi64::<0b1000>(_mm256_packus_epi32(halves, halves));
            _mm_storeu_si128(to.cast(), _mm256_castsi256_si128(packed));
        }
    }
    #[inline(always)]
    fn prefetch(from: *const f32) {
        // SAFETY: a prefetch faults nowhere.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(from.cast()) }
    }
    #[inline(always)]
    fn dot(self, factors: Self, sum: Self) -> Self {
        // SAFETY: AVX2 was detected.
        unsafe {
            let low = |x: Self| Self(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_castps_si256(x.0))));
            let mask = _mm256_set1_epi32(0xffff_0000u32.cast_signed());
            let high = |x: Self| Self(_mm256_castsi256_ps(_mm256_and_si256(_mm256_castps_si256(x.0), mask)));
            high(self).mul_add(high(factors), low(self).mul_add(low(factors), sum))
        }
    }
}

/// As [`rounded_512`].
///
/// # Safety
/// AVX2 is there.
#[inline(always)]
unsafe fn rounded_256(x: __m256) -> __m256i {
    // SAFETY: the caller's.
    unsafe {
        let bits = _mm256_castps_si256(x);
        let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
        let up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
        let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(x, x));
        let kept = _mm256_blendv_epi8(up, _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000)), nan);
        _mm256_and_si256(kept, _mm256_set1_epi32(0xffff_0000u32.cast_signed()))
    }
}
