//! The gradient with respect to the source image, operation by operation, as a gather in a fixed order.
//!
//! Each function takes the gradient with respect to its operation's output and turns it, in place, into the one with
//! respect to its input. Where a value is cut off at 0 or 1 none passes; what rounding alone cuts off passes. Where an
//! operation has a corner (equal channels in [`hue_backward`], the threshold in [`solarize_backward`]) it is the
//! derivative on the side that the forward pass took.

use super::blur;
use super::colour::{GRAY, gray, mean_gray};
use super::resize::Axes;
use super::{Scratch, Source, assert_view, brightness, contrast, grayscale, hue, resized_crop, saturation};
#[cfg(not(feature = "std"))]
use crate::float::Euclid as _;
use alloc::{vec, vec::Vec};
use gabion_spec::{Draw, JitterOp};
#[cfg(feature = "std")]
use rayon::prelude::*;

/// An operation of a draw, in the order in which they are applied after the crop.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    Jitter(JitterOp),
    Grayscale,
    Blur,
    Solarize,
}

fn stages(draw: &Draw) -> Vec<Stage> {
    let mut stages = Vec::with_capacity(7);
    if draw.jitter != 0 {
        stages.extend(draw.jitter_order().map(Stage::Jitter));
    }
    if draw.grayscale != 0 {
        stages.push(Stage::Grayscale);
    }
    if draw.blur_sigma > 0.0 {
        stages.push(Stage::Blur);
    }
    if draw.solarize < Draw::NO_SOLARIZE {
        stages.push(Stage::Solarize);
    }
    stages
}

/// The gradient with respect to the crop (after resize and flip), from that with respect to the view, in place.
///
/// # Shapes
/// `gradient` `[3, height, width]` for `size` = `[height, width]`.
///
/// # Panics
/// As [`super::apply`].
pub fn colour_backward(source: Source, draw: &Draw, size: [u32; 2], gradient: &mut [f32], scratch: &mut Scratch) {
    assert_view(gradient, size);
    let mut crop = vec![0.0; gradient.len()];
    resized_crop(source, draw, size, &mut crop, scratch);
    let stages = stages(draw);
    // The input of each stage.
    let mut inputs = Vec::with_capacity(stages.len());
    for stage in &stages {
        inputs.push(crop.clone());
        match stage {
            Stage::Jitter(JitterOp::Brightness) => brightness(&mut crop, draw.brightness),
            Stage::Jitter(JitterOp::Contrast) => contrast(&mut crop, draw.contrast),
            Stage::Jitter(JitterOp::Saturation) => saturation(&mut crop, draw.saturation),
            Stage::Jitter(JitterOp::Hue) => hue(&mut crop, draw.hue),
            Stage::Grayscale => grayscale(&mut crop),
            Stage::Blur => blur::blur(&mut crop, size, draw, scratch),
            Stage::Solarize => {}
        }
    }
    for (stage, input) in stages.iter().zip(&mut inputs).rev() {
        match stage {
            Stage::Jitter(JitterOp::Brightness) => brightness_backward(input, draw.brightness, gradient),
            Stage::Jitter(JitterOp::Contrast) => contrast_backward(input, draw.contrast, gradient),
            Stage::Jitter(JitterOp::Saturation) => saturation_backward(input, draw.saturation, gradient),
            Stage::Jitter(JitterOp::Hue) => hue_backward(input, draw.hue, gradient),
            Stage::Grayscale => grayscale_backward(gradient),
            Stage::Blur => blur::blur_backward(gradient, size, draw, scratch),
            Stage::Solarize => solarize_backward(input, draw.solarize, gradient),
        }
    }
}

/// Whether a blend passed its clamp.
#[inline(always)]
fn passed(value: f32) -> f32 {
    if (0.0..=1.0).contains(&value) { 1.0 } else { 0.0 }
}

/// The backward of [`super::brightness`].
pub fn brightness_backward(input: &[f32], factor: f32, gradient: &mut [f32]) {
    for (g, x) in gradient.iter_mut().zip(input) {
        *g *= factor * passed(x * factor);
    }
}

/// The backward of [`super::contrast`], through the mean as well.
pub fn contrast_backward(input: &mut [f32], factor: f32, gradient: &mut [f32]) {
    let offset = (1.0 - factor) * mean_gray(input);
    let mut sum = 0.0;
    for (g, x) in gradient.iter_mut().zip(input.iter()) {
        *g *= passed(x * factor + offset);
        sum += *g;
    }
    let area = gradient.len() / 3;
    let shared = (1.0 - factor) * sum / area as f32;
    for (channel, weight) in gradient.chunks_exact_mut(area).zip(GRAY) {
        for g in channel {
            *g = *g * factor + weight * shared;
        }
    }
}

/// Calls `f` with the values and the gradients of each pixel.
#[inline(always)]
fn each_pixel(input: &[f32], gradient: &mut [f32], f: impl Fn([f32; 3], [f32; 3]) -> [f32; 3]) {
    let area = input.len() / 3;
    for pixel in 0..area {
        let place = [pixel, area + pixel, 2 * area + pixel];
        let found = f(place.map(|at| input[at]), place.map(|at| gradient[at]));
        for (at, value) in place.into_iter().zip(found) {
            gradient[at] = value;
        }
    }
}

/// The backward of [`super::saturation`].
pub fn saturation_backward(input: &[f32], factor: f32, gradient: &mut [f32]) {
    each_pixel(input, gradient, |x, g| {
        let gray = (1.0 - factor) * gray(x[0], x[1], x[2]);
        let masked: [f32; 3] = core::array::from_fn(|c| g[c] * passed(x[c] * factor + gray));
        let shared = (1.0 - factor) * (masked[0] + masked[1] + masked[2]);
        core::array::from_fn(|c| masked[c] * factor + GRAY[c] * shared)
    });
}

/// The backward of [`super::grayscale`].
pub fn grayscale_backward(gradient: &mut [f32]) {
    let area = gradient.len() / 3;
    for pixel in 0..area {
        let sum = gradient[pixel] + gradient[area + pixel] + gradient[2 * area + pixel];
        for c in 0..3 {
            gradient[c * area + pixel] = GRAY[c] * sum;
        }
    }
}

/// The backward of [`super::solarize`].
pub fn solarize_backward(input: &[f32], threshold: f32, gradient: &mut [f32]) {
    for (g, x) in gradient.iter_mut().zip(input) {
        *g = if *x >= threshold { -*g } else { *g };
    }
}

/// The backward of [`super::hue`].
///
/// With value v, chroma c, place t of the largest channel, s of the smallest, and hue h: every output is
/// `v - c ramp_k(h)`, so a gradient g gives `dv = sum g`, `dc = -sum g ramp`, `dh = -c sum g ramp'`; v is the largest
/// channel, c the largest less the smallest, and h a constant plus the difference of two channels over c.
pub fn hue_backward(input: &[f32], turns: f32, gradient: &mut [f32]) {
    let shift = 6.0 * turns.rem_euclid(1.0);
    if shift == 0.0 {
        return;
    }
    each_pixel(input, gradient, |x, g| {
        // The channels in which the hue's difference is taken: (its base, plus, minus), and the largest.
        let (base, plus, minus, largest) = if x[0] >= x[1].max(x[2]) {
            (0.0, 1, 2, 0)
        } else if x[1] >= x[2] {
            (2.0, 2, 0, 1)
        } else {
            (4.0, 0, 1, 2)
        };
        let smallest = if x[plus] < x[minus] { plus } else { minus };
        let chroma = x[largest] - x[smallest];
        let mut out = [0.0; 3];
        if chroma <= 0.0 {
            // A gray pixel stays gray: its outputs are v - 0.
            out[largest] = g[0] + g[1] + g[2];
            return out;
        }
        let difference = x[plus] - x[minus];
        let h = base + difference / chroma + shift;
        let h = if h < 0.0 { h + 6.0 } else { h };
        let h = if h >= 6.0 { h - 6.0 } else { h };
        let slope = |at: f32| if h >= at { 1.0 } else { -1.0 };
        let ramps = [
            (2.0 - (h - 3.0).abs(), -slope(3.0)),
            ((h - 2.0).abs() - 1.0, slope(2.0)),
            ((h - 4.0).abs() - 1.0, slope(4.0)),
        ];
        let (mut dv, mut dc, mut dh) = (0.0, 0.0, 0.0);
        for ((ramp, slope), g) in ramps.into_iter().zip(g) {
            dv += g;
            dc -= g * ramp.clamp(0.0, 1.0);
            if ramp > 0.0 && ramp < 1.0 {
                dh -= g * slope;
            }
        }
        // dh is already times c, and h's derivative by a channel is over c.
        out[plus] += dh;
        out[minus] -= dh;
        dc -= dh * difference / chroma;
        out[largest] += dv + dc;
        out[smallest] -= dc;
        out
    });
}

/// The gradient with respect to a source of f32 from those with respect to the crops of `draws` (all of this source), as
/// a gather: each source pixel adds up what the crops took of it, in their order.
///
/// # Shapes
/// `gradients` `[draws, 3, height, width]` for `size` = `[height, width]`; `out` `[3, source height, source width]`,
/// overwritten.
///
/// # Panics
/// When a slice does not have its shape's length.
pub fn resized_crop_backward(
    draws: &[Draw],
    gradients: &[f32],
    size: [u32; 2],
    source_size: [u32; 2],
    out: &mut [f32],
    scratch: &mut Scratch,
) {
    let [height, width] = size.map(|n| n as usize);
    let [rows, columns] = source_size.map(|n| n as usize);
    assert_eq!(gradients.len(), draws.len() * 3 * height * width, "gradients: given (left), of the draws (right)");
    assert_eq!(out.len(), 3 * rows * columns, "source values: given (left), of its size (right)");
    out.fill(0.0);
    let Scratch { horizontal, vertical, .. } = scratch;
    for (draw, gradient) in draws.iter().zip(gradients.chunks_exact(3 * height * width)) {
        let across = columns_of(horizontal, draw.width as usize, width, draw.flip != 0);
        let down = columns_of(vertical, draw.height as usize, height, false);
        for (row, down) in down.iter().enumerate() {
            for (column, across) in across.iter().enumerate() {
                let at = (draw.top as usize + row) * columns + draw.left as usize + column;
                for c in 0..3 {
                    let mut sum = 0.0;
                    for &(y, of_y) in down {
                        let line = &gradient[(c * height + y) * width..][..width];
                        let taps: f32 = across.iter().map(|&(x, of_x)| line[x] * of_x).sum();
                        sum += taps * of_y;
                    }
                    out[c * rows * columns + at] += sum;
                }
            }
        }
    }
}

/// The gradient with respect to every source from those with respect to the views, in parallel on rayon's current pool; without
/// `std` one after another.
///
/// # Shapes
/// `gradients` `[draws, 3, height, width]`, in whose place the gradients with respect to the crops are left; `out`
/// `[sources, 3, h, w]`, all sources of one size.
///
/// # Panics
/// As [`super::apply_batch`]; when sources differ in size.
pub fn backward_batch(sources: &[Source], draws: &[Draw], size: [u32; 2], gradients: &mut [f32], out: &mut [f32]) {
    let Some(first) = sources.first() else { return };
    let length = super::view_len(size);
    let source_length = super::view_len(first.size);
    assert!(sources.iter().all(|source| source.size == first.size), "sources of one size are gone back to together");
    assert_eq!(gradients.len(), draws.len() * length, "gradients: given (left), of the draws (right)");
    assert_eq!(out.len(), sources.len() * source_length, "source values: given (left), of the sources (right)");
    let colours = |gradient: &mut [f32], draw: &Draw, scratch: &mut Scratch| {
        colour_backward(sources[draw.image as usize], draw, size, gradient, scratch);
    };
    #[cfg(feature = "std")]
    gradients
        .par_chunks_exact_mut(length)
        .zip(draws)
        .for_each(|(gradient, draw)| super::SCRATCH.with_borrow_mut(|scratch| colours(gradient, draw, scratch)));
    #[cfg(not(feature = "std"))]
    let mut scratch = Scratch::default();
    #[cfg(not(feature = "std"))]
    gradients.chunks_exact_mut(length).zip(draws).for_each(|(gradient, draw)| colours(gradient, draw, &mut scratch));
    let gradients = &*gradients;
    let crops = |image: usize, out: &mut [f32], scratch: &mut Scratch| {
        let of_image = || draws.iter().enumerate().filter(|(_, draw)| draw.image as usize == image);
        let own: Vec<Draw> = of_image().map(|(_, draw)| *draw).collect();
        let own_gradients: Vec<f32> =
            of_image().flat_map(|(at, _)| &gradients[at * length..][..length]).copied().collect();
        resized_crop_backward(&own, &own_gradients, size, first.size, out, scratch);
    };
    #[cfg(feature = "std")]
    out.par_chunks_exact_mut(source_length)
        .enumerate()
        .for_each(|(image, out)| super::SCRATCH.with_borrow_mut(|scratch| crops(image, out, scratch)));
    #[cfg(not(feature = "std"))]
    out.chunks_exact_mut(source_length).enumerate().for_each(|(image, out)| crops(image, out, &mut scratch));
}

/// For each input of an axis, the outputs that look at it and with which weights.
fn columns_of(axes: &mut Axes, input: usize, output: usize, flip: bool) -> Vec<Vec<(usize, f32)>> {
    let axis = axes.get(input, output, flip);
    let mut columns = vec![Vec::new(); input];
    for place in 0..output {
        for (tap, &weight) in axis.weights(place).iter().enumerate() {
            if weight != 0.0 {
                columns[axis.start(place) + tap].push((place, weight));
            }
        }
    }
    columns
}

#[cfg(test)]
mod tests;
