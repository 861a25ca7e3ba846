//! A convolution's weights, prepared in the way that suits its shape.

use super::Precision;
use crate::conv::{Int8, Tile, Walk, Window, Winograd, Write, pairs};
use crate::{Conv2d, Level};
use std::ops::Range;

/// One of the three ways.
#[derive(Debug)]
pub(super) enum Kernel {
    Direct(Walk),
    Winograd(Winograd),
    /// On the way there alone.
    Int8(Int8),
}

impl Kernel {
    /// In bf16 where that is faster: 36 products of f32 do for F(4x4) what takes 64 of F(2x2), and bf16 would be too coarse
    /// for its numbers.
    pub(super) fn forward(level: Level, precision: Precision, conv: &Conv2d, weights: &[f32]) -> Self {
        let bf16 = precision == Precision::Bf16 && pairs(conv.channels_in);
        match (tile(conv), bf16) {
            (Some(Tile::Two), true) => Self::Winograd(Winograd::forward(true, Tile::Two, level, conv, weights)),
            (Some(tile), _) => Self::Winograd(Winograd::forward(false, tile, level, conv, weights)),
            (None, bf16) => Self::Direct(Walk::forward(bf16, level, conv, weights)),
        }
    }

    /// In 8 bits, of activations from 0 to `range`.
    pub(super) fn int8(level: Level, conv: &Conv2d, weights: &[f32], range: f32) -> Self {
        Self::Int8(Int8::new(level, conv, weights, range))
    }

    /// Of the gradient, in f32, from the weights; none where [`Kernel::turned`] can make it later, from much less memory.
    pub(super) fn input_grad(level: Level, precision: Precision, conv: &Conv2d, weights: &[f32]) -> Option<Self> {
        match tile(conv) {
            None => Some(Self::Direct(Walk::input_grad(false, level, conv, weights))),
            Some(Tile::Two) if precision == Precision::Bf16 && pairs(conv.channels_in) => {
                Some(Self::Winograd(Winograd::input_grad(false, Tile::Two, level, conv, weights)))
            }
            Some(_) => None,
        }
    }

    /// Of the gradient, from this one of the way there.
    pub(super) fn turned(&self) -> Option<Self> {
        match self {
            Self::Direct(_) | Self::Int8(_) => None,
            Self::Winograd(winograd) => Some(Self::Winograd(winograd.turned())),
        }
    }

    /// A few images on this thread.
    pub(super) fn images(&self, from: &[f32], to: &mut [f32], write: Write) {
        match self {
            Self::Direct(walk) => walk.images(from, to, write),
            Self::Int8(int8) => int8.images(from, to, write),
            Self::Winograd(winograd) => winograd.images(from, to, write),
        }
    }

    /// Some rows of one image, which begin at a multiple of [`Kernel::rows_together`].
    pub(super) fn rows(&self, from: &[f32], to: &mut [f32], rows: Range<usize>) {
        match self {
            Self::Direct(walk) => walk.rows(from, to, rows),
            Self::Int8(int8) => int8.rows(from, to, rows),
            Self::Winograd(winograd) => winograd.rows(from, to, rows),
        }
    }

    /// The pixels that are computed together with some.
    pub(super) fn covering(&self, region: &Window) -> Window {
        match self {
            Self::Direct(_) | Self::Int8(_) => region.clone(),
            Self::Winograd(winograd) => winograd.covering(region),
        }
    }

    /// Some pixels of one image that [`Kernel::covering`] gave, on this thread; `to` holds the image.
    pub(super) fn region(&self, from: &[f32], to: &mut [f32], region: &Window) {
        match self {
            Self::Direct(walk) => walk.region(from, to, region),
            Self::Int8(int8) => int8.region(from, to, region),
            Self::Winograd(winograd) => winograd.region(from, to, region),
        }
    }

    pub(super) fn rows_together(&self) -> usize {
        match self {
            Self::Direct(_) | Self::Int8(_) => 1,
            Self::Winograd(winograd) => winograd.side(),
        }
    }

    /// Values of the packed weights.
    pub(super) fn weights(&self) -> usize {
        match self {
            Self::Direct(walk) => walk.weights(),
            Self::Int8(int8) => int8.weights(),
            Self::Winograd(winograd) => winograd.weights(),
        }
    }

    /// Values of a thread's working memory for so many images.
    pub(super) fn working(&self, images: usize) -> usize {
        match self {
            Self::Direct(walk) => walk.planes(images),
            Self::Int8(int8) => int8.working(),
            Self::Winograd(winograd) => winograd.working(),
        }
    }
}

/// The tile that saves most, where one serves.
fn tile(conv: &Conv2d) -> Option<Tile> {
    [Tile::Four, Tile::Two].into_iter().find(|&tile| Winograd::serves(tile, conv))
}
