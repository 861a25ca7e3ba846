//! From layers by name to a prepared network.

use super::kernel::Kernel;
use super::{Conv, Extent, Frozen, Input, Layer, Precision, Residual, Value, Work};
use crate::vector::words;
use crate::{Conv2d, Level};
use std::sync::OnceLock;

/// Images that share packed weights on their way through a layer.
pub(super) const GROUP: usize = 16;

/// Places in memory that a pass may need: activations that are alive at once.
pub(super) const MOST_PLACES: usize = 8;

/// A square convolution's shape beside its channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Side of the kernel, in pixels.
    pub kernel: usize,
    /// Pixels from one application of the kernel to the next.
    pub stride: usize,
    /// Rows and columns of zeros on each side of the image.
    pub padding: usize,
}

/// Makes a [`Frozen`] network layer by layer; weights have torch's layouts.
#[derive(Debug)]
pub struct Builder {
    pub(super) frozen: Frozen,
    /// Of each activation in the order they are made, see [`Frozen::ranges`]; empty but in int8.
    ranges: Vec<f32>,
}

impl Builder {
    /// A network of images `[channels, height, width]`, each channel first multiplied by `scale` and then added to `shift`
    /// (both `[channels]`); returns its input too.
    ///
    /// # Panics
    /// When a size is zero or scale and shift have other lengths.
    pub fn new([channels, height, width]: [usize; 3], scale: &[f32], shift: &[f32]) -> (Self, Value) {
        Self::at(Level::current(), [channels, height, width], scale, shift)
    }

    /// The same, multiplying in another precision from here on.
    ///
    /// # Panics
    /// In int8, for which [`Builder::quantised`] is.
    #[must_use]
    pub fn with(mut self, precision: Precision) -> Self {
        assert!(precision != Precision::Int8, "int8 needs ranges: use `quantised`");
        self.frozen.precision = precision;
        self
    }

    /// The same in [`Precision::Int8`], `ranges` being those of the same layers in f32.
    #[must_use]
    pub fn quantised(mut self, ranges: &[f32]) -> Self {
        self.frozen.precision = Precision::Int8;
        self.ranges = ranges.to_vec();
        self
    }

    pub(super) fn at(
        level: Level,
        [channels, height, width]: [usize; 3],
        scale: &[f32],
        shift: &[f32],
    ) -> (Self, Value) {
        assert!(channels * height * width > 0, "an image of {channels}x{height}x{width}");
        assert!(scale.len() == channels && shift.len() == channels, "scale and shift are one value a channel");
        let input = Input { channels, pixels: height * width, scale: scale.to_vec(), shift: shift.to_vec() };
        let values = vec![Extent { height, width, channels, ..Extent::default() }];
        let (layers, forward, backward) = (Vec::new(), Vec::new(), Vec::new());
        let precision = Precision::F32;
        (
            Self {
                frozen: Frozen { level, precision, input, layers, values, forward, backward, masks: 0 },
                ranges: Vec::new(),
            },
            Value(0),
        )
    }

    /// `relu(conv(from) + bias + residual)`, the last two where asked.
    ///
    /// # Shapes
    /// - `weights`: `[out, in, kernel, kernel]`, `bias`: `[out]`
    ///
    /// # Panics
    /// When shapes do not fit.
    pub fn conv(
        &mut self,
        from: Value,
        filter: Filter,
        weights: &[f32],
        bias: &[f32],
        residual: Option<Value>,
        relu: bool,
    ) -> Value {
        let Extent { height, width, channels, .. } = self.frozen.values[from.0];
        let Filter { kernel, stride, padding } = filter;
        let (channels_in, channels_out) = (channels, bias.len());
        let conv = Conv2d { batch: GROUP, height, width, channels_in, channels_out, kernel, stride, padding };
        assert_eq!(weights.len(), conv.weight_len(), "weights: given (left), wanted by {conv:?} (right)");
        let to =
            Extent { height: conv.out_height(), width: conv.out_width(), channels: channels_out, ..Extent::default() };
        if let Some(value) = residual {
            let Extent { height, width, channels, .. } = self.frozen.values[value.0];
            assert_eq!(
                [height, width, channels],
                [to.height, to.width, to.channels],
                "residual (left), output (right)"
            );
        }
        let (level, precision) = (self.frozen.level, self.frozen.precision);
        let relu = relu.then(|| self.masks(to.height * to.width * words(channels_out, level.lanes())));
        let (forward, backward) = match self.range(from) {
            Some(range) => (Kernel::int8(level, &conv, weights, range), None),
            None => {
                let precision = if precision == Precision::Int8 { Precision::F32 } else { precision };
                let forward = Kernel::forward(level, precision, &conv, weights);
                // In int8 there is no way back.
                let back = self.frozen.precision != Precision::Int8;
                (forward, back.then(|| Kernel::input_grad(level, precision, &conv, weights)).flatten())
            }
        };
        let work = Conv {
            filter,
            forward,
            backward: backward.map_or_else(OnceLock::new, OnceLock::from),
            bias: bias.to_vec(),
            residual: residual.map(|value| Residual { value: value.0, adds: false }),
            relu,
        };
        self.push(from, Work::Conv(Box::new(work)), to)
    }

    /// A linear layer on all values of an activation, whose weights count them channel by channel.
    ///
    /// # Shapes
    /// - `weights`: `[out, channels * height * width]`, `bias`: `[out]`
    ///
    /// # Panics
    /// When shapes do not fit.
    pub fn linear(&mut self, from: Value, weights: &[f32], bias: &[f32], relu: bool) -> Value {
        let Extent { height, width, channels, .. } = self.frozen.values[from.0];
        let (pixels, features) = (height * width, height * width * channels);
        assert_eq!(weights.len(), features * bias.len(), "weights: given (left), wanted (right)");
        let mut turned = weights.to_vec();
        for (to, from) in turned.chunks_exact_mut(features).zip(weights.chunks_exact(features)) {
            crate::nchw_to_nhwc(channels, pixels, from, to);
        }
        // An activation is its values in a row as well.
        let flat = Extent { height: 1, width: 1, channels: features, ..self.frozen.values[from.0] };
        let shaped = std::mem::replace(&mut self.frozen.values[from.0], flat);
        let one = Filter { kernel: 1, stride: 1, padding: 0 };
        let to = self.conv(from, one, &turned, bias, None, relu);
        self.frozen.values[from.0] = shaped;
        to
    }

    /// The maximum of 3x3 pixels, every second row and column, as the stem of a residual network has it.
    pub fn max_pool(&mut self, from: Value) -> Value {
        let Extent { height, width, channels, .. } = self.frozen.values[from.0];
        let to = Extent { height: (height - 1) / 2 + 1, width: (width - 1) / 2 + 1, channels, ..Extent::default() };
        let masks = self.masks(to.len());
        self.push(from, Work::MaxPool { masks }, to)
    }

    /// The mean over all pixels.
    pub fn average_pool(&mut self, from: Value) -> Value {
        let Extent { channels, .. } = self.frozen.values[from.0];
        self.push(from, Work::AveragePool, Extent { height: 1, width: 1, channels, ..Extent::default() })
    }

    /// The network.
    ///
    /// # Panics
    /// When it has no layer, or an activation that nothing uses but the last, or more than 8 that are alive at once.
    pub fn build(self) -> Frozen {
        let mut frozen = self.frozen;
        assert!(!frozen.layers.is_empty(), "a network has a layer or more");
        frozen.place_activations();
        frozen.place_gradients();
        let places = frozen.forward.len().max(frozen.backward.len());
        assert!(places <= MOST_PLACES, "{places} activations are alive at once, more than {MOST_PLACES}");
        frozen
    }

    /// Of an activation that a convolution in int8 can take: one of pixels that is never negative.
    fn range(&self, value: Value) -> Option<f32> {
        let Extent { height, width, .. } = self.frozen.values[value.0];
        let mut from = value.0.checked_sub(1).map(|layer| &self.frozen.layers[layer])?;
        while matches!(from.work, Work::MaxPool { .. } | Work::AveragePool) {
            from = from.from.checked_sub(1).map(|layer| &self.frozen.layers[layer])?;
        }
        let Work::Conv(conv) = &from.work else { return None };
        // A linear layer's input is one pixel.
        if self.frozen.precision != Precision::Int8 || conv.relu.is_none() || height * width == 1 {
            return None;
        }
        let range = self.ranges.get(value.0);
        Some(*range.unwrap_or_else(|| panic!("{} ranges tell nothing of activation {}", self.ranges.len(), value.0)))
    }

    fn masks(&mut self, words: usize) -> usize {
        let from = self.frozen.masks;
        self.frozen.masks += words;
        from
    }

    fn push(&mut self, from: Value, work: Work, to: Extent) -> Value {
        self.frozen.layers.push(Layer { from: from.0, work, adds: false });
        self.frozen.values.push(to);
        Value(self.frozen.layers.len())
    }
}

/// Places in memory, each as large as the largest that lies there.
#[derive(Default)]
struct Places {
    sizes: Vec<usize>,
    free: Vec<usize>,
}

impl Places {
    /// The free place that has to grow least.
    fn take(&mut self, size: usize) -> usize {
        let best = (0..self.free.len()).min_by_key(|&at| {
            let there = self.sizes[self.free[at]];
            (size.saturating_sub(there), there)
        });
        let place = match best {
            Some(at) => self.free.swap_remove(at),
            None => {
                self.sizes.push(0);
                self.sizes.len() - 1
            }
        };
        self.sizes[place] = self.sizes[place].max(size);
        place
    }

    fn give(&mut self, place: usize) {
        self.free.push(place);
    }
}

impl Frozen {
    /// The last layer that reads each value; its own where none does.
    fn last_reader(&self) -> Vec<usize> {
        let mut last: Vec<usize> = (0..self.values.len()).map(|value| value.saturating_sub(1)).collect();
        for (number, layer) in self.layers.iter().enumerate() {
            for value in layer.reads() {
                last[value] = number;
            }
        }
        last
    }

    fn place_activations(&mut self) {
        let last = self.last_reader();
        let mut places = Places::default();
        self.values[0].forward = places.take(self.values[0].len());
        for number in 0..self.layers.len() {
            self.values[number + 1].forward = places.take(self.values[number + 1].len());
            for value in 0..=number {
                if last[value] == number {
                    places.give(self.values[value].forward);
                }
            }
        }
        self.forward = places.sizes;
    }

    fn place_gradients(&mut self) {
        let mut places = Places::default();
        let mut there = vec![false; self.values.len()];
        let end = self.layers.len();
        self.values[end].backward = places.take(self.values[end].len());
        there[end] = true;
        for number in (0..end).rev() {
            assert!(there[number + 1], "nothing uses activation {}", number + 1);
            let from = self.layers[number].from;
            if !there[from] {
                self.values[from].backward = places.take(self.values[from].len());
            }
            self.layers[number].adds = std::mem::replace(&mut there[from], true);
            let own = self.values[number + 1].backward;
            let Work::Conv(conv) = &mut self.layers[number].work else {
                places.give(own);
                continue;
            };
            match &mut conv.residual {
                Some(residual) if !there[residual.value] => {
                    // The gradient of a sum is that of its parts: it stays where it is under another name.
                    residual.adds = false;
                    self.values[residual.value].backward = own;
                    there[residual.value] = true;
                }
                Some(residual) => {
                    residual.adds = true;
                    places.give(own);
                }
                None => places.give(own),
            }
        }
        self.backward = places.sizes;
    }
}

impl Layer {
    /// The values that it is made from.
    pub(super) fn reads(&self) -> impl Iterator<Item = usize> {
        let residual = match &self.work {
            Work::Conv(conv) => conv.residual.map(|residual| residual.value),
            Work::MaxPool { .. } | Work::AveragePool => None,
        };
        std::iter::once(self.from).chain(residual)
    }
}
