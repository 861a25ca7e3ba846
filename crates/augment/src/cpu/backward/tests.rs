//! Gradients against finite differences of the same operations written down once more, in f64.

use super::*;
use crate::cpu::{apply, view_len};
use crate::{Augment, ViewId, sample};
use gabion_spec::{Blur, BlurFilter, Crop, Jitter, Pixels, Solarize};
use proptest::prelude::*;

const GRAY64: [f64; 3] = [0.299, 0.587, 0.114];

/// Weights of one axis, `[output][input]`.
fn axis(input: usize, output: usize) -> Vec<Vec<f64>> {
    let scale = input as f64 / output as f64;
    let support = scale.max(1.0);
    (0..output)
        .map(|place| {
            let center = (place as f64 + 0.5) * scale;
            let raw: Vec<f64> =
                (0..input).map(|tap| (1.0 - ((tap as f64 + 0.5 - center) / support).abs()).max(0.0)).collect();
            let sum: f64 = raw.iter().sum();
            raw.iter().map(|weight| weight / sum).collect()
        })
        .collect()
}

fn gray64(view: &[f64], area: usize, pixel: usize) -> f64 {
    (0..3).map(|c| GRAY64[c] * view[c * area + pixel]).sum()
}

fn hue64([r, g, b]: [f64; 3], turns: f64) -> [f64; 3] {
    let value = r.max(g).max(b);
    let chroma = value - r.min(g).min(b);
    if chroma == 0.0 {
        return [r, g, b];
    }
    let h = if r >= g.max(b) {
        (g - b) / chroma
    } else if g >= b {
        2.0 + (b - r) / chroma
    } else {
        4.0 + (r - g) / chroma
    };
    let h = (h + 6.0 * turns).rem_euclid(6.0);
    let ramp = |distance: f64| value - chroma * distance.clamp(0.0, 1.0);
    [ramp(2.0 - (h - 3.0).abs()), ramp((h - 2.0).abs() - 1.0), ramp((h - 4.0).abs() - 1.0)]
}

/// A blur's kernel and what stands beyond the edges.
fn kernel64(draw: &Draw) -> (Vec<f64>, usize, bool) {
    let sigma = f64::from(draw.blur_sigma);
    if draw.blur_filter == 0 {
        let radius = (3.0 * sigma).ceil();
        let raw: Vec<f64> =
            (0..=2 * radius as usize).map(|tap| (-0.5 * ((tap as f64 - radius) / sigma).powi(2)).exp()).collect();
        let sum: f64 = raw.iter().sum();
        return (raw.iter().map(|weight| weight / sum).collect(), 1, true);
    }
    let variance = sigma * sigma / 3.0;
    let whole = (((12.0 * variance + 1.0).sqrt() - 1.0) / 2.0).floor();
    let fraction = (2.0 * whole + 1.0) * (whole * (whole + 1.0) - 3.0 * variance)
        / (6.0 * (variance - (whole + 1.0) * (whole + 1.0)));
    let inner = 1.0 / (2.0 * (whole + fraction) + 1.0);
    let mut kernel = vec![inner; 2 * whole as usize + 3];
    let outer = (1.0 - (2.0 * whole + 1.0) * inner) / 2.0;
    let last = kernel.len() - 1;
    (kernel[0], kernel[last]) = (outer, outer);
    (kernel, 3, false)
}

fn blur64(view: &mut [f64], [height, width]: [usize; 2], draw: &Draw) {
    let (kernel, passes, mirrored) = kernel64(draw);
    let radius = (kernel.len() / 2).cast_signed();
    let border = |place: isize, n: usize| -> usize {
        if !mirrored {
            return place.clamp(0, n.cast_signed() - 1) as usize;
        }
        let mut place = place;
        while place < 0 || place >= n.cast_signed() {
            if n == 1 {
                return 0;
            }
            place = if place < 0 { -place } else { 2 * (n.cast_signed() - 1) - place };
        }
        place as usize
    };
    for rows in [true, false] {
        for _ in 0..passes {
            let before = view.to_vec();
            for (at, value) in view.iter_mut().enumerate() {
                let (c, y, x) = (at / (height * width), at / width % height, at % width);
                *value = (-radius..=radius)
                    .zip(&kernel)
                    .map(|(tap, weight)| {
                        let (y, x) = if rows {
                            (y, border(x.cast_signed() + tap, width))
                        } else {
                            (border(y.cast_signed() + tap, height), x)
                        };
                        before[(c * height + y) * width + x] * weight
                    })
                    .sum();
            }
        }
    }
}

/// A view in f64, and how near it came to a corner of its formulas.
fn forward64(source: &[f64], [rows, columns]: [usize; 2], draw: &Draw, size: [u32; 2]) -> Vec<f64> {
    let [height, width] = size.map(|n| n as usize);
    let area = height * width;
    let (across, down) = (axis(draw.width as usize, width), axis(draw.height as usize, height));
    let mut view = vec![0.0; 3 * area];
    for (at, value) in view.iter_mut().enumerate() {
        let (c, y, x) = (at / area, at / width % height, at % width);
        let x = if draw.flip == 1 { width - 1 - x } else { x };
        for (row, of_y) in down[y].iter().enumerate() {
            for (column, of_x) in across[x].iter().enumerate() {
                let (row, column) = (draw.top as usize + row, draw.left as usize + column);
                *value += source[(c * rows + row) * columns + column] * of_y * of_x;
            }
        }
    }
    let blend =
        |x: f64, factor: f32, other: f64| (x * f64::from(factor) + (1.0 - f64::from(factor)) * other).clamp(0.0, 1.0);
    if draw.jitter != 0 {
        for op in draw.jitter_order() {
            let grays: Vec<f64> = (0..area).map(|pixel| gray64(&view, area, pixel)).collect();
            let mean = grays.iter().sum::<f64>() / area as f64;
            for (pixel, &gray) in grays.iter().enumerate() {
                let place = [pixel, area + pixel, 2 * area + pixel];
                let x = place.map(|at| view[at]);
                let y = match op {
                    JitterOp::Brightness => x.map(|x| blend(x, draw.brightness, 0.0)),
                    JitterOp::Contrast => x.map(|x| blend(x, draw.contrast, mean)),
                    JitterOp::Saturation => x.map(|x| blend(x, draw.saturation, gray)),
                    JitterOp::Hue => hue64(x, f64::from(draw.hue)),
                };
                for (at, y) in place.into_iter().zip(y) {
                    view[at] = y;
                }
            }
        }
    }
    if draw.grayscale != 0 {
        for pixel in 0..area {
            let gray = gray64(&view, area, pixel);
            for c in 0..3 {
                view[c * area + pixel] = gray;
            }
        }
    }
    if draw.blur_sigma > 0.0 {
        blur64(&mut view, [height, width], draw);
    }
    for value in &mut view {
        if *value >= f64::from(draw.solarize) {
            *value = 1.0 - *value;
        }
    }
    view
}

fn noise(count: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / (1u64 << 24) as f64
    };
    (0..count).map(|_| next()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn gradients_are_the_slopes(
        seed: u64, rows in 1u32..9, columns in 1u32..9, height in 1u32..8, width in 1u32..8, boxes: bool,
    ) {
        let (from, size) = ([rows, columns], [height, width]);
        let augment = Augment {
            size,
            crop: Crop { scale: [0.1, 1.0], ..Crop::CROP },
            flip: 0.5,
            jitter: Some(Jitter { probability: 0.8, brightness: 0.8, contrast: 0.8, saturation: 0.8, hue: 0.5 }),
            grayscale: 0.2,
            blur: Some(Blur {
                probability: 0.5,
                sigma: [0.1, 2.0],
                filter: if boxes { BlurFilter::PilBoxes } else { BlurFilter::Gaussian },
            }),
            solarize: Some(Solarize { probability: 0.3, threshold: Pixels::of_255(128.0) }),
        };
        let draws: Vec<Draw> =
            (0..3).map(|view| sample(&augment, ViewId { seed, epoch: 0, image: 0, view }, from)).collect();
        let (length, sources) = (view_len(size), noise(view_len(from), seed));
        let floats: Vec<f32> = sources.iter().map(|&value| value as f32).collect();
        let sources: Vec<f64> = floats.iter().map(|&value| f64::from(value)).collect();
        let source = Source::floats(&floats, from);
        let weights = noise(3 * length, seed ^ 1);
        let objective = |source: &[f64]| -> f64 {
            let values = draws.iter().flat_map(|draw| forward64(source, from.map(|n| n as usize), draw, size));
            values.zip(&weights).map(|(value, weight)| value * weight).sum()
        };

        let scratch = &mut Scratch::default();
        let mut gradients: Vec<f32> = weights.iter().map(|&weight| weight as f32).collect();
        for (draw, gradient) in draws.iter().zip(gradients.chunks_exact_mut(length)) {
            let mut view = vec![0.0; length];
            apply(source, draw, size, &mut view, scratch);
            let wanted = forward64(&sources, from.map(|n| n as usize), draw, size);
            let near = view.iter().zip(&wanted).all(|(a, b)| (f64::from(*a) - b).abs() < 2e-5);
            // A value on the threshold may fall to either side.
            prop_assume!(near);
            colour_backward(source, draw, size, gradient, scratch);
        }
        let mut found = vec![f32::NAN; floats.len()];
        resized_crop_backward(&draws, &gradients, size, from, &mut found, scratch);

        let scale = found.iter().fold(1.0f64, |most, &g| most.max(f64::from(g.abs())));
        let here = objective(&sources);
        let (step, mut corners) = (1e-6, 0);
        for (at, &gradient) in found.iter().enumerate() {
            let moved = |by: f64| {
                let mut source = sources.clone();
                source[at] += by;
                (objective(&source) - here) / by
            };
            let (before, after) = (moved(-step), moved(step));
            if (before - after).abs() > 1e-3 * scale {
                corners += 1;
                continue;
            }
            let slope = f64::midpoint(before, after);
            prop_assert!((f64::from(gradient) - slope).abs() < 2e-3 * scale, "value {at}: {gradient}, not {slope}");
        }
        prop_assert!(corners * 4 <= found.len(), "{corners} corners of {}", found.len());
    }
}

#[test]
fn what_no_view_shows_has_no_gradient() {
    let draw = Draw { top: 1, left: 2, height: 2, width: 2, ..Draw::default() };
    let mut out = vec![f32::NAN; 3 * 5 * 5];
    resized_crop_backward(&[draw], &[1.0; 12], [2, 2], [5, 5], &mut out, &mut Scratch::default());
    for (at, value) in out.iter().enumerate() {
        let (y, x) = (at / 5 % 5, at % 5);
        let inside = (1..3).contains(&y) && (2..4).contains(&x);
        assert_eq!(*value, if inside { 1.0 } else { 0.0 }, "({y}, {x})");
    }
    resized_crop_backward(&[], &[], [2, 2], [5, 5], &mut out, &mut Scratch::default());
    assert!(out.iter().all(|value| *value == 0.0));
}
