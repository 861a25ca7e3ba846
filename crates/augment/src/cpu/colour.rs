//! Operations on the colours of each pixel, in place on a `[3, height, width]` view.
//!
//! Blends are torchvision's `factor * x + (1 - factor) * other`, so a factor of 1 changes nothing at all.

#[cfg(not(feature = "std"))]
use crate::float::Euclid as _;
#[cfg(feature = "std")]
use multiversion::multiversion;

/// ITU-R 601 weights of red, green and blue in gray.
pub(super) const GRAY: [f32; 3] = [0.299, 0.587, 0.114];

/// Partial sums of a mean: enough to fill the widest vectors, and the same on every machine.
const LANES: usize = 16;

/// Multiplies by a factor of at least 0 and clamps to `[0, 1]` (torchvision's `adjust_brightness`).
#[cfg_attr(feature = "std", multiversion(targets = "simd"))]
pub fn brightness(view: &mut [f32], factor: f32) {
    for value in view.iter_mut() {
        *value = (*value * factor).clamp(0.0, 1.0);
    }
}

/// Blends with the mean of the view's gray image and clamps to `[0, 1]` (torchvision's `adjust_contrast`).
///
/// PIL rounds the gray image and its mean to 8 bits. This does not: the mean differs by at most 1/255, the result by
/// at most `|1 - factor|` of that.
#[cfg_attr(feature = "std", multiversion(targets = "simd"))]
pub fn contrast(view: &mut [f32], factor: f32) {
    let offset = (1.0 - factor) * mean_gray(view);
    for value in view.iter_mut() {
        *value = (*value * factor + offset).clamp(0.0, 1.0);
    }
}

/// Blends with the gray image and clamps to `[0, 1]` (torchvision's `adjust_saturation`).
#[cfg_attr(feature = "std", multiversion(targets = "simd"))]
pub fn saturation(view: &mut [f32], factor: f32) {
    let [red, green, blue] = planes(view);
    for ((r, g), b) in red.iter_mut().zip(green).zip(blue) {
        let gray = (1.0 - factor) * gray(*r, *g, *b);
        *r = (*r * factor + gray).clamp(0.0, 1.0);
        *g = (*g * factor + gray).clamp(0.0, 1.0);
        *b = (*b * factor + gray).clamp(0.0, 1.0);
    }
}

/// Turns the hue of every pixel by a share of the colour circle (torchvision's `adjust_hue` of a float image).
///
/// HSV without its branches: with value v, chroma c and hue h in `[0, 6)`, red is `v - c clamp(2 - |h - 3|)`, green
/// `v - c clamp(|h - 2| - 1)` and blue `v - c clamp(|h - 4| - 1)`. Whole turns, none among them, change nothing.
///
/// PIL keeps hue and saturation in 8 bits: hue and shift are cut off to 1/255 of a turn and their sum wraps at 256
/// instead of 255, so its hue is off by up to 3/255 of a turn, 18/255 of full chroma.
#[cfg_attr(feature = "std", multiversion(targets = "simd"))]
pub fn hue(view: &mut [f32], turns: f32) {
    let shift = 6.0 * turns.rem_euclid(1.0);
    if shift == 0.0 {
        return;
    }
    let [red, green, blue] = planes(view);
    for ((red, green), blue) in red.iter_mut().zip(green).zip(blue) {
        let (r, g, b) = (*red, *green, *blue);
        let value = larger(larger(r, g), b);
        let chroma = value - smaller(smaller(r, g), b);
        // Ties go to red, then to green. A gray pixel has difference 0, so its divisor only has to be above 0.
        let (base, difference) = if g >= b { (2.0, b - r) } else { (4.0, r - g) };
        let is_red = r >= larger(g, b);
        let base = if is_red { 0.0 } else { base };
        let difference = if is_red { g - b } else { difference };
        let h = base + difference / larger(chroma, f32::MIN_POSITIVE) + shift;
        let h = if h < 0.0 { h + 6.0 } else { h };
        let h = if h >= 6.0 { h - 6.0 } else { h };
        *red = value - chroma * (2.0 - (h - 3.0).abs()).clamp(0.0, 1.0);
        *green = value - chroma * ((h - 2.0).abs() - 1.0).clamp(0.0, 1.0);
        *blue = value - chroma * ((h - 4.0).abs() - 1.0).clamp(0.0, 1.0);
    }
}

/// Puts the ITU-R 601 gray image into all three channels (torchvision's `rgb_to_grayscale`, PIL's `L`).
#[cfg_attr(feature = "std", multiversion(targets = "simd"))]
pub fn grayscale(view: &mut [f32]) {
    let [red, green, blue] = planes(view);
    for ((r, g), b) in red.iter_mut().zip(green).zip(blue) {
        let gray = smaller(gray(*r, *g, *b), 1.0);
        (*r, *g, *b) = (gray, gray, gray);
    }
}

/// Replaces every value at or above the threshold by one minus itself (torchvision's `solarize`).
#[cfg_attr(feature = "std", multiversion(targets = "simd"))]
pub fn solarize(view: &mut [f32], threshold: f32) {
    for value in view.iter_mut() {
        *value = if *value >= threshold { 1.0 - *value } else { *value };
    }
}

#[inline(always)]
pub(super) fn gray(red: f32, green: f32, blue: f32) -> f32 {
    GRAY[0] * red + GRAY[1] * green + GRAY[2] * blue
}

/// Mean over all pixels of [`gray`], which is that of the channels' means.
#[inline(always)]
pub(super) fn mean_gray(view: &mut [f32]) -> f32 {
    let means = planes(view).map(|plane| {
        let (chunks, rest) = plane.as_chunks::<LANES>();
        let mut lanes = [0.0; LANES];
        for chunk in chunks {
            for (lane, value) in lanes.iter_mut().zip(chunk) {
                *lane += value;
            }
        }
        (lanes.iter().sum::<f32>() + rest.iter().sum::<f32>()) / plane.len() as f32
    });
    gray(means[0], means[1], means[2])
}

/// The three channels of a view.
#[inline(always)]
fn planes(view: &mut [f32]) -> [&mut [f32]; 3] {
    assert!(
        view.len().is_multiple_of(3),
        "a view of [3, height, width] has a multiple of 3 values, got {}",
        view.len()
    );
    let (red, rest) = view.split_at_mut(view.len() / 3);
    let (green, blue) = rest.split_at_mut(red.len());
    [red, green, blue]
}

/// The larger of two numbers: one instruction, which `f32::max` is not for the sake of NaN.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// The smaller of two numbers.
#[inline(always)]
fn smaller(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}
