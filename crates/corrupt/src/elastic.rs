//! Elastic deformation: a random affine map, then small displacements.
//!
//! Simard, Steinkraus, Platt, "Best practices for convolutional neural networks applied to visual document analysis",
//! ICDAR 2003.

use crate::axis::{Border, gaussian_blur};
use crate::levels::{from_bytes, to_bytes};
use crate::published::Elastic;

/// Moves pixels. `signed` gives uniform numbers in `[-1, 1)`: six for the affine map, one for every pixel's horizontal
/// displacement, one for every pixel's vertical one.
pub(crate) fn elastic_transform(
    image: &[u8],
    size: [usize; 2],
    elastic: Elastic,
    mut signed: impl FnMut() -> f32,
    out: &mut [u8],
) {
    let side = size[0].min(size[1]);
    let [alpha, sigma, affine] = [elastic.alpha, elastic.sigma, elastic.affine].map(|part| part * side as f64);
    let jitter = [(); 6].map(|()| affine * f64::from(signed()));
    let [height, width] = size;

    let inverse = backwards(size, jitter);
    let mut moved = Vec::with_capacity(image.len());
    let levels = from_bytes(image);
    for y in 0..height {
        for x in 0..width {
            let [to_x, to_y] = inverse.map(|[a, b, c]| a * x as f64 + b * y as f64 + c);
            moved.extend(sample(&levels, size, [to_y as f32, to_x as f32], Border::Mirror));
        }
    }

    let mut displacement = || {
        let mut field: Vec<f32> = (0..height * width).map(|_| signed()).collect();
        gaussian_blur::<1>(&mut field, size, sigma, 3.0, Border::Reflect);
        field.iter_mut().for_each(|value| *value *= alpha as f32);
        field
    };
    let (dx, dy) = (displacement(), displacement());
    let mut deformed = Vec::with_capacity(image.len());
    for (place, (dx, dy)) in dx.iter().zip(&dy).enumerate() {
        let at = [(place / width) as f32 + dy, (place % width) as f32 + dx];
        deformed.extend(sample(&moved, size, at, Border::Reflect));
    }
    to_bytes(&deformed, out);
}

/// Where an output pixel comes from: `[x, y]`, each as factors of `x` and `y` and a constant.
///
/// The affine map takes three corners of a square in the middle to where `jitter` moves them, in the order x, y. A map
/// that flattens the square sends everything to the origin, as OpenCV's does.
fn backwards([height, width]: [usize; 2], jitter: [f64; 6]) -> [[f64; 3]; 2] {
    let square = (height.min(width) / 3).max(1) as f64;
    let (x, y) = ((width / 2) as f64, (height / 2) as f64);
    let [ax, ay, bx, by, cx, cy] = jitter;
    let (a, b, c) =
        ([x + square + ax, y + square + ay], [x + square + bx, y - square + by], [x - square + cx, y - square + cy]);
    // From b, one side of the square goes to c and the other to a.
    let across = [(b[0] - c[0]) / (2.0 * square), (b[1] - c[1]) / (2.0 * square)];
    let down = [(a[0] - b[0]) / (2.0 * square), (a[1] - b[1]) / (2.0 * square)];
    let determinant = across[0] * down[1] - down[0] * across[1];
    let inverse = if determinant == 0.0 { 0.0 } else { 1.0 / determinant };
    let row = |factor_x: f64, factor_y: f64, at_b: f64| {
        let (factor_x, factor_y) = (factor_x * inverse, factor_y * inverse);
        [factor_x, factor_y, if inverse == 0.0 { 0.0 } else { at_b - factor_x * b[0] - factor_y * b[1] }]
    };
    [row(down[1], -down[0], x + square), row(-across[1], across[0], y - square)]
}

/// Coordinates beyond this are cut off; an almost flat map has them.
const FARTHEST: f32 = 1e6;

/// The image between its pixels, bilinear.
#[inline(always)]
fn sample(levels: &[f32], [height, width]: [usize; 2], at: [f32; 2], border: Border) -> [f32; 3] {
    let [y, x] = at.map(|place| place.clamp(-FARTHEST, FARTHEST));
    let (top, left) = (y.floor(), x.floor());
    let (v, u) = (y - top, x - left);
    let pixel = |y: isize, x: isize| {
        let place = border.index(y, height) * width + border.index(x, width);
        <[f32; 3]>::try_from(&levels[3 * place..3 * place + 3]).unwrap_or_default()
    };
    let (top, left) = (top as isize, left as isize);
    let corners = [pixel(top, left), pixel(top, left + 1), pixel(top + 1, left), pixel(top + 1, left + 1)];
    let weights = [(1.0 - v) * (1.0 - u), (1.0 - v) * u, v * (1.0 - u), v * u];
    std::array::from_fn(|channel| corners.iter().zip(weights).map(|(corner, weight)| weight * corner[channel]).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_moves_without_jitter() {
        let [to_x, to_y] = backwards([20, 31], [0.0; 6]);
        for (found, expected) in to_x.iter().chain(&to_y).zip([1.0, 0.0, 0.0, 0.0, 1.0, 0.0]) {
            assert!((found - expected).abs() < 1e-12, "{to_x:?} {to_y:?}");
        }
    }

    #[test]
    fn a_shift_of_all_corners_is_a_shift_back() {
        let [to_x, to_y] = backwards([32, 32], [2.0, -3.0, 2.0, -3.0, 2.0, -3.0]);
        assert!((to_x[2] + 2.0).abs() < 1e-9 && (to_y[2] - 3.0).abs() < 1e-9, "{to_x:?} {to_y:?}");
    }

    #[test]
    fn a_flat_map_is_no_accident() {
        // All three corners in one point.
        let flat = backwards([9, 9], [-3.0, -3.0, -3.0, 3.0, 3.0, 3.0]);
        assert_eq!(flat, [[0.0; 3]; 2]);
    }
}
