//! The passes: there for a value, there and back for a gradient of the pixels.

use super::build::{GROUP, MOST_PLACES};
use super::epilogue::{Epilogue, Gate};
use super::{Conv, Extent, Frozen, Precision, Value, Work};
use crate::conv::Write;
use crate::scratch::Scratch;
use crate::vector::words;
use rayon::prelude::*;

impl Frozen {
    /// The activation `to` of every image.
    ///
    /// # Shapes
    /// - `x`: `[images, channels, height, width]`
    /// - `out`: `[images, height, width, channels]` of `to`, overwritten
    ///
    /// # Panics
    /// When a length is another.
    pub fn forward(&self, x: &[f32], to: Value, out: &mut [f32]) {
        self.between(x, Value(0), to, out);
    }

    /// The activation `to` from the activation `from`, when nothing between them needs an earlier one.
    ///
    /// # Shapes
    /// - `x`: `[images, height, width, channels]` of `from` (the input alone is channels-first), `out`: the same of `to`
    ///
    /// # Panics
    /// When a length is another, or a layer between them reads something earlier.
    pub fn between(&self, x: &[f32], from: Value, to: Value, out: &mut [f32]) {
        let images = self.images(x, from, to, out.len());
        let reads_earlier = |number: usize| self.layers[number].reads().any(|value| value < from.0);
        assert!(from < to && !(from.0..to.0).any(reads_earlier), "{to:?} is not made from {from:?} alone");
        let (length_in, length_out) = (self.values[from.0].len(), self.values[to.0].len());
        if images < rayon::current_num_threads() {
            for (x, out) in x.chunks_exact(length_in).zip(out.chunks_exact_mut(length_out)) {
                self.there(x, from, to, out, &mut [], true);
            }
            return;
        }
        let group = group(images);
        x.par_chunks(group * length_in)
            .zip(out.par_chunks_mut(group * length_out))
            .for_each(|(x, out)| self.there(x, from, to, out, &mut [], false));
    }

    /// The activation `to` of every image, and the gradient of `sum(to * weights)` with respect to the pixels; `weights`
    /// gives values of `to`'s shape when told `to`. An image whose weights are all 0 has a gradient of 0, at no cost.
    ///
    /// # Shapes
    /// - `x`, `dx`: `[images, channels, height, width]`, `out`: `[images, height, width, channels]` of `to`
    ///
    /// # Panics
    /// When a length is another, a layer before `to` is not needed for it, or the network is in int8.
    pub fn gradient(
        &self,
        x: &[f32],
        to: Value,
        weights: &mut dyn FnMut(&[f32]) -> Vec<f32>,
        out: &mut [f32],
        dx: &mut [f32],
    ) {
        let images = self.images(x, Value(0), to, out.len());
        let beyond = self.layers[to.0..].iter().flat_map(super::Layer::reads);
        assert!(beyond.min().is_none_or(|value| value >= to.0), "layers behind {to:?} read something before it");
        assert_eq!(dx.len(), x.len(), "values: of the gradient (left), of the images (right)");
        assert!(self.precision != Precision::Int8, "there is no way back in int8");
        self.prepare_back(to);
        let (length_in, length_out, words) = (self.input_len(), self.values[to.0].len(), self.masks.max(1));
        let group = group(images);
        let mut masks = vec![0u16; images * words];
        x.par_chunks(group * length_in)
            .zip(out.par_chunks_mut(group * length_out))
            .zip(masks.par_chunks_mut(group * words))
            .for_each(|((x, out), masks)| self.there(x, Value(0), to, out, masks, false));
        let weights = weights(out);
        assert_eq!(weights.len(), out.len(), "weights (left), values of {to:?} (right)");
        dx.par_chunks_mut(group * length_in)
            .zip(weights.par_chunks(group * length_out))
            .zip(masks.par_chunks(group * words))
            .for_each(|((dx, weights), masks)| self.back_where_wanted(weights, to, masks, dx));
    }

    /// The way back of those of a few images that have weights.
    fn back_where_wanted(&self, weights: &[f32], to: Value, masks: &[u16], dx: &mut [f32]) {
        let (length_in, length_out, words) = (self.input_len(), self.values[to.0].len(), self.masks.max(1));
        let wants = |image: usize| weights[image * length_out..][..length_out].iter().any(|weight| *weight != 0.0);
        let images = weights.len() / length_out;
        let mut from = 0;
        while from < images {
            let wanted = wants(from);
            let end = (from + 1..images).find(|&image| wants(image) != wanted).unwrap_or(images);
            let dx = &mut dx[from * length_in..end * length_in];
            if wanted {
                self.back(&weights[from * length_out..end * length_out], to, &masks[from * words..end * words], dx);
            } else {
                dx.fill(0.0);
            }
            from = end;
        }
    }

    /// The weights for the way back from `to`.
    fn prepare_back(&self, to: Value) {
        for layer in &self.layers[..to.0] {
            if let Work::Conv(conv) = &layer.work
                && conv.backward.get().is_none()
                && let Some(turned) = conv.forward.turned()
            {
                // Two may do this at once: whoever waited here could hold a thread that the other needs.
                let _ = conv.backward.set(turned);
            }
        }
    }

    fn images(&self, x: &[f32], from: Value, to: Value, out: usize) -> usize {
        let (length_in, length_out) = (self.values[from.0].len(), self.values[to.0].len());
        let images = x.len() / length_in;
        assert!(
            x.len() == images * length_in && out == images * length_out,
            "{} values are not images of {length_in}, or {out} not as many of {length_out}",
            x.len()
        );
        images
    }

    /// A few images through the layers on this thread, or, when `wide`, one on all of them.
    pub(super) fn there(&self, x: &[f32], from: Value, to: Value, out: &mut [f32], masks: &mut [u16], wide: bool) {
        let images = x.len() / self.values[from.0].len();
        let mut places = memory(&self.forward, images);
        let start = self.values[from.0];
        let begin = &mut places[start.forward].as_mut_slice()[..x.len()];
        if from.0 == 0 {
            self.enter(x, begin)
        } else {
            begin.copy_from_slice(x)
        }
        for number in from.0..to.0 {
            self.layer(number, images, &mut places, masks, wide);
        }
        out.copy_from_slice(&places[self.values[to.0].forward].as_slice()[..out.len()]);
    }

    /// One layer of [`Frozen::there`].
    pub(super) fn layer(
        &self,
        number: usize,
        images: usize,
        places: &mut [Scratch; MOST_PLACES],
        masks: &mut [u16],
        wide: bool,
    ) {
        let target = self.values[number + 1];
        // Taken out, so that it can be written while others are read.
        let mut made = std::mem::take(&mut places[target.forward]);
        let y = &mut made.as_mut_slice()[..target.len() * images];
        let layer = &self.layers[number];
        let extent = self.values[layer.from];
        let x = &places[extent.forward].as_slice()[..extent.len() * images];
        match &layer.work {
            Work::Conv(conv) => {
                let residual =
                    conv.residual.map(|residual| &places[self.values[residual.value].forward].as_slice()[..y.len()]);
                if wide {
                    self.share(conv, x, y, residual, target)
                } else {
                    self.conv(conv, x, y, residual, masks, target)
                }
            }
            Work::MaxPool { masks: at } => max_pool(extent, target, images, x, y, *at, masks),
            Work::AveragePool => average_pool(extent.channels, x, y),
        }
        places[target.forward] = made;
    }

    fn conv(&self, conv: &Conv, x: &[f32], y: &mut [f32], residual: Option<&[f32]>, masks: &mut [u16], to: Extent) {
        conv.forward.images(x, y, Write::Over);
        let length = to.len();
        let images = y.len() / length;
        let (all, words) = (masks.len() / images, self.words_of(to));
        for image in 0..images {
            let mine = match conv.relu {
                Some(at) if all > 0 => &mut masks[image * all + at..][..words],
                _ => &mut [],
            };
            self.level.run(Epilogue {
                y: &mut y[image * length..][..length],
                bias: &conv.bias,
                residual: residual.map(|residual| &residual[image * length..][..length]),
                relu: conv.relu.is_some(),
                masks: mine,
            });
        }
    }

    /// One image's layer by rows on all threads.
    fn share(&self, conv: &Conv, x: &[f32], y: &mut [f32], residual: Option<&[f32]>, to: Extent) {
        let row = to.width * to.channels;
        let rows = to.height.div_ceil(rayon::current_num_threads()).next_multiple_of(conv.forward.rows_together());
        let finish = |number: usize, y: &mut [f32]| {
            let first = number * rows;
            conv.forward.rows(x, y, first..first + y.len() / row);
            let residual = residual.map(|residual| &residual[first * row..][..y.len()]);
            let relu = conv.relu.is_some();
            self.level.run(Epilogue { y, bias: &conv.bias, residual, relu, masks: &mut [] });
        };
        if to.height == 1 {
            finish(0, y);
        } else {
            y.par_chunks_mut(rows * row).enumerate().for_each(|(number, y)| finish(number, y));
        }
    }

    fn words_of(&self, to: Extent) -> usize {
        to.height * to.width * words(to.channels, self.level.lanes())
    }

    /// The way back of a few images on this thread.
    fn back(&self, weights: &[f32], to: Value, masks: &[u16], dx: &mut [f32]) {
        let images = weights.len() / self.values[to.0].len();
        let all = masks.len() / images;
        let mut places = memory(&self.backward, images);
        let end = self.values[to.0];
        places[end.backward].as_mut_slice()[..weights.len()].copy_from_slice(weights);
        for number in (0..to.0).rev() {
            let (layer, of) = (&self.layers[number], self.values[number + 1]);
            let from = self.values[layer.from];
            let mut own = std::mem::take(&mut places[of.backward]);
            let dy = &mut own.as_mut_slice()[..of.len() * images];
            let dx = &mut places[from.backward].as_mut_slice()[..from.len() * images];
            let write = if layer.adds { Write::Add } else { Write::Over };
            match &layer.work {
                Work::Conv(conv) => {
                    if let Some(at) = conv.relu {
                        let words = self.words_of(of);
                        for (image, dy) in dy.chunks_exact_mut(of.len()).enumerate() {
                            let masks = &masks[image * all + at..][..words];
                            self.level.run(Gate { dy, channels: of.channels, masks });
                        }
                    }
                    conv.backward.get().expect("prepared").images(dy, dx, write);
                    if let Some(residual) = conv.residual
                        && residual.adds
                    {
                        let target = &mut places[self.values[residual.value].backward].as_mut_slice()[..dy.len()];
                        target.iter_mut().zip(&*dy).for_each(|(to, from)| *to += from);
                    }
                }
                Work::MaxPool { masks: at } => {
                    if write == Write::Over {
                        dx.fill(0.0);
                    }
                    for (image, (dy, dx)) in dy.chunks_exact(of.len()).zip(dx.chunks_exact_mut(from.len())).enumerate()
                    {
                        let places = &masks[image * all + at..][..of.len()];
                        max_pool_back(from, of, dy, dx, places);
                    }
                }
                Work::AveragePool => {
                    let scale = 1.0 / (from.height * from.width) as f32;
                    for (dy, dx) in dy.chunks_exact(of.len()).zip(dx.chunks_exact_mut(from.len())) {
                        for dx in dx.chunks_exact_mut(of.channels) {
                            for (dx, dy) in dx.iter_mut().zip(dy) {
                                *dx = dy * scale + if write == Write::Add { *dx } else { 0.0 };
                            }
                        }
                    }
                }
            }
            places[of.backward] = own;
        }
        self.leave(&places[self.values[0].backward].as_slice()[..dx.len()], dx);
    }

    /// Pixels channel by channel to channels-last, scaled and shifted.
    pub(super) fn enter(&self, x: &[f32], to: &mut [f32]) {
        let input = &self.input;
        let (pixels, channels) = (input.pixels, input.channels);
        for (x, to) in x.chunks_exact(pixels * channels).zip(to.chunks_exact_mut(pixels * channels)) {
            for (channel, x) in x.chunks_exact(pixels).enumerate() {
                let (scale, shift) = (input.scale[channel], input.shift[channel]);
                for (to, x) in to[channel..].iter_mut().step_by(channels).zip(x) {
                    *to = x * scale + shift;
                }
            }
        }
    }

    /// A gradient's way back through [`Frozen::enter`].
    fn leave(&self, from: &[f32], dx: &mut [f32]) {
        let (pixels, channels) = (self.input.pixels, self.input.channels);
        for (from, dx) in from.chunks_exact(pixels * channels).zip(dx.chunks_exact_mut(pixels * channels)) {
            for (channel, dx) in dx.chunks_exact_mut(pixels).enumerate() {
                let scale = self.input.scale[channel];
                for (dx, from) in dx.iter_mut().zip(from[channel..].iter().step_by(channels)) {
                    *dx = from * scale;
                }
            }
        }
    }
}

/// Memory for so many values an image at every place.
pub(super) fn memory(sizes: &[usize], images: usize) -> [Scratch; MOST_PLACES] {
    std::array::from_fn(|place| sizes.get(place).map_or_else(Scratch::default, |size| Scratch::of(size * images)))
}

/// Images that go through the network together: some for each thread, so that none waits long for another.
pub(super) fn group(images: usize) -> usize {
    images.div_ceil(2 * rayon::current_num_threads()).clamp(1, GROUP / 2)
}

fn average_pool(channels: usize, x: &[f32], y: &mut [f32]) {
    let pixels = x.len() / y.len();
    let scale = 1.0 / pixels as f32;
    for (x, y) in x.chunks_exact(pixels * channels).zip(y.chunks_exact_mut(channels)) {
        y.fill(0.0);
        for x in x.chunks_exact(channels) {
            y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
        }
        y.iter_mut().for_each(|y| *y *= scale);
    }
}

/// The pixels of the window of output pixel `at`, in one direction.
fn window(at: usize, length: usize) -> std::ops::Range<usize> {
    (2 * at).saturating_sub(1)..(2 * at + 2).min(length)
}

fn max_pool(from: Extent, to: Extent, images: usize, x: &[f32], y: &mut [f32], at: usize, masks: &mut [u16]) {
    let all = masks.len() / images;
    let channels = to.channels;
    for image in 0..images {
        let x = &x[image * from.len()..][..from.len()];
        let y = &mut y[image * to.len()..][..to.len()];
        let mut places = if all > 0 { &mut masks[image * all + at..][..to.len()] } else { &mut [][..] };
        for (pixel, y) in y.chunks_exact_mut(channels).enumerate() {
            y.fill(f32::NEG_INFINITY);
            let (row, column) = (pixel / to.width, pixel % to.width);
            for iy in window(row, from.height) {
                for ix in window(column, from.width) {
                    let place = ((iy + 1 - 2 * row) * 3 + ix + 1 - 2 * column) as u16;
                    let x = &x[(iy * from.width + ix) * channels..][..channels];
                    for channel in 0..channels {
                        // A NaN wins, as it does in torch.
                        if x[channel] > y[channel] || x[channel].is_nan() {
                            y[channel] = x[channel];
                            if let Some(kept) = places.get_mut(channel) {
                                *kept = place;
                            }
                        }
                    }
                }
            }
            places = places.split_at_mut_checked(channels).map_or(&mut [][..], |(_, rest)| rest);
        }
    }
}

fn max_pool_back(from: Extent, to: Extent, dy: &[f32], dx: &mut [f32], places: &[u16]) {
    for (at, (dy, place)) in dy.iter().zip(places).enumerate() {
        let (pixel, channel) = (at / to.channels, at % to.channels);
        let (row, column) = (pixel / to.width, pixel % to.width);
        let (ky, kx) = (usize::from(place / 3), usize::from(place % 3));
        let (iy, ix) = (2 * row + ky - 1, 2 * column + kx - 1);
        dx[(iy * from.width + ix) * from.channels + channel] += dy;
    }
}
