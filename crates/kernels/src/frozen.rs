//! A network whose weights do not change, prepared once: batch norms folded into convolutions, weights packed, every
//! activation's place in memory decided. It gives logits, and gradients of the pixels.
//!
//! A few images go through the whole network on one thread, so that what one layer writes the next one finds in the
//! cache; threads meet only at the end. Fewer images than threads share the rows of each layer instead. Of the forward
//! pass a gradient needs nothing but which activations were positive, one bit each. After the first pass nothing is
//! allocated but what is returned; the first gradient prepares most weights for the way back, which a network that only
//! answers does without.

mod build;
mod calibrate;
mod epilogue;
mod kernel;
mod pass;
mod trace;

use crate::Level;
use kernel::Kernel;
use std::sync::OnceLock;

pub use build::{Builder, Filter};
pub use trace::Trace;

/// An activation of a [`Frozen`] network, named by its [`Builder`]. Channels-last, `[height, width, channels]` an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Value(usize);

/// What a [`Frozen`] network multiplies on the way there. Sums, activations and the way back are f32 either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// Everything in f32.
    #[default]
    F32,
    /// Activations and weights rounded to bf16 (8 bits of mantissa) where that multiplies faster: convolutions that
    /// Winograd's F(4x4) does not serve, of 32 channels or more. Logits move by some thousandths. The way back is that of
    /// the unrounded weights at the activations that were positive in bf16. See [`Level::multiplies_bf16`].
    Bf16,
    /// Convolutions of what is never negative in 8 bits, summed exactly in 32 and scaled to f32: per output channel for
    /// weights, per tensor for activations, within ranges that were seen before (see [`Frozen::ranges`]). The first
    /// convolution, sums with residuals and linear layers are in f32. There is no way back. See
    /// [`Level::multiplies_int8`].
    Int8,
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        })
    }
}

/// A network, ready to run. See [`Builder`].
#[derive(Debug)]
pub struct Frozen {
    level: Level,
    precision: Precision,
    input: Input,
    layers: Vec<Layer>,
    values: Vec<Extent>,
    /// Values an image of each place in memory, on the way there and on the way back.
    forward: Vec<usize>,
    backward: Vec<usize>,
    /// Words of positive bits an image.
    masks: usize,
}

/// Pixels as they come: `[channels, height, width]`, scaled and shifted by channel.
#[derive(Debug)]
struct Input {
    channels: usize,
    pixels: usize,
    scale: Vec<f32>,
    shift: Vec<f32>,
}

/// How large an activation is and where it lies.
#[derive(Clone, Copy, Debug, Default)]
struct Extent {
    height: usize,
    width: usize,
    channels: usize,
    /// Index into the places on the way there.
    forward: usize,
    /// On the way back, of its gradient.
    backward: usize,
}

impl Extent {
    fn len(&self) -> usize {
        self.height * self.width * self.channels
    }
}

/// What makes an activation from earlier ones; layer `n` makes value `n + 1`.
#[derive(Debug)]
struct Layer {
    from: usize,
    work: Work,
    /// Whether another layer's gradient of `from` was there before this one's, so that it adds to it.
    adds: bool,
}

#[derive(Debug)]
enum Work {
    Conv(Box<Conv>),
    /// 3x3 of stride 2 with one row and column of nothing around; the words of `masks` are places of the maximum.
    MaxPool {
        masks: usize,
    },
    AveragePool,
}

#[derive(Debug)]
struct Conv {
    filter: Filter,
    forward: Kernel,
    /// Nothing until a gradient is asked for, where it can be made of `forward`.
    backward: OnceLock<Kernel>,
    bias: Vec<f32>,
    /// An activation of the same shape that is added.
    residual: Option<Residual>,
    /// Rectified; where the words of positive bits begin.
    relu: Option<usize>,
}

#[derive(Clone, Copy, Debug)]
struct Residual {
    value: usize,
    /// Whether its gradient is added to one that is there; if not, it is this layer's own, which lies where it shall.
    adds: bool,
}

impl Frozen {
    /// What it multiplies in.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Values of an input image, `channels * height * width`.
    pub fn input_len(&self) -> usize {
        self.input.channels * self.input.pixels
    }

    /// The activation that the last layer makes.
    pub fn last(&self) -> Value {
        Value(self.layers.len())
    }

    /// Memory of the packed weights; more once there was a gradient.
    pub fn weight_bytes(&self) -> usize {
        let packed = |layer: &Layer| match &layer.work {
            Work::Conv(conv) => conv.forward.weights() + conv.backward.get().map_or(0, Kernel::weights),
            Work::MaxPool { .. } | Work::AveragePool => 0,
        };
        self.layers.iter().map(packed).sum::<usize>() * size_of::<f32>()
    }

    /// Memory of activations while so many images go forward: those of the images that threads are busy with.
    pub fn working_bytes(&self, images: usize) -> usize {
        let threads = rayon::current_num_threads();
        let busy = images.min(threads * pass::group(images));
        let planes = |layer: &Layer| match &layer.work {
            Work::Conv(conv) => conv.forward.working(pass::group(images)),
            Work::MaxPool { .. } | Work::AveragePool => 0,
        };
        let planes = self.layers.iter().map(planes).max().unwrap_or(0);
        (busy * self.forward.iter().sum::<usize>() + threads * planes) * size_of::<f32>()
    }

    /// Values an image of an activation.
    pub fn len_of(&self, value: Value) -> usize {
        self.values[value.0].len()
    }
}

#[cfg(test)]
mod tests;
