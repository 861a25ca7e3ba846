//! NEON, which every aarch64 machine has.

use super::Vector;
use std::arch::aarch64::*;

/// Four lanes, 32 registers.
#[derive(Clone, Copy)]
pub(crate) struct Neon(float32x4_t);

impl Vector for Neon {
    const LANES: usize = 4;
    const REGISTERS: usize = 32;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: see `Vector`: NEON was detected.
        Self(unsafe { vdupq_n_f32(value) })
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: NEON was detected; 4 values are readable.
        Self(unsafe { vld1q_f32(from) })
    }
    #[inline(always)]
    unsafe fn load_partial(from: *const f32, count: usize) -> Self {
        let mut lanes = [0.0; 4];
        for (lane, value) in lanes.iter_mut().enumerate().take(count) {
            // SAFETY: lane < count, and count values are readable.
            *value = unsafe { from.add(lane).read() };
        }
        // SAFETY: NEON was detected; the array has 4 values.
        Self(unsafe { vld1q_f32(lanes.as_ptr()) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: NEON was detected; 4 values are writable.
        unsafe { vst1q_f32(to, self.0) }
    }
    #[inline(always)]
    unsafe fn store_partial(self, to: *mut f32, count: usize) {
        let mut lanes = [0.0; 4];
        // SAFETY: NEON was detected; the array has 4 values.
        unsafe { vst1q_f32(lanes.as_mut_ptr(), self.0) }
        for (lane, value) in lanes.iter().enumerate().take(count) {
            // SAFETY: lane < count, and count values are writable.
            unsafe { to.add(lane).write(*value) }
        }
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        // SAFETY: NEON was detected.
        Self(unsafe { vaddq_f32(self.0, other.0) })
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        // SAFETY: NEON was detected.
        Self(unsafe { vsubq_f32(self.0, other.0) })
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        // SAFETY: NEON was detected.
        Self(unsafe { vmulq_f32(self.0, other.0) })
    }
    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        // SAFETY: NEON was detected.
        Self(unsafe { vfmaq_f32(addend.0, self.0, factor.0) })
    }
    #[inline(always)]
    fn relu(self) -> Self {
        // SAFETY: NEON was detected.
        Self(unsafe { vmaxq_f32(self.0, vdupq_n_f32(0.0)) })
    }
    #[inline(always)]
    fn positive(self) -> u16 {
        // SAFETY: NEON was detected; the array has four values.
        unsafe {
            let positive = vcgtq_f32(self.0, vdupq_n_f32(0.0));
            vaddvq_u32(vandq_u32(positive, vld1q_u32([1, 2, 4, 8].as_ptr()))) as u16
        }
    }
    #[inline(always)]
    fn only(self, bits: u16) -> Self {
        // SAFETY: NEON was detected; the array has four values.
        unsafe {
            let set = vtstq_u32(vdupq_n_u32(u32::from(bits)), vld1q_u32([1, 2, 4, 8].as_ptr()));
            Self(vreinterpretq_f32_u32(vandq_u32(set, vreinterpretq_u32_f32(self.0))))
        }
    }
}
