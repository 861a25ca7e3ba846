//! What follows a convolution's sums, and what precedes its gradient: passes over rows of channels.

use crate::level::Kernel;
use crate::vector::{Vector, words};

/// `y = relu(y + bias + residual)`, and which came out above 0.
pub(super) struct Epilogue<'a> {
    /// `[rows, channels]`.
    pub y: &'a mut [f32],
    /// `[channels]`.
    pub bias: &'a [f32],
    /// `[rows, channels]`.
    pub residual: Option<&'a [f32]>,
    pub relu: bool,
    /// [`words`] a row, or empty where nobody will ask.
    pub masks: &'a mut [u16],
}

impl Kernel for Epilogue<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        match (self.residual.is_some(), self.relu) {
            (false, false) => self.rows::<V, false, false>(),
            (false, true) => self.rows::<V, false, true>(),
            (true, false) => self.rows::<V, true, false>(),
            (true, true) => self.rows::<V, true, true>(),
        }
    }
}

impl Epilogue<'_> {
    #[inline(always)]
    fn rows<V: Vector, const RESIDUAL: bool, const RELU: bool>(self) {
        let Self { y, bias, residual, masks, .. } = self;
        let channels = bias.len();
        let words = words(channels, V::LANES);
        let residual = residual.unwrap_or(&[]);
        assert!(y.len().is_multiple_of(channels) && (!RESIDUAL || residual.len() == y.len()));
        assert!(masks.is_empty() || masks.len() == y.len() / channels * words);
        let keeps = RELU && !masks.is_empty();
        for (row, y) in y.chunks_exact_mut(channels).enumerate() {
            for word in 0..words {
                let (lane, count) = (word * V::LANES, channels - word * V::LANES);
                // SAFETY: `count` values lie at `lane` in the row, in the bias and in the residual.
                unsafe {
                    let at = y.as_mut_ptr().add(lane);
                    let mut sum = V::load_up_to(at, count).add(V::load_up_to(bias.as_ptr().add(lane), count));
                    if RESIDUAL {
                        sum = sum.add(V::load_up_to(residual.as_ptr().add(row * channels + lane), count));
                    }
                    if RELU {
                        sum = sum.relu();
                    }
                    sum.store_up_to(at, count);
                    if keeps {
                        masks[row * words + word] = sum.positive();
                    }
                }
            }
        }
    }
}

/// `dy = 0` where the activation was not positive.
pub(super) struct Gate<'a> {
    /// `[rows, channels]`.
    pub dy: &'a mut [f32],
    pub channels: usize,
    pub masks: &'a [u16],
}

impl Kernel for Gate<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { dy, channels, masks } = self;
        let words = words(channels, V::LANES);
        assert_eq!(masks.len(), dy.len() / channels * words, "words: given (left), wanted (right)");
        for (dy, masks) in dy.chunks_exact_mut(channels).zip(masks.chunks_exact(words)) {
            for (word, &bits) in masks.iter().enumerate() {
                let (lane, count) = (word * V::LANES, channels - word * V::LANES);
                // SAFETY: `count` values lie at `lane`.
                unsafe {
                    let at = dy.as_mut_ptr().add(lane);
                    V::load_up_to(at, count).only(bits).store_up_to(at, count);
                }
            }
        }
    }
}
