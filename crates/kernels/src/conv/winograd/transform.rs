//! The transformations of F(2x2, 3x3) and F(4x4, 3x3), of patches of 4 and of 6 pixels a side.

use super::super::half;
use crate::vector::Vector;

/// A row of `B^T`.
#[inline(always)]
pub(super) fn forth<V: Vector, const PATCH: usize>(d: [V; PATCH]) -> [V; PATCH] {
    let mut out = d;
    if PATCH == 4 {
        (out[0], out[1]) = (d[0].sub(d[2]), d[1].add(d[2]));
        (out[2], out[3]) = (d[2].sub(d[1]), d[1].sub(d[3]));
        return out;
    }
    let [two, four, minus_four, minus_five] = [2.0, 4.0, -4.0, -5.0].map(V::splat);
    // d4 - 4 d2 and d3 - 4 d1, d4 - d2 and 2 (d3 - d1): the halves that points of opposite signs share.
    let (even, odd) = (d[2].mul_add(minus_four, d[4]), d[1].mul_add(minus_four, d[3]));
    let (even_two, odd_two) = (d[4].sub(d[2]), d[3].sub(d[1]).mul(two));
    out[0] = d[0].mul_add(four, d[2].mul_add(minus_five, d[4]));
    (out[1], out[2]) = (even.add(odd), even.sub(odd));
    (out[3], out[4]) = (even_two.add(odd_two), even_two.sub(odd_two));
    out[5] = d[1].mul_add(four, d[3].mul_add(minus_five, d[5]));
    out
}

/// A row of `A^T`.
#[inline(always)]
pub(super) fn back<V: Vector, const SIDE: usize, const PATCH: usize>(m: [V; PATCH]) -> [V; SIDE] {
    let mut out = [m[0]; SIDE];
    if PATCH == 4 {
        (out[0], out[1]) = (m[0].add(m[1]).add(m[2]), m[1].sub(m[2]).sub(m[3]));
        return out;
    }
    let [two, four, eight] = [2.0, 4.0, 8.0].map(V::splat);
    let (sum, difference) = (m[1].add(m[2]), m[1].sub(m[2]));
    let (sum_two, difference_two) = (m[3].add(m[4]), m[3].sub(m[4]));
    out[0] = m[0].add(sum).add(sum_two);
    out[1] = difference_two.mul_add(two, difference);
    out[2] = sum_two.mul_add(four, sum);
    out[3] = difference_two.mul_add(eight, difference).add(m[5]);
    out
}

/// `G g G^T` of a 3x3.
pub(super) fn transformed<const PATCH: usize>(g: [f32; 9]) -> [[f32; PATCH]; PATCH] {
    let mut half = [[0.0; 3]; PATCH];
    for x in 0..3 {
        let column = row_of_weights::<PATCH>([g[x], g[3 + x], g[6 + x]]);
        for y in 0..PATCH {
            half[y][x] = column[y];
        }
    }
    half.map(row_of_weights::<PATCH>)
}

/// [`transformed`], of the channel or, in bf16, of the two channels of a word.
pub(super) fn prepared<const PATCH: usize>(
    bf16: bool,
    channel: usize,
    kernel: impl Fn(usize) -> [f32; 9],
) -> [[f32; PATCH]; PATCH] {
    if !bf16 {
        return transformed(kernel(channel));
    }
    let [low, high] = half::channels_of(channel).map(|channel| transformed::<PATCH>(kernel(channel)));
    std::array::from_fn(|y| std::array::from_fn(|x| half::word([low[y][x], high[y][x]])))
}

/// A row of `G`.
pub(super) fn row_of_weights<const PATCH: usize>([a, b, c]: [f32; 3]) -> [f32; PATCH] {
    let mut out = [c; PATCH];
    if PATCH == 4 {
        (out[0], out[1], out[2]) = (a, 0.5 * (a + c + b), 0.5 * (a + c - b));
        return out;
    }
    out[0] = a / 4.0;
    (out[1], out[2]) = (-(a + c + b) / 6.0, -(a + c - b) / 6.0);
    (out[3], out[4]) = (a / 24.0 + c / 6.0 + b / 12.0, a / 24.0 + c / 6.0 - b / 12.0);
    out
}

/// A weight to its place in the matrix of every point.
pub(super) fn spread<const PATCH: usize>(weights: &[[f32; PATCH]; PATCH], pieces: &mut [&mut [f32]], to: usize) {
    weights.iter().flatten().zip(pieces).for_each(|(weight, piece)| piece[to] = *weight);
}
