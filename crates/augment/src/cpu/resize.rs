//! Crop and resize.

use super::{Scratch, Source, Values, assert_view};
use alloc::vec::Vec;
use gabion_spec::Draw;
#[cfg(feature = "std")]
use multiversion::multiversion;

/// Crops the source, resizes the crop and flips it if the draw says so (torchvision's `resized_crop`, bilinear with
/// antialiasing, then `hflip`).
///
/// Resampling is PIL's `Image.resize` with `BILINEAR`: a triangle filter, as wide as two source pixels when enlarging
/// and as two view pixels when shrinking, over columns first and rows second. Taps never reach outside the crop. A
/// crop that already has `size` comes out as its bytes / 255 exactly.
///
/// # Shapes
/// `source` `[h, w, 3]` bytes or `[3, h, w]` floats, `view` `[3, height, width]` for `size` = `[height, width]`.
///
/// # Panics
/// When a slice does not have its shape's length, or the crop is empty or not inside the source.
#[cfg_attr(feature = "std", multiversion(targets = "simd"))]
pub fn resized_crop(source: Source, draw: &Draw, size: [u32; 2], view: &mut [f32], scratch: &mut Scratch) {
    assert_view(view, size);
    let [rows, columns] = source.size.map(|n| n as usize);
    assert!(
        source.values.len() == rows * columns * 3,
        "a source of [{rows}, {columns}, 3] has {} values, got {}",
        rows * columns * 3,
        source.values.len()
    );
    let [top, left, height, width] = [draw.top, draw.left, draw.height, draw.width].map(|n| n as usize);
    assert!(
        height > 0 && width > 0 && top + height <= rows && left + width <= columns,
        "a crop of {height}x{width} at ({top}, {left}) is not inside a source of {rows}x{columns}"
    );
    let [out_height, out_width] = size.map(|n| n as usize);
    let Scratch { horizontal, vertical, line, plane, .. } = scratch;
    let horizontal = horizontal.get(width, out_width, draw.flip != 0);
    let vertical = vertical.get(height, out_height, false);

    line.resize(3 * width, 0.0);
    plane.resize(height * 3 * out_width, 0.0);
    for (y, out) in plane.chunks_exact_mut(3 * out_width).enumerate() {
        let start = (top + y) * columns + left;
        match source.values {
            Values::Bytes(bytes) => {
                for (value, &byte) in line.iter_mut().zip(&bytes[3 * start..][..3 * width]) {
                    *value = f32::from(byte) / 255.0;
                }
            }
            Values::Floats(values) => {
                for (c, channel) in values.chunks_exact(rows * columns).enumerate() {
                    for (pixel, value) in line.chunks_exact_mut(3).zip(&channel[start..]) {
                        pixel[c] = *value;
                    }
                }
            }
        }
        match horizontal.taps {
            2 => across::<2>(line, horizontal, out),
            _ => across_any(line, horizontal, out),
        }
    }
    let lines = plane.chunks_exact(3 * out_width);
    for y in 0..out_height {
        let weights = vertical.weights(y);
        let mut taps = lines.clone().skip(vertical.starts[y] as usize);
        match weights {
            &[w0, w1] => {
                let (above, below) = (taps.next().expect("a tap"), taps.next().expect("a tap"));
                for (c, (above, below)) in above.chunks_exact(out_width).zip(below.chunks_exact(out_width)).enumerate()
                {
                    let out = &mut view[(c * out_height + y) * out_width..][..out_width];
                    for ((out, a), b) in out.iter_mut().zip(above).zip(below) {
                        *out = at_most_one(a * w0 + b * w1);
                    }
                }
            }
            weights => {
                for c in 0..3 {
                    view[(c * out_height + y) * out_width..][..out_width].fill(0.0);
                }
                for (line, weight) in taps.zip(weights) {
                    for (c, line) in line.chunks_exact(out_width).enumerate() {
                        let out = &mut view[(c * out_height + y) * out_width..][..out_width];
                        for (out, value) in out.iter_mut().zip(line) {
                            *out = at_most_one(*out + value * weight);
                        }
                    }
                }
            }
        }
    }
}

/// Rounded weights can sum to a little more than one.
#[inline(always)]
fn at_most_one(value: f32) -> f32 {
    if value < 1.0 { value } else { 1.0 }
}

/// Resamples one line of interleaved pixels into three planar ones, with a number of taps known when compiling.
#[inline(always)]
fn across<const TAPS: usize>(line: &[f32], axis: &Axis, out: &mut [f32]) {
    let width = axis.starts.len();
    let (red, rest) = out.split_at_mut(width);
    let (green, blue) = rest.split_at_mut(width);
    let weights = axis.weights.as_chunks::<TAPS>().0;
    for ((((red, green), blue), &start), weights) in red.iter_mut().zip(green).zip(blue).zip(&axis.starts).zip(weights)
    {
        let taps = &line[3 * start as usize..][..3 * TAPS];
        (*red, *green, *blue) = (0.0, 0.0, 0.0);
        for t in 0..TAPS {
            *red += taps[3 * t] * weights[t];
            *green += taps[3 * t + 1] * weights[t];
            *blue += taps[3 * t + 2] * weights[t];
        }
    }
}

/// [`across`] for any number of taps.
#[inline(always)]
fn across_any(line: &[f32], axis: &Axis, out: &mut [f32]) {
    let width = axis.starts.len();
    for x in 0..width {
        let taps = line[3 * axis.starts[x] as usize..].as_chunks::<3>().0;
        let mut sum = [0.0; 3];
        for (pixel, weight) in taps.iter().zip(axis.weights(x)) {
            for c in 0..3 {
                sum[c] += pixel[c] * weight;
            }
        }
        for c in 0..3 {
            out[c * width + x] = sum[c];
        }
    }
}

/// Where each output of one axis looks and with which weights (PIL's `precompute_coeffs`).
///
/// All outputs have the same number of taps; those that need fewer, at the edges, have zeros.
#[derive(Debug, Default)]
pub(super) struct Axis {
    key: (usize, usize, bool),
    taps: usize,
    /// First tap of each output.
    starts: Vec<u32>,
    /// `[output, taps]`.
    weights: Vec<f32>,
}

impl Axis {
    pub(super) fn start(&self, output: usize) -> usize {
        self.starts[output] as usize
    }

    pub(super) fn weights(&self, output: usize) -> &[f32] {
        &self.weights[output * self.taps..][..self.taps]
    }

    /// Fills the tables for `input` pixels resized to `output`, the last first when `flip`.
    fn fill(&mut self, input: usize, output: usize, flip: bool) {
        self.key = (input, output, flip);
        let scale = input as f64 / output as f64;
        let support = scale.max(1.0);
        let center = |x: usize| (x as f64 + 0.5) * scale;
        // Both are positive where the cast truncates, so this is PIL's rounding.
        let range = |x: usize| {
            let first = (center(x) - support + 0.5).max(0.0) as usize;
            (first, ((center(x) + support + 0.5) as usize).min(input))
        };
        self.taps = (0..output).map(range).map(|(first, end)| end - first).max().unwrap_or(0);
        self.starts.clear();
        self.weights.clear();
        self.weights.resize(output * self.taps, 0.0);
        for (place, weights) in self.weights.chunks_exact_mut(self.taps).enumerate() {
            let x = if flip { output - 1 - place } else { place };
            let (first, end) = range(x);
            let start = first.min(input - self.taps);
            let triangle = |tap: usize| (1.0 - ((tap as f64 - center(x) + 0.5) / support).abs()).max(0.0);
            let sum: f64 = (first..end).map(triangle).sum();
            for tap in first..end {
                weights[tap - start] = (triangle(tap) / sum) as f32;
            }
            self.starts.push(start as u32);
        }
    }
}

/// The last tables made, found by their sizes: crops of small images repeat.
#[derive(Debug, Default)]
pub(super) struct Axes(Vec<Axis>);

impl Axes {
    const SLOTS: usize = 256;

    pub(super) fn get(&mut self, input: usize, output: usize, flip: bool) -> &Axis {
        if self.0.is_empty() {
            self.0.resize_with(Self::SLOTS, Axis::default);
        }
        let axis = &mut self.0[(2 * input + usize::from(flip)) % Self::SLOTS];
        if axis.key != (input, output, flip) {
            axis.fill(input, output, flip);
        }
        axis
    }
}
