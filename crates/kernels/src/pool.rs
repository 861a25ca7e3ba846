//! Global average pooling, channels-last.

use rayon::prelude::*;

/// The mean over the pixels of each image.
///
/// # Shapes
/// - `x`: `[batch, pixels, channels]` with `pixels = height * width`
/// - `y`: `[batch, channels]`, overwritten
///
/// # Panics
/// When the lengths do not match.
pub fn global_average_pool(pixels: usize, channels: usize, x: &[f32], y: &mut [f32]) {
    check(pixels, channels, x.len(), y.len());
    let scale = 1.0 / pixels as f32;
    y.par_chunks_mut(channels).zip(x.par_chunks(pixels * channels)).with_min_len(8).for_each(|(y, x)| {
        y.fill(0.0);
        for x in x.chunks_exact(channels) {
            for (y, x) in y.iter_mut().zip(x) {
                *y += x;
            }
        }
        for y in y {
            *y *= scale;
        }
    });
}

/// The gradient with respect to the input of [`global_average_pool`]: `dy / pixels` at every pixel.
///
/// # Shapes
/// - `dy`: `[batch, channels]`
/// - `dx`: `[batch, pixels, channels]`, overwritten
///
/// # Panics
/// When the lengths do not match.
pub fn global_average_pool_backward(pixels: usize, channels: usize, dy: &[f32], dx: &mut [f32]) {
    check(pixels, channels, dx.len(), dy.len());
    let scale = 1.0 / pixels as f32;
    dx.par_chunks_mut(pixels * channels).zip(dy.par_chunks(channels)).with_min_len(8).for_each(|(dx, dy)| {
        for dx in dx.chunks_exact_mut(channels) {
            for (dx, dy) in dx.iter_mut().zip(dy) {
                *dx = dy * scale;
            }
        }
    });
}

fn check(pixels: usize, channels: usize, x: usize, y: usize) {
    assert!(pixels > 0 && channels > 0, "{pixels} pixels of {channels} channels");
    assert!(
        y.is_multiple_of(channels) && x == y * pixels,
        "input of {x} values, output of {y}, with {pixels} pixels of {channels} channels"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_and_spreads() {
        let x: Vec<f32> = (0..2 * 4 * 3u8).map(f32::from).collect();
        let mut y = vec![0.0; 6];
        global_average_pool(4, 3, &x, &mut y);
        assert_eq!(y, [4.5, 5.5, 6.5, 16.5, 17.5, 18.5]);
        let mut dx = vec![0.0; x.len()];
        global_average_pool_backward(4, 3, &y, &mut dx);
        assert_eq!(dx[..6], [1.125, 1.375, 1.625, 1.125, 1.375, 1.625]);
        assert_eq!(dx[21..], [4.125, 4.375, 4.625]);
    }
}
