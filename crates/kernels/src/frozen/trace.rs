//! An image that changes window by window: its early activations are kept, and a change costs what depends on it.
//!
//! The later queries of a search like Square attack change a few pixels of an image. A convolution passes a change on to
//! the pixels around it alone, so in the first layers most of what was computed for the last query still holds; those
//! of many rows are kept.
//!
//! Logits are those of a whole pass up to rounding: a Winograd tile that a change reaches in one pixel rounds the others
//! anew. What is kept is always computed from what is kept, so that errors do not grow with the number of changes, and
//! an image's logits depend on its own changes alone.

use super::epilogue::Epilogue;
use super::pass::group;
use super::{Conv, Extent, Filter, Frozen, Layer, Value, Work};
use crate::conv::Window;
use crate::scratch::Scratch;
use rayon::prelude::*;
use std::ops::Range;

/// Rows of an activation from which on a window's surroundings are a part of it that is worth the bookkeeping.
const FEWEST_ROWS: usize = 24;

/// The early activations of an image that changes. See [`Frozen::changed`].
#[derive(Debug)]
pub struct Trace {
    /// Channels-last, the input first.
    values: Vec<Vec<f32>>,
    /// What the last change overwrote: value, where in it, and what was there row by row.
    overwritten: Vec<(usize, Window)>,
    saved: Vec<f32>,
    undone: bool,
}

impl Frozen {
    /// A trace of no image yet: its first change has to be the whole image, and cannot be undone.
    pub fn trace(&self) -> Trace {
        let values = self.values[..=self.kept()].iter().map(|extent| vec![0.0; extent.len()]).collect();
        Trace { values, overwritten: Vec::new(), saved: Vec::new(), undone: false }
    }

    /// Memory of a trace.
    pub fn trace_bytes(&self) -> usize {
        2 * self.values[..=self.kept()].iter().map(Extent::len).sum::<usize>() * size_of::<f32>()
    }

    /// Whether a network has activations worth keeping.
    pub fn traces(&self) -> bool {
        self.kept() > 0
    }

    /// The logits (the last activation) of images that differ from those of their traces in one window each; the traces
    /// are then theirs.
    ///
    /// # Shapes
    /// - `x`: `[images, channels, height, width]`, of which the windows are read
    /// - `out`: `[images, values of the last activation]`, overwritten
    ///
    /// # Panics
    /// When a length is another, a window is empty or reaches beyond the image, or a trace is another network's.
    pub fn changed(&self, traces: &mut [&mut Trace], x: &[f32], windows: &[Window], out: &mut [f32]) {
        let (kept, last) = (Value(self.kept()), self.last());
        let (length_in, length_out) = (self.input_len(), self.len_of(last));
        let images = traces.len();
        assert!(
            x.len() == images * length_in && windows.len() == images && out.len() == images * length_out,
            "{images} traces, {} windows, {} pixels and {} logits do not belong together",
            windows.len(),
            x.len(),
            out.len()
        );
        let length = self.len_of(kept);
        if kept == Value(0) {
            return self.forward(x, last, out);
        }
        let wide = images < rayon::current_num_threads();
        let some = |traces: &mut [&mut Trace], x: &[f32], windows: &[Window], out: &mut [f32]| {
            let mut early = Scratch::of(traces.len() * length);
            let rows = early.as_mut_slice().chunks_exact_mut(length).zip(x.chunks_exact(length_in));
            for ((trace, window), (early, x)) in traces.iter_mut().zip(windows).zip(rows) {
                trace.change(self, x, window);
                early.copy_from_slice(trace.values.last().expect("the input at least"));
            }
            self.there(early.as_slice(), kept, last, out, &mut [], wide);
        };
        let group = if wide { 1 } else { group(images) };
        let rows = (x.par_chunks(group * length_in), windows.par_chunks(group), out.par_chunks_mut(group * length_out));
        let parts = traces.par_chunks_mut(group).zip(rows.0).zip(rows.1).zip(rows.2);
        parts.for_each(|(((traces, x), windows), out)| some(traces, x, windows, out));
    }

    /// The last activation worth keeping: it and all before it come from convolutions and are large, and what follows
    /// needs it alone.
    fn kept(&self) -> usize {
        let large = |value: &usize| {
            matches!(self.layers[*value - 1].work, Work::Conv(_)) && self.values[*value].height >= FEWEST_ROWS
        };
        let alone = |value: &usize| self.layers[*value..].iter().flat_map(Layer::reads).all(|read| read >= *value);
        (1..self.layers.len()).take_while(large).filter(alone).last().unwrap_or(0)
    }
}

impl Trace {
    /// The next change is one of the image before the last change.
    pub fn undo(&mut self) {
        self.undone = true;
    }

    fn go_back(&mut self, net: &Frozen) {
        let mut saved = self.saved.as_slice();
        for (value, region) in &self.overwritten {
            for row in rows_of(region, net.values[*value]) {
                let (mine, rest) = saved.split_at(row.len());
                self.values[*value][row].copy_from_slice(mine);
                saved = rest;
            }
        }
    }

    fn change(&mut self, net: &Frozen, x: &[f32], window: &Window) {
        let image = net.values[0];
        let Window { rows, columns } = window;
        let inside = |range: &Range<usize>, length: usize| range.start < range.end && range.end <= length;
        assert!(
            inside(rows, image.height) && inside(columns, image.width),
            "{window:?} of an image of {}x{}",
            image.height,
            image.width
        );
        assert_eq!(self.values.len(), net.kept() + 1, "activations: of the trace (left), of the network (right)");
        if std::mem::take(&mut self.undone) {
            self.go_back(net);
        }
        self.overwritten.clear();
        self.saved.clear();
        self.enter(net, x, window);
        for number in 0..self.values.len() - 1 {
            let layer = &net.layers[number];
            let Work::Conv(conv) = &layer.work else { unreachable!("kept activations come from convolutions") };
            let to = net.values[number + 1];
            let region = conv.reached(self.region(layer.from), to);
            let region = match conv.residual {
                Some(residual) => region.and(self.region(residual.value)),
                None => region,
            };
            let nothing = region.rows.is_empty() || region.columns.is_empty();
            // What is computed beside the region comes out as it was, up to rounding.
            let computed = conv.forward.covering(&region);
            self.overwrite(number + 1, region, to);
            if nothing {
                continue;
            }
            let (before, rest) = self.values.split_at_mut(number + 1);
            let y = rest[0].as_mut_slice();
            conv.forward.region(&before[layer.from], y, &computed);
            for row in rows_of(&computed, to) {
                net.level.run(Epilogue {
                    y: &mut y[row.clone()],
                    bias: &conv.bias,
                    residual: conv.residual.map(|residual| &before[residual.value][row]),
                    relu: conv.relu.is_some(),
                    masks: &mut [],
                });
            }
        }
    }

    /// The pixels of a window, scaled and shifted.
    fn enter(&mut self, net: &Frozen, x: &[f32], region: &Window) {
        let (input, image) = (&net.input, net.values[0]);
        self.overwrite(0, region.clone(), image);
        for row in rows_of(region, image) {
            let first = row.start / image.channels;
            for (at, to) in self.values[0][row].chunks_exact_mut(image.channels).enumerate() {
                for (channel, to) in to.iter_mut().enumerate() {
                    *to = x[channel * input.pixels + first + at] * input.scale[channel] + input.shift[channel];
                }
            }
        }
    }

    /// What the change under way reached of a value.
    fn region(&self, value: usize) -> &Window {
        &self.overwritten[value].1
    }

    fn overwrite(&mut self, value: usize, region: Window, extent: Extent) {
        for row in rows_of(&region, extent) {
            self.saved.extend_from_slice(&self.values[value][row]);
        }
        self.overwritten.push((value, region));
    }
}

impl Conv {
    /// The pixels that depend on some of the input.
    fn reached(&self, input: &Window, to: Extent) -> Window {
        let Filter { kernel, stride, padding } = self.filter;
        // Output pixel o sees the pixels from o * stride - padding on, `kernel` of them.
        let reached = |from: &Range<usize>, length: usize| {
            let first = (from.start + padding + 1).saturating_sub(kernel).div_ceil(stride);
            let end = (from.end + padding).div_ceil(stride).min(length);
            first.min(end)..end
        };
        Window { rows: reached(&input.rows, to.height), columns: reached(&input.columns, to.width) }
    }
}

impl Window {
    /// The smallest that holds both.
    fn and(self, other: &Self) -> Self {
        let both = |a: Range<usize>, b: &Range<usize>| match (a.is_empty(), b.is_empty()) {
            (true, _) => b.clone(),
            (_, true) => a,
            _ => a.start.min(b.start)..a.end.max(b.end),
        };
        Self { rows: both(self.rows, &other.rows), columns: both(self.columns, &other.columns) }
    }
}

/// The places of a region's values in an activation, row by row.
fn rows_of(region: &Window, extent: Extent) -> impl Iterator<Item = Range<usize>> + use<> {
    let Window { rows, columns } = region.clone();
    rows.map(move |row| {
        let [from, to] = [columns.start, columns.end].map(|column| (row * extent.width + column) * extent.channels);
        from..to
    })
}
