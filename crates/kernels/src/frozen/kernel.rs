//! A convolution's weights, prepared in the way that suits its shape.

use crate::conv::{TILE, Walk, Winograd, Write};
use crate::{Conv2d, Level};
use std::ops::Range;

/// One of the two ways.
#[derive(Debug)]
pub(super) enum Kernel {
    Direct(Walk),
    Winograd(Winograd),
}

impl Kernel {
    pub(super) fn forward(level: Level, conv: &Conv2d, weights: &[f32]) -> Self {
        match Winograd::serves(conv) {
            true => Self::Winograd(Winograd::forward(level, conv, weights)),
            false => Self::Direct(Walk::forward(level, conv, weights)),
        }
    }

    pub(super) fn input_grad(level: Level, conv: &Conv2d, weights: &[f32]) -> Self {
        match Winograd::serves(conv) {
            true => Self::Winograd(Winograd::input_grad(level, conv, weights)),
            false => Self::Direct(Walk::input_grad(level, conv, weights)),
        }
    }

    /// A few images on this thread.
    pub(super) fn images(&self, from: &[f32], to: &mut [f32], write: Write) {
        match self {
            Self::Direct(walk) => walk.images(from, to, write),
            Self::Winograd(winograd) => winograd.images(from, to, write),
        }
    }

    /// Some rows of one image, which begin at a multiple of [`Kernel::rows_together`].
    pub(super) fn rows(&self, from: &[f32], to: &mut [f32], rows: Range<usize>) {
        match self {
            Self::Direct(walk) => walk.rows(from, to, rows),
            Self::Winograd(winograd) => winograd.rows(from, to, rows),
        }
    }

    pub(super) fn rows_together(&self) -> usize {
        match self {
            Self::Direct(_) => 1,
            Self::Winograd(_) => TILE,
        }
    }

    /// Values of the packed weights.
    pub(super) fn weights(&self) -> usize {
        match self {
            Self::Direct(walk) => walk.weights(),
            Self::Winograd(winograd) => winograd.weights(),
        }
    }

    /// Values of a thread's working memory for so many images.
    pub(super) fn working(&self, images: usize) -> usize {
        match self {
            Self::Direct(walk) => walk.planes(images),
            Self::Winograd(winograd) => winograd.working(),
        }
    }
}
