//! The few vector operations that the kernels are written in, and their portable form.

use half::bf16;

#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86;

/// Words of positive bits (see [`Vector::positive`]) of a row of channels: one a vector.
pub(crate) fn words(channels: usize, lanes: usize) -> usize {
    channels.div_ceil(lanes)
}

/// A register of f32 lanes.
///
/// An implementation may be named only beneath [`crate::Level::run`], which has checked that the machine has its
/// instructions; that is what makes the arithmetic here safe to call. Every method is `#[inline(always)]` so that it
/// lands in a function compiled for those instructions.
pub(crate) trait Vector: Copy {
    /// Values per register.
    const LANES: usize;
    /// Architectural registers: decides how large a tile of accumulators may be.
    const REGISTERS: usize;

    fn splat(value: f32) -> Self;
    /// # Safety
    /// `from` is valid for reading `LANES` values.
    unsafe fn load(from: *const f32) -> Self;
    /// The first `count` values, zeros after them.
    ///
    /// # Safety
    /// `from` is valid for reading `count < LANES` values.
    unsafe fn load_partial(from: *const f32, count: usize) -> Self;
    /// # Safety
    /// `to` is valid for writing `LANES` values.
    unsafe fn store(self, to: *mut f32);
    /// # Safety
    /// `to` is valid for writing `count < LANES` values.
    unsafe fn store_partial(self, to: *mut f32, count: usize);
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    /// `self * factor + addend`, rounded once where the machine can.
    fn mul_add(self, factor: Self, addend: Self) -> Self;
    /// `max(self, 0)`; a NaN stays a NaN.
    fn relu(self) -> Self;
    /// A bit for every lane above 0, the first lane's lowest.
    fn positive(self) -> u16;
    /// The lanes whose bit is set, zeros elsewhere.
    fn only(self, bits: u16) -> Self;

    /// Rounded to bf16, the bits of which are the low half of each lane, below zeros. A lane is a word then, not a number.
    #[inline(always)]
    fn low_half(self) -> Self {
        self.lanewise(Self::splat(0.0), |value, _| u32::from(bf16::from_f32(value).to_bits()))
    }
    /// Rounded to bf16 as the high half of each lane, above the low half of `low`.
    #[inline(always)]
    fn above(self, low: Self) -> Self {
        self.lanewise(low, |value, low| u32::from(bf16::from_f32(value).to_bits()) << 16 | low.to_bits())
    }
    /// `sum` and the two products of the bf16 halves of each lane, in f32.
    #[inline(always)]
    fn dot(self, factors: Self, sum: Self) -> Self {
        let half = |word: f32, high: bool| {
            f32::from_bits(if high { word.to_bits() & 0xffff_0000 } else { word.to_bits() << 16 })
        };
        let low = |a: Self| a.lanewise(a, |word, _| half(word, false).to_bits());
        let high = |a: Self| a.lanewise(a, |word, _| half(word, true).to_bits());
        high(self).mul_add(high(factors), low(self).mul_add(low(factors), sum))
    }

    /// Numbers of bf16, widened.
    ///
    /// # Safety
    /// `from` is valid for reading `LANES` values.
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self {
        let mut lanes = [0f32; 16];
        for (lane, value) in lanes.iter_mut().enumerate().take(Self::LANES) {
            // SAFETY: the caller's.
            *value = unsafe { from.add(lane).read() }.to_f32();
        }
        // SAFETY: no level has more than 16 lanes.
        unsafe { Self::load(lanes.as_ptr()) }
    }
    /// Rounded to bf16.
    ///
    /// # Safety
    /// `to` is valid for writing `LANES` values.
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16) {
        let mut lanes = [0f32; 16];
        // SAFETY: no level has more than 16 lanes.
        unsafe { self.store(lanes.as_mut_ptr()) }
        for (lane, value) in lanes.into_iter().enumerate().take(Self::LANES) {
            // SAFETY: the caller's.
            unsafe { to.add(lane).write(bf16::from_f32(value)) }
        }
    }
    /// The first `count` of [`Vector::load_bf16`], zeros after them; all for a larger `count`.
    ///
    /// # Safety
    /// `from` is valid for reading `min(count, LANES)` values.
    #[inline(always)]
    unsafe fn load_bf16_up_to(from: *const bf16, count: usize) -> Self {
        if count >= Self::LANES {
            // SAFETY: the caller's.
            return unsafe { Self::load_bf16(from) };
        }
        let mut lanes = [bf16::default(); 16];
        for (lane, value) in lanes.iter_mut().enumerate().take(count) {
            // SAFETY: the caller's.
            *value = unsafe { from.add(lane).read() };
        }
        // SAFETY: no level has more than 16 lanes.
        unsafe { Self::load_bf16(lanes.as_ptr()) }
    }

    /// Asks for a line of memory that will be read soon, where the machine can be asked. Any address will do.
    #[inline(always)]
    fn prefetch(_: *const f32) {}

    /// Lane by lane by way of memory.
    #[inline(always)]
    fn lanewise(self, other: Self, f: impl Fn(f32, f32) -> u32) -> Self {
        let (mut lanes, mut others) = ([0f32; 16], [0f32; 16]);
        // SAFETY: no level has more than 16 lanes.
        unsafe {
            self.store(lanes.as_mut_ptr());
            other.store(others.as_mut_ptr());
        }
        for lane in 0..Self::LANES {
            lanes[lane] = f32::from_bits(f(lanes[lane], others[lane]));
        }
        // SAFETY: as above.
        unsafe { Self::load(lanes.as_ptr()) }
    }

    /// `load` or `load_partial`, whichever `count` asks for.
    ///
    /// # Safety
    /// `from` is valid for reading `min(count, LANES)` values.
    #[inline(always)]
    unsafe fn load_up_to(from: *const f32, count: usize) -> Self {
        // SAFETY: the caller's promise is that of the method chosen.
        unsafe { if count >= Self::LANES { Self::load(from) } else { Self::load_partial(from, count) } }
    }

    /// `store` or `store_partial`, whichever `count` asks for.
    ///
    /// # Safety
    /// `to` is valid for writing `min(count, LANES)` values.
    #[inline(always)]
    unsafe fn store_up_to(self, to: *mut f32, count: usize) {
        // SAFETY: the caller's promise is that of the method chosen.
        unsafe { if count >= Self::LANES { self.store(to) } else { self.store_partial(to, count) } }
    }
}

/// A number in memory that becomes a lane of f32.
pub trait Element: Copy + Send + Sync + sealed::Element {}

impl Element for f32 {}
impl Element for bf16 {}

pub(crate) mod sealed {
    use super::{Vector, bf16};

    pub trait Element: Sized {
        /// # Safety
        /// `from` is valid for reading `min(count, LANES)` values.
        #[allow(private_bounds)] // nobody else calls or implements this
        unsafe fn load_up_to<V: Vector>(from: *const Self, count: usize) -> V;
    }

    impl Element for f32 {
        #[inline(always)]
        #[allow(private_bounds)]
        unsafe fn load_up_to<V: Vector>(from: *const Self, count: usize) -> V {
            // SAFETY: the caller's.
            unsafe { V::load_up_to(from, count) }
        }
    }

    impl Element for bf16 {
        #[inline(always)]
        #[allow(private_bounds)]
        unsafe fn load_up_to<V: Vector>(from: *const Self, count: usize) -> V {
            // SAFETY: the caller's.
            unsafe { V::load_bf16_up_to(from, count) }
        }
    }
}

/// Eight lanes in plain Rust, for machines without a kernel of their own; the compiler vectorises it as it can.
#[derive(Clone, Copy)]
pub(crate) struct Portable([f32; 8]);

impl Portable {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        let mut out = self;
        for lane in 0..8 {
            out.0[lane] = f(self.0[lane], other.0[lane]);
        }
        out
    }
}

impl Vector for Portable {
    const LANES: usize = 8;
    const REGISTERS: usize = 16;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self([value; 8])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: eight values are readable; an array of f32 has the alignment of f32.
        Self(unsafe { from.cast::<[f32; 8]>().read() })
    }
    #[inline(always)]
    unsafe fn load_partial(from: *const f32, count: usize) -> Self {
        let mut out = [0.0; 8];
        for (lane, value) in out.iter_mut().enumerate().take(count) {
            // SAFETY: lane < count, and count values are readable.
            *value = unsafe { from.add(lane).read() };
        }
        Self(out)
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: eight values are writable; an array of f32 has the alignment of f32.
        unsafe { to.cast::<[f32; 8]>().write(self.0) }
    }
    #[inline(always)]
    unsafe fn store_partial(self, to: *mut f32, count: usize) {
        for (lane, value) in self.0.iter().enumerate().take(count) {
            // SAFETY: lane < count, and count values are writable.
            unsafe { to.add(lane).write(*value) }
        }
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }
    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        // Two roundings: `f32::mul_add` is a library call where the target has no such instruction.
        self.mul(factor).add(addend)
    }
    #[inline(always)]
    fn relu(self) -> Self {
        self.zip(self, |a, _| if a < 0.0 { 0.0 } else { a })
    }
    #[inline(always)]
    fn positive(self) -> u16 {
        bits_of_positive(&self.0)
    }
    #[inline(always)]
    fn only(mut self, bits: u16) -> Self {
        keep(&mut self.0, bits);
        self
    }
}

/// [`Vector::positive`] by way of memory.
#[inline(always)]
pub(crate) fn bits_of_positive(values: &[f32]) -> u16 {
    values.iter().enumerate().fold(0, |bits, (lane, value)| bits | u16::from(*value > 0.0) << lane)
}

/// [`Vector::only`] by way of memory.
#[inline(always)]
pub(crate) fn keep(values: &mut [f32], bits: u16) {
    for (lane, value) in values.iter_mut().enumerate() {
        *value = if bits >> lane & 1 == 1 { *value } else { 0.0 };
    }
}
