//! Correlation with a kernel that has few values, or none of a simple shape.

use crate::axis::Border;

/// A value of a kernel: where it looks, seen from the output, and its weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Tap {
    pub y: isize,
    pub x: isize,
    pub weight: f32,
}

/// The weighted sum of what the taps look at, for every pixel of `C` values: `image` `[height, width, C]`.
pub(crate) fn convolve<const C: usize>(
    image: &[f32],
    [height, width]: [usize; 2],
    taps: &[Tap],
    border: Border,
) -> Vec<f32> {
    let reach = |side: fn(&Tap) -> isize| taps.iter().map(side).max().unwrap_or(0).max(0).cast_unsigned();
    let (above, below) = (reach(|tap| -tap.y), reach(|tap| tap.y));
    let (left, right) = (reach(|tap| -tap.x), reach(|tap| tap.x));

    // The image with a margin as wide as the taps reach.
    let stride = left + width + right;
    let mut padded = Vec::with_capacity((above + height + below) * stride * C);
    for y in 0..above + height + below {
        let row = border.index(y.cast_signed() - above.cast_signed(), height) * width;
        for x in 0..stride {
            let column = border.index(x.cast_signed() - left.cast_signed(), width);
            padded.extend_from_slice(&image[(row + column) * C..][..C]);
        }
    }

    let mut sums = vec![0.0; height * width * C];
    for (y, sums) in sums.chunks_exact_mut(width * C).enumerate() {
        for tap in taps {
            let row = (y + above).wrapping_add_signed(tap.y) * stride;
            let start = (row + left.wrapping_add_signed(tap.x)) * C;
            for (sum, value) in sums.iter_mut().zip(&padded[start..][..width * C]) {
                *sum += tap.weight * value;
            }
        }
    }
    sums
}
