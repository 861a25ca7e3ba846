//! The loops of batch normalisation: over chunks of rows, then over groups of channels, then down the rows.
//!
//! A chunk of rows fits the first-level cache, so that walking it once per channel group, or twice for the moments,
//! costs main memory one reading. Channels of a group keep their parameters and sums in registers.

use crate::level::Kernel;
use crate::vector::{Element, Vector, words};
use rayon::prelude::*;
use std::ops::Range;

/// Values per chunk: 16 KiB, half of a small first-level cache.
const CHUNK_VALUES: usize = 4096;
/// Most rows of a chunk. They are summed one after another in f32 and chunks in f64, so this bounds the rounding of a
/// gradient whose terms cancel.
const CHUNK_ROWS: usize = 64;
/// Chunks per task: enough work to be worth a thread's while.
const TASK_CHUNKS: usize = 32;

/// Cuts rows into chunks; the cut depends on the shape alone, so sums do not depend on threads.
pub(super) struct ForEachChunk {
    channels: usize,
    values: usize,
    /// Values of every chunk but perhaps the last.
    chunk: usize,
}

impl ForEachChunk {
    pub fn new(channels: usize, values: usize) -> Self {
        Self { channels, values, chunk: (CHUNK_VALUES / channels).clamp(8, CHUNK_ROWS) * channels }
    }

    /// Rows of each chunk.
    pub fn rows(&self) -> impl Iterator<Item = usize> {
        (0..self.values).step_by(self.chunk).map(|start| self.range(start).len() / self.channels)
    }

    fn range(&self, start: usize) -> Range<usize> {
        start..(start + self.chunk).min(self.values)
    }

    /// Two values per channel from each chunk, in the order of the chunks.
    pub fn sums(&self, f: impl Fn(Range<usize>, &mut [f32]) + Sync) -> Vec<f32> {
        let mut sums = vec![0.0; self.values.div_ceil(self.chunk) * 2 * self.channels];
        sums.par_chunks_mut(2 * self.channels)
            .enumerate()
            .with_min_len(TASK_CHUNKS)
            .for_each(|(chunk, out)| f(self.range(chunk * self.chunk), out));
        sums
    }

    /// Hands out the chunks of `to`, and of `also`, which has `per_row` values a row or is empty.
    pub fn write<T: Send>(
        &self,
        to: &mut [f32],
        also: &mut [T],
        per_row: usize,
        f: impl Fn(Range<usize>, &mut [f32], &mut [T]) + Sync,
    ) {
        let each = to.par_chunks_mut(self.chunk).enumerate().with_min_len(TASK_CHUNKS);
        if also.is_empty() {
            return each.for_each(|(chunk, to)| f(self.range(chunk * self.chunk), to, &mut []));
        }
        each.zip(also.par_chunks_mut(self.chunk / self.channels * per_row))
            .for_each(|((chunk, to), also)| f(self.range(chunk * self.chunk), to, also));
    }
}

/// Runs `$body` for groups of channels: `$WIDTH` vectors at once (4, 2 or 1), from channel `$channel` on.
macro_rules! for_channels {
    ($V:ident, $channels:expr, $method:ident, $self:ident) => {
        let mut channel = 0;
        while channel < $channels {
            // SAFETY: the slices hold whole rows of `channels` values (asserted in `run`), and a group reaches at most
            // to the last channel, its last vector partially.
            unsafe {
                match ($channels - channel).div_ceil($V::LANES) {
                    1 => {
                        $self.$method::<$V, 1>(channel);
                        channel += $V::LANES;
                    }
                    2 | 3 => {
                        $self.$method::<$V, 2>(channel);
                        channel += 2 * $V::LANES;
                    }
                    _ => {
                        $self.$method::<$V, 4>(channel);
                        channel += 4 * $V::LANES;
                    }
                }
            }
        }
    };
}

/// `N` vectors from a row, the last one partial where the channels end.
///
/// # Safety
/// `from` is valid for reading `min(left, N * LANES)` values, and `left > (N - 1) * LANES`.
#[inline(always)]
unsafe fn load<V: Vector, X: Element, const N: usize>(from: *const X, left: usize) -> [V; N] {
    let mut out = [V::splat(0.0); N];
    for v in 0..N {
        // SAFETY: the caller's.
        out[v] = unsafe { X::load_up_to(from.add(v * V::LANES), left - v * V::LANES) };
    }
    out
}

/// # Safety
/// As [`load`], for writing.
#[inline(always)]
unsafe fn store<V: Vector, const N: usize>(values: [V; N], to: *mut f32, left: usize) {
    for v in 0..N {
        // SAFETY: the caller's.
        unsafe { values[v].store_up_to(to.add(v * V::LANES), left - v * V::LANES) }
    }
}

/// Mean, then sum of squared deviations, of each channel of a chunk.
pub(super) struct Moments<'a, X> {
    pub channels: usize,
    pub x: &'a [X],
    /// `[2, channels]`
    pub out: &'a mut [f32],
}

impl<X: Element> Kernel for Moments<'_, X> {
    #[inline(always)]
    fn run<V: Vector>(mut self) {
        assert_eq!(self.out.len(), 2 * self.channels);
        for_channels!(V, self.channels, group, self);
    }
}

impl<X: Element> Moments<'_, X> {
    #[inline(always)]
    unsafe fn group<V: Vector, const N: usize>(&mut self, channel: usize) {
        let left = self.channels - channel;
        let rows = self.x.len() / self.channels;
        let reciprocal = V::splat(1.0 / rows as f32);
        // SAFETY: see `for_channels`.
        unsafe {
            let x = self.x.as_ptr().add(channel);
            let mut sums = [V::splat(0.0); N];
            for row in 0..rows {
                let values = load::<V, _, N>(x.add(row * self.channels), left);
                for v in 0..N {
                    sums[v] = sums[v].add(values[v]);
                }
            }
            let mut mean = sums;
            for v in 0..N {
                mean[v] = sums[v].mul(reciprocal);
            }
            // The mean is rounded: what the deviations still sum to corrects both results.
            let (mut rest, mut squares) = ([V::splat(0.0); N], [V::splat(0.0); N]);
            for row in 0..rows {
                let values = load::<V, _, N>(x.add(row * self.channels), left);
                for v in 0..N {
                    let deviation = values[v].sub(mean[v]);
                    rest[v] = rest[v].add(deviation);
                    squares[v] = deviation.mul_add(deviation, squares[v]);
                }
            }
            for v in 0..N {
                let correction = rest[v].mul(reciprocal);
                squares[v] = squares[v].sub(correction.mul(rest[v])).relu();
                mean[v] = mean[v].add(correction);
            }
            store(mean, self.out.as_mut_ptr().add(channel), left);
            store(squares, self.out.as_mut_ptr().add(self.channels + channel), left);
        }
    }
}

/// `y = relu((x - mean) * scale + beta + residual)`, and which values came out above 0.
pub(super) struct Normalise<'a, X> {
    pub channels: usize,
    pub relu: bool,
    pub mean: &'a [f32],
    pub scale: &'a [f32],
    pub beta: &'a [f32],
    pub x: &'a [X],
    pub residual: Option<&'a [f32]>,
    pub y: &'a mut [f32],
    /// [`words`] a row, or empty where nobody will ask.
    pub mask: &'a mut [u16],
}

impl<X: Element> Kernel for Normalise<'_, X> {
    #[inline(always)]
    fn run<V: Vector>(mut self) {
        assert_eq!(self.x.len(), self.y.len());
        assert!(self.residual.is_none_or(|residual| residual.len() == self.y.len()));
        assert!(self.mask.is_empty() || mask_fits::<V>(self.mask, self.channels, self.y.len()));
        for_channels!(V, self.channels, group, self);
    }
}

#[inline(always)]
fn mask_fits<V: Vector>(mask: &[u16], channels: usize, values: usize) -> bool {
    mask.len() == values / channels * words(channels, V::LANES)
}

impl<X: Element> Normalise<'_, X> {
    #[inline(always)]
    unsafe fn group<V: Vector, const N: usize>(&mut self, channel: usize) {
        let left = self.channels - channel;
        let words = words(self.channels, V::LANES);
        let mut word = channel / V::LANES;
        // SAFETY: see `for_channels`.
        unsafe {
            let mean = load::<V, _, N>(self.mean.as_ptr().add(channel), left);
            let scale = load::<V, _, N>(self.scale.as_ptr().add(channel), left);
            let beta = load::<V, _, N>(self.beta.as_ptr().add(channel), left);
            for start in (channel..self.x.len()).step_by(self.channels) {
                let mut values = load::<V, _, N>(self.x.as_ptr().add(start), left);
                for v in 0..N {
                    values[v] = values[v].sub(mean[v]).mul_add(scale[v], beta[v]);
                }
                if let Some(residual) = self.residual {
                    let residual = load::<V, _, N>(residual.as_ptr().add(start), left);
                    for v in 0..N {
                        values[v] = values[v].add(residual[v]);
                    }
                }
                if self.relu {
                    values = values.map(V::relu);
                }
                store(values, self.y.as_mut_ptr().add(start), left);
                if !self.mask.is_empty() {
                    for v in 0..N {
                        self.mask[word + v] = values[v].positive();
                    }
                    word += words;
                }
            }
        }
    }
}

/// `dy` where the ReLU let the value through.
#[inline(always)]
fn masked<V: Vector, const N: usize>(mut dy: [V; N], mask: Option<&[u16]>, word: usize) -> [V; N] {
    if let Some(mask) = mask {
        let mask = &mask[word..word + N];
        for v in 0..N {
            dy[v] = dy[v].only(mask[v]);
        }
    }
    dy
}

/// Sums of `dy`, then of `dy * (x - mean)`, with `dy` masked by the ReLU.
pub(super) struct Sums<'a, X> {
    pub channels: usize,
    pub mean: &'a [f32],
    pub x: &'a [X],
    /// See [`Normalise::mask`].
    pub mask: Option<&'a [u16]>,
    pub dy: &'a [f32],
    /// `[2, channels]`
    pub out: &'a mut [f32],
}

impl<X: Element> Kernel for Sums<'_, X> {
    #[inline(always)]
    fn run<V: Vector>(mut self) {
        let length = self.dy.len();
        assert_eq!(self.x.len(), length);
        assert!(self.mask.is_none_or(|mask| mask_fits::<V>(mask, self.channels, length)));
        assert_eq!(self.out.len(), 2 * self.channels);
        for_channels!(V, self.channels, group, self);
    }
}

impl<X: Element> Sums<'_, X> {
    #[inline(always)]
    unsafe fn group<V: Vector, const N: usize>(&mut self, channel: usize) {
        let left = self.channels - channel;
        let words = words(self.channels, V::LANES);
        let mut word = channel / V::LANES;
        // SAFETY: see `for_channels`.
        unsafe {
            let mean = load::<V, _, N>(self.mean.as_ptr().add(channel), left);
            let (mut plain, mut weighted) = ([V::splat(0.0); N], [V::splat(0.0); N]);
            for start in (channel..self.dy.len()).step_by(self.channels) {
                let x = load::<V, _, N>(self.x.as_ptr().add(start), left);
                let dy = masked(load::<V, _, N>(self.dy.as_ptr().add(start), left), self.mask, word);
                word += words;
                for v in 0..N {
                    plain[v] = plain[v].add(dy[v]);
                    weighted[v] = x[v].sub(mean[v]).mul_add(dy[v], weighted[v]);
                }
            }
            store(plain, self.out.as_mut_ptr().add(channel), left);
            store(weighted, self.out.as_mut_ptr().add(self.channels + channel), left);
        }
    }
}

/// What reaches the input by way of the batch's statistics: `constant + slope * (x - mean)`.
pub(super) struct Through<'a, X> {
    pub mean: &'a [f32],
    pub constant: &'a [f32],
    pub slope: &'a [f32],
    pub x: &'a [X],
}

/// `dx = scale * (dy - through)`, with `dy` masked by the ReLU.
pub(super) struct Backward<'a, X> {
    pub channels: usize,
    pub scale: &'a [f32],
    pub through: Option<Through<'a, X>>,
    /// See [`Normalise::mask`].
    pub mask: Option<&'a [u16]>,
    /// Comes out masked when `dx` has a place of its own, and is that place when not.
    pub dy: &'a mut [f32],
    /// As long as `dy`, or empty.
    pub dx: &'a mut [f32],
}

impl<X: Element> Kernel for Backward<'_, X> {
    #[inline(always)]
    fn run<V: Vector>(mut self) {
        let length = self.dy.len();
        assert!(self.dx.is_empty() || self.dx.len() == length);
        assert!(self.mask.is_none_or(|mask| mask_fits::<V>(mask, self.channels, length)));
        assert!(self.through.as_ref().is_none_or(|through| through.x.len() == length));
        for_channels!(V, self.channels, group, self);
    }
}

impl<X: Element> Backward<'_, X> {
    #[inline(always)]
    unsafe fn group<V: Vector, const N: usize>(&mut self, channel: usize) {
        let left = self.channels - channel;
        let words = words(self.channels, V::LANES);
        let mut word = channel / V::LANES;
        let zero = [V::splat(0.0); N];
        // SAFETY: see `for_channels`.
        unsafe {
            let scale = load::<V, _, N>(self.scale.as_ptr().add(channel), left);
            let (mean, constant, slope) = match &self.through {
                None => (zero, zero, zero),
                Some(through) => (
                    load(through.mean.as_ptr().add(channel), left),
                    load(through.constant.as_ptr().add(channel), left),
                    load(through.slope.as_ptr().add(channel), left),
                ),
            };
            for start in (channel..self.dy.len()).step_by(self.channels) {
                let at = self.dy.as_mut_ptr().add(start);
                let mut dy = masked(load::<V, _, N>(at, left), self.mask, word);
                word += words;
                let to = if self.dx.is_empty() {
                    at
                } else {
                    if self.mask.is_some() {
                        store(dy, at, left);
                    }
                    self.dx.as_mut_ptr().add(start)
                };
                if let Some(through) = &self.through {
                    let x = load::<V, _, N>(through.x.as_ptr().add(start), left);
                    for v in 0..N {
                        dy[v] = dy[v].sub(x[v].sub(mean[v]).mul_add(slope[v], constant[v]));
                    }
                }
                for v in 0..N {
                    dy[v] = dy[v].mul(scale[v]);
                }
                store(dy, to, left);
            }
        }
    }
}
