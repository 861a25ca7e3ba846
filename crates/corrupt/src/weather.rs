//! Weather: snow, fog, brightness. Frost has a file of its own.

use crate::axis::{Axis, Border};
use crate::blur::streak;
use crate::convolve::convolve;
use crate::levels::{WHITE, truncated};
use crate::published::Snow;

/// Lets flakes fall along `degrees` and turned by half a turn, on an image that is whitened a little.
///
/// `normal` is asked once for every pixel.
pub(crate) fn snow(
    image: &[u8],
    size: [usize; 2],
    snow: Snow,
    normal: impl FnMut() -> f32,
    degrees: f64,
    out: &mut [u8],
) {
    let flakes = flakes(size, snow, normal, degrees);
    let (pixels, _) = image.as_chunks::<3>();
    let (out, _) = out.as_chunks_mut::<3>();
    for ((out, pixel), (there, back)) in out.iter_mut().zip(pixels).zip(flakes.iter().zip(flakes.iter().rev())) {
        let pixel = pixel.map(f32::from);
        let grey = 0.299 * pixel[0] + 0.587 * pixel[1] + 0.114 * pixel[2];
        let lying = grey * 1.5 + 0.5 * WHITE;
        *out = pixel.map(|level| truncated(snow.kept * level + (1.0 - snow.kept) * level.max(lying) + there + back));
    }
}

/// The layer of flakes, `[height, width]`, in levels up to 255; whole, because the original stores it as an image.
fn flakes(size: [usize; 2], snow: Snow, mut normal: impl FnMut() -> f32, degrees: f64) -> Vec<f32> {
    let [height, width] = size;
    let noise: Vec<f32> = (0..height * width).map(|_| snow.mean + snow.deviation * normal()).collect();
    let (mut between, mut layer) = (vec![0.0; noise.len()], vec![0.0; noise.len()]);
    Axis::zoom(height, snow.zoom).columns(&noise, width, &mut between);
    Axis::zoom(width, snow.zoom).rows::<1>(&between, width, &mut layer);
    for value in &mut layer {
        *value = if *value < snow.threshold { 0.0 } else { f32::from((WHITE * *value) as u8) };
    }
    let mut layer = convolve::<1>(&layer, size, &streak(snow.radius, snow.sigma, degrees), Border::Nearest);
    for value in &mut layer {
        *value = f32::from(truncated(*value));
    }
    layer
}

/// Covers with a plasma fractal of `density` and darkens, so that the brightest stays where it was.
///
/// `signed` gives uniform numbers in `[-1, 1)` to the fractal.
pub(crate) fn fog(
    image: &[u8],
    size: [usize; 2],
    (density, decay): (f32, f64),
    signed: impl FnMut() -> f32,
    out: &mut [u8],
) {
    let side = size[0].max(size[1]).next_power_of_two().max(2);
    let plasma = plasma(side, decay, signed);
    let brightest = f32::from(image.iter().copied().max().unwrap_or(0)) / WHITE;
    let dimming = brightest / (brightest + density);
    let (pixels, _) = image.as_chunks::<3>();
    let rows = out.as_chunks_mut::<3>().0.chunks_exact_mut(size[1]).zip(pixels.chunks_exact(size[1]));
    for ((out, pixels), plasma) in rows.zip(plasma.chunks_exact(side)) {
        for ((out, pixel), &fog) in out.iter_mut().zip(pixels).zip(plasma) {
            *out = pixel.map(|value| truncated((f32::from(value) + WHITE * density * fog) * dimming));
        }
    }
}

/// A height map by the diamond-square algorithm, `[side, side]` in `[0, 1]`; it wraps around. `side` is a power of two
/// above 1.
///
/// Every step halves the distance between known points and divides the roughness by `decay`, which counts twice: the
/// original multiplies it by a uniform number between its negative and itself.
fn plasma(side: usize, decay: f64, mut signed: impl FnMut() -> f32) -> Vec<f32> {
    let mut map = vec![0.0_f32; side * side];
    let mask = side - 1;
    let (mut step, mut roughness) = (side, 100.0_f64);
    while step >= 2 {
        let half = step / 2;
        let wobble = (roughness * roughness) as f32;
        // The four points at a distance of half a step, the map being a torus.
        let mut fill = |map: &mut [f32], top: usize, left: usize, corners: [[usize; 2]; 4]| {
            for y in (top..side).step_by(step) {
                for x in (left..side).step_by(step) {
                    let at = |[v, u]: [usize; 2]| map[((y + v) & mask) * side + ((x + u) & mask)];
                    let mean = corners.map(at).iter().sum::<f32>() / 4.0;
                    map[y * side + x] = mean + wobble * signed();
                }
            }
        };
        let back = side - half;
        let straight = [[0, half], [0, back], [half, 0], [back, 0]];
        fill(&mut map, half, half, [[half, half], [half, back], [back, half], [back, back]]);
        fill(&mut map, 0, half, straight);
        fill(&mut map, half, 0, straight);
        step = half;
        roughness /= decay;
    }
    let lowest = map.iter().copied().fold(f32::INFINITY, f32::min);
    let highest = map.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    // Random numbers that are all alike, and only they, make a flat map.
    let range = if highest > lowest { highest - lowest } else { 1.0 };
    for value in &mut map {
        *value = (*value - lowest) / range;
    }
    map
}

/// Adds `amount` of white to the value of HSV.
///
/// Hue and saturation are ratios of the channels, so that it is the same as to multiply all three by what the largest
/// is multiplied by. Black has neither and becomes grey.
pub(crate) fn brightness(image: &[u8], amount: f64, out: &mut [u8]) {
    let (pixels, _) = image.as_chunks::<3>();
    let (out, _) = out.as_chunks_mut::<3>();
    for (out, &[red, green, blue]) in out.iter_mut().zip(pixels) {
        let value = f64::from(red.max(green).max(blue));
        let brighter = (value + 255.0 * amount).min(255.0);
        *out = [red, green, blue]
            .map(|level| truncated(if value > 0.0 { f64::from(level) * brighter / value } else { brighter } as f32));
    }
}
