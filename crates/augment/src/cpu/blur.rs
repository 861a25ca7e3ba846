//! Gaussian blur: the sampled one, and the three boxes that PIL takes for it.

use super::{Scratch, assert_view};
#[cfg(not(feature = "std"))]
use crate::float::Float as _;
use alloc::vec::Vec;
use gabion_spec::Draw;
#[cfg(feature = "std")]
use multiversion::multiversion;

/// Blurs with a sampled Gaussian of `sigma` pixels, cut off at `ceil(3 sigma)` and normalised; beyond its edges the
/// view is reflected without repeating the edge (torchvision's `gaussian_blur` with kernel size `2 ceil(3 sigma) + 1`).
///
/// # Shapes
/// `view` `[3, height, width]` for `size` = `[height, width]`.
///
/// # Panics
/// When the view does not have its shape's length or `sigma` is not above 0.
#[cfg_attr(feature = "std", multiversion(targets = "simd"))]
pub fn gaussian_blur(view: &mut [f32], size: [u32; 2], sigma: f32, scratch: &mut Scratch) {
    assert_view(view, size);
    assert!(sigma > 0.0 && sigma.is_finite(), "a blur's sigma is above 0, got {sigma}");
    let [height, width] = size.map(|n| n as usize);
    let Scratch { line, plane, kernel, .. } = scratch;
    fill_gaussian(kernel, f64::from(sigma));
    blur_rows(view, width, kernel, reflect, line);
    blur_columns(view, height, width, kernel, reflect, plane);
    clamp(view);
}

/// Blurs as PIL's `ImageFilter.GaussianBlur(sigma)` does: three passes of a box with fractional ends along rows, then
/// three along columns; each pass repeats the edge pixels (Pillow's BoxBlur.c; Gwosdek et al., "Theoretical foundations
/// of Gaussian convolution by extended box filtering", SSVM 2011).
///
/// # Shapes
/// `view` `[3, height, width]` for `size` = `[height, width]`.
///
/// # Panics
/// When the view does not have its shape's length or `sigma` is not above 0.
#[cfg_attr(feature = "std", multiversion(targets = "simd"))]
pub fn pil_box_blur(view: &mut [f32], size: [u32; 2], sigma: f32, scratch: &mut Scratch) {
    assert_view(view, size);
    assert!(sigma > 0.0 && sigma.is_finite(), "a blur's sigma is above 0, got {sigma}");
    let [height, width] = size.map(|n| n as usize);
    let Scratch { line, plane, kernel, .. } = scratch;
    fill_box(kernel, box_radius(f64::from(sigma)));
    for _ in 0..BOX_PASSES {
        blur_rows(view, width, kernel, repeat, line);
    }
    for _ in 0..BOX_PASSES {
        blur_columns(view, height, width, kernel, repeat, plane);
    }
    clamp(view);
}

/// The blur that a draw asks for.
pub(super) fn blur(view: &mut [f32], size: [u32; 2], draw: &Draw, scratch: &mut Scratch) {
    match draw.blur_filter {
        0 => gaussian_blur(view, size, draw.blur_sigma, scratch),
        _ => pil_box_blur(view, size, draw.blur_sigma, scratch),
    }
}

/// The backward of [`gaussian_blur`] and [`pil_box_blur`]: the transposed passes in reverse order. The kernels are
/// symmetric, so inside the view that is the same convolution; what the borders repeated comes back to its pixel.
pub(super) fn blur_backward(gradient: &mut [f32], size: [u32; 2], draw: &Draw, scratch: &mut Scratch) {
    let [height, width] = size.map(|n| n as usize);
    let Scratch { line, kernel, .. } = scratch;
    let (passes, border): (_, fn(isize, usize) -> usize) = if draw.blur_filter == 0 {
        fill_gaussian(kernel, f64::from(draw.blur_sigma));
        (1, reflect)
    } else {
        fill_box(kernel, box_radius(f64::from(draw.blur_sigma)));
        (BOX_PASSES, repeat)
    };
    for channel in gradient.chunks_exact_mut(height * width) {
        for _ in 0..passes {
            for x in 0..width {
                transposed(channel, x, width, height, kernel, border, line);
            }
        }
        for _ in 0..passes {
            for y in 0..height {
                transposed(channel, y * width, 1, width, kernel, border, line);
            }
        }
    }
}

/// The transposed convolution along one line of `count` values, `step` apart from `start` on.
fn transposed(
    values: &mut [f32],
    start: usize,
    step: usize,
    count: usize,
    kernel: &[f32],
    border: fn(isize, usize) -> usize,
    line: &mut Vec<f32>,
) {
    let radius = (kernel.len() / 2).cast_signed();
    line.clear();
    line.extend((0..count).map(|place| values[start + place * step]));
    for place in 0..count {
        values[start + place * step] = 0.0;
    }
    for place in -radius..count.cast_signed() + radius {
        let to = start + border(place, count) * step;
        let first = (place - radius).max(0);
        for from in first..(place + radius + 1).min(count.cast_signed()) {
            let tap = (place - from + radius).cast_unsigned();
            values[to] += line[from.cast_unsigned()] * kernel[tap];
        }
    }
}

const BOX_PASSES: usize = 3;

/// The radius of the box that gives `sigma` after all passes (equations 7, 11 and 14 of Gwosdek et al.).
fn box_radius(sigma: f64) -> f64 {
    let variance = sigma * sigma / BOX_PASSES as f64;
    let length = (12.0 * variance + 1.0).sqrt();
    let whole = ((length - 1.0) / 2.0).floor();
    let fraction = (2.0 * whole + 1.0) * (whole * (whole + 1.0) - 3.0 * variance)
        / (6.0 * (variance - (whole + 1.0) * (whole + 1.0)));
    whole + fraction
}

/// A box of `2 radius + 1` pixels: ones in the whole part, the remainder at the two ends, over their sum.
fn fill_box(kernel: &mut Vec<f32>, radius: f64) {
    let whole = radius.floor();
    let inner = 1.0 / (2.0 * radius + 1.0);
    let outer = (1.0 - (2.0 * whole + 1.0) * inner) / 2.0;
    kernel.clear();
    kernel.resize(2 * whole as usize + 3, inner as f32);
    let last = kernel.len() - 1;
    (kernel[0], kernel[last]) = (outer as f32, outer as f32);
}

/// A Gaussian sampled at whole pixels, over its sum.
fn fill_gaussian(kernel: &mut Vec<f32>, sigma: f64) {
    let radius = (3.0 * sigma).ceil();
    let density = |tap: usize| (-0.5 * ((tap as f64 - radius) / sigma).powi(2)).exp();
    let taps = 2 * radius as usize + 1;
    let sum: f64 = (0..taps).map(density).sum();
    kernel.clear();
    kernel.extend((0..taps).map(|tap| (density(tap) / sum) as f32));
}

/// The pixel that stands at `place` of `n`, with the edges reflected and not repeated.
#[inline(always)]
fn reflect(place: isize, n: usize) -> usize {
    let period = 2 * (n - 1).max(1);
    let place = place.unsigned_abs() % period;
    place.min(period - place).min(n - 1)
}

/// The pixel that stands at `place` of `n`, with the edges repeated.
#[inline(always)]
fn repeat(place: isize, n: usize) -> usize {
    (place.max(0) as usize).min(n - 1)
}

/// Convolves every row with an odd kernel; `border` says which pixel stands where there is none.
#[inline(always)]
fn blur_rows(
    view: &mut [f32],
    width: usize,
    kernel: &[f32],
    border: impl Fn(isize, usize) -> usize,
    line: &mut Vec<f32>,
) {
    let radius = kernel.len() / 2;
    line.resize(width + 2 * radius, 0.0);
    for row in view.chunks_exact_mut(width) {
        for beyond in 1..=radius {
            line[radius - beyond] = row[border(0isize.wrapping_sub_unsigned(beyond), width)];
            line[radius + width - 1 + beyond] = row[border((width - 1 + beyond).cast_signed(), width)];
        }
        line[radius..][..width].copy_from_slice(row);
        row.fill(0.0);
        for (shifted, weight) in line.windows(width).zip(kernel) {
            for (out, value) in row.iter_mut().zip(shifted) {
                *out += value * weight;
            }
        }
    }
}

/// Convolves every column, likewise.
#[inline(always)]
fn blur_columns(
    view: &mut [f32],
    height: usize,
    width: usize,
    kernel: &[f32],
    border: impl Fn(isize, usize) -> usize,
    plane: &mut Vec<f32>,
) {
    let radius = kernel.len() / 2;
    for channel in view.chunks_exact_mut(height * width) {
        plane.clear();
        plane.extend_from_slice(channel);
        for (y, row) in channel.chunks_exact_mut(width).enumerate() {
            row.fill(0.0);
            for (tap, weight) in kernel.iter().enumerate() {
                let from = border((y + tap).cast_signed() - radius.cast_signed(), height);
                for (out, value) in row.iter_mut().zip(&plane[from * width..][..width]) {
                    *out += value * weight;
                }
            }
        }
    }
}

/// Rounded weights can sum to a little more than one.
#[inline(always)]
fn clamp(view: &mut [f32]) {
    for value in view {
        *value = value.clamp(0.0, 1.0);
    }
}
