//! Blurs: out of focus, behind glass, in motion, and moving closer.

use crate::axis::{Axis, Border, gaussian_blur};
use crate::convolve::{Tap, convolve};
use crate::levels::{from_bytes, to_bytes, truncated};

/// Blurs with a disk of `radius` pixels whose edge a Gaussian of sigma `softness` softens.
pub(crate) fn defocus_blur(image: &[u8], size: [usize; 2], radius: f64, softness: f64, out: &mut [u8]) {
    let blurred = convolve::<3>(&from_bytes(image), size, &disk(radius, softness), Border::Mirror);
    to_bytes(&blurred, out);
}

/// Sides of the kernel are at least twice this and one.
const DISK_MARGIN: isize = 8;

/// The kernel of [`defocus_blur`]. A disk that reaches its square's edge is softened by a wider Gaussian, and OpenCV
/// mirrors there, so that the sum may be a little off one.
fn disk(radius: f64, softness: f64) -> Vec<Tap> {
    let (half, reach) = if radius <= DISK_MARGIN as f64 { (DISK_MARGIN, 1) } else { (radius as isize, 2) };
    let side = (2 * half + 1).cast_unsigned();
    let inside = |y: isize, x: isize| ((y * y + x * x) as f64) <= radius * radius;
    let area = (-half..=half).flat_map(|y| (-half..=half).map(move |x| (y, x))).filter(|&(y, x)| inside(y, x)).count();
    let density = |tap: isize| (-0.5 * (tap as f64 / softness).powi(2)).exp();
    let sum: f64 = (-reach..=reach).map(density).sum();
    let mirrored = |place: isize| Border::Mirror.index(place + half, side).cast_signed() - half;

    let mut taps = Vec::new();
    for y in -half..=half {
        for x in -half..=half {
            let mut weight = 0.0;
            for v in -reach..=reach {
                for u in -reach..=reach {
                    if inside(mirrored(y + v), mirrored(x + u)) {
                        weight += density(v) * density(u) / (sum * sum * area as f64);
                    }
                }
            }
            let weight = weight as f32;
            if weight > 1e-9 {
                taps.push(Tap { y, x, weight });
            }
        }
    }
    taps
}

/// Blurs with a Gaussian of `sigma`, moves pixels within a window and blurs again.
///
/// `offset` gives, in the order `x`, `y`, how far away a pixel is fetched from; it is asked `rounds` times for all
/// pixels that are not within `reach` of the border, the last first. The original means to swap two pixels, but NumPy
/// makes that a copy, which is what the published images show and what is done here.
pub(crate) fn glass_blur(
    image: &[u8],
    size: [usize; 2],
    (sigma, reach, rounds): (f64, usize, usize),
    mut offset: impl FnMut() -> [isize; 2],
    out: &mut [u8],
) {
    let [height, width] = size;
    let mut levels = from_bytes(image);
    gaussian_blur::<3>(&mut levels, size, sigma, 4.0, Border::Nearest);
    for level in &mut levels {
        *level = f32::from(truncated(*level));
    }
    let (pixels, _) = levels.as_chunks_mut::<3>();
    for _ in 0..rounds {
        for y in (reach + 1..=height.saturating_sub(reach)).rev() {
            for x in (reach + 1..=width.saturating_sub(reach)).rev() {
                let [dx, dy] = offset();
                pixels[y * width + x] = pixels[y.wrapping_add_signed(dy) * width + x.wrapping_add_signed(dx)];
            }
        }
    }
    gaussian_blur::<3>(&mut levels, size, sigma, 4.0, Border::Nearest);
    to_bytes(&levels, out);
}

/// Blurs one-sidedly along a direction of `degrees`, 0 being to the right and 90 down.
pub(crate) fn motion_blur(image: &[u8], size: [usize; 2], radius: usize, sigma: f64, degrees: f64, out: &mut [u8]) {
    let blurred = convolve::<3>(&from_bytes(image), size, &streak(radius, sigma, degrees), Border::Nearest);
    to_bytes(&blurred, out);
}

/// The kernel of [`motion_blur`]: half a Gaussian of `2 radius + 1` values along a ray, each on the nearest pixel, as
/// ImageMagick's `MotionBlurImage` has it. (Its result goes through a PNG there, which cuts the fraction off.)
pub(crate) fn streak(radius: usize, sigma: f64, degrees: f64) -> Vec<Tap> {
    let taps = 2 * radius + 1;
    let density = |tap: usize| (-0.5 * (tap as f64 / sigma).powi(2)).exp();
    let sum: f64 = (0..taps).map(density).sum();
    let (sine, cosine) = degrees.to_radians().sin_cos();
    let nearest = |distance: f64| (distance - 0.5).ceil() as isize;
    (0..taps)
        .map(|tap| Tap {
            y: nearest(tap as f64 * sine),
            x: nearest(tap as f64 * cosine),
            weight: (density(tap) / sum) as f32,
        })
        .collect()
}

/// The mean of the image and of `count` magnifications of it, the first of which is 1 and each `step` more.
pub(crate) fn zoom_blur(image: &[u8], size: [usize; 2], (step, count): (f64, usize), out: &mut [u8]) {
    let [height, width] = size;
    let levels = from_bytes(image);
    let mut sums = levels.clone();
    let (mut between, mut zoomed) = (vec![0.0; levels.len()], vec![0.0; levels.len()]);
    // NumPy's `arange` multiplies the difference of its first two values.
    let step = (1.0 + step) - 1.0;
    for place in 0..count {
        let factor = 1.0 + place as f64 * step;
        Axis::zoom(height, factor).columns(&levels, width * 3, &mut between);
        Axis::zoom(width, factor).rows::<3>(&between, width, &mut zoomed);
        for (sum, value) in sums.iter_mut().zip(&zoomed) {
            *sum += value;
        }
    }
    let share = 1.0 / (count + 1) as f32;
    for sum in &mut sums {
        *sum *= share;
    }
    to_bytes(&sums, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_sum_to_one() {
        for (radius, softness) in [(0.3, 0.4), (1.5, 0.1), (3.0, 0.1), (6.0, 0.5)] {
            let sum: f32 = disk(radius, softness).iter().map(|tap| tap.weight).sum();
            assert!((sum - 1.0).abs() < 1e-6, "{radius}: {sum}");
        }
        // Where the disk touches its square's edge, OpenCV's mirror adds to it.
        for radius in [8.0, 10.0] {
            let sum: f32 = disk(radius, 0.5).iter().map(|tap| tap.weight).sum();
            assert!(sum > 1.001 && sum < 1.02, "{radius}: {sum}");
        }
        let sum: f32 = streak(9, 2.5, 33.0).iter().map(|tap| tap.weight).sum();
        assert!((sum - 1.0).abs() < 1e-6);
    }

    #[test]
    fn a_streak_follows_its_angle() {
        let end = |degrees| streak(5, 3.0, degrees).last().map(|tap| (tap.y, tap.x)).unwrap();
        assert_eq!([end(0.0), end(90.0), end(-90.0), end(45.0)], [(0, 10), (10, 0), (-10, 0), (7, 7)]);
    }
}
