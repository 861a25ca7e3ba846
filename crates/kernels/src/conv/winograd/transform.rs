//! The transformations of F(2x2, 3x3) and F(4x4, 3x3), of patches of 4 and of 6 pixels a side.

use super::super::half;
use super::Tile;
use crate::level::Kernel;
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

/// `G g G^T` of as many 3x3 as there are lanes.
#[inline(always)]
fn transformed<V: Vector, const PATCH: usize>(g: [V; 9]) -> [[V; PATCH]; PATCH] {
    let mut half = [[g[0]; 3]; PATCH];
    for x in 0..3 {
        let column = row_of_weights::<V, PATCH>([g[x], g[3 + x], g[6 + x]]);
        for y in 0..PATCH {
            half[y][x] = column[y];
        }
    }
    let mut out = [[g[0]; PATCH]; PATCH];
    for y in 0..PATCH {
        out[y] = row_of_weights::<V, PATCH>(half[y]);
    }
    out
}

/// A row of `G`.
#[inline(always)]
fn row_of_weights<V: Vector, const PATCH: usize>([a, b, c]: [V; 3]) -> [V; PATCH] {
    let times = |x: V, factor: f32| x.mul(V::splat(factor));
    let mut out = [c; PATCH];
    let ends = a.add(c);
    if PATCH == 4 {
        (out[0], out[1], out[2]) = (a, times(ends.add(b), 0.5), times(ends.sub(b), 0.5));
        return out;
    }
    out[0] = times(a, 0.25);
    (out[1], out[2]) = (times(ends.add(b), -1.0 / 6.0), times(ends.sub(b), -1.0 / 6.0));
    let (ends, middle) = (times(a, 1.0 / 24.0).add(times(c, 1.0 / 6.0)), times(b, 1.0 / 12.0));
    (out[3], out[4]) = (ends.add(middle), ends.sub(middle));
    out
}

/// Transforms the weights of some lanes into their piece of each point's matrix, `[channel][lane]`.
pub(super) struct Prepare<'a, F> {
    pub tile: Tile,
    pub bf16: bool,
    /// Channels that are read, and the same in words where there are words.
    pub inputs: usize,
    pub depth: usize,
    /// The first lane, those that there are from it on, and those of the piece.
    pub first: usize,
    pub lanes: usize,
    pub width: usize,
    /// `kernel(lane, channel)` is the 3x3 from one channel to another.
    pub kernel: &'a F,
    /// A piece a point.
    pub pieces: Vec<&'a mut [f32]>,
}

impl<F: Fn(usize, usize) -> [f32; 9]> Kernel for Prepare<'_, F> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        match self.tile {
            Tile::Two => self.points::<V, 4>(),
            Tile::Four => self.points::<V, 6>(),
        }
    }
}

impl<F: Fn(usize, usize) -> [f32; 9]> Prepare<'_, F> {
    #[inline(always)]
    fn points<V: Vector, const PATCH: usize>(mut self) {
        assert!(self.width.is_multiple_of(V::LANES) && self.pieces.len() == PATCH * PATCH);
        assert!(self.pieces.iter().all(|piece| piece.len() >= self.depth * self.width));
        for channel in 0..self.depth {
            for lane in (0..self.width).step_by(V::LANES) {
                let [low, high] = if self.bf16 { half::channels_of(channel) } else { [channel; 2] };
                let mut points = transformed::<V, PATCH>(self.taps(low, lane));
                if self.bf16 {
                    let above = transformed::<V, PATCH>(self.taps(high, lane));
                    for y in 0..PATCH {
                        for x in 0..PATCH {
                            points[y][x] = above[y][x].above(points[y][x].low_half());
                        }
                    }
                }
                let place = channel * self.width + lane;
                for y in 0..PATCH {
                    for x in 0..PATCH {
                        // SAFETY: a piece has `depth` rows of `width` lanes, whole vectors, by the assertions above.
                        unsafe { points[y][x].store(self.pieces[y * PATCH + x].as_mut_ptr().add(place)) }
                    }
                }
            }
        }
    }

    /// The 3x3 from a channel to the lanes from `lane` on; zeros from and to those that are none.
    #[inline(always)]
    fn taps<V: Vector>(&self, channel: usize, lane: usize) -> [V; 9] {
        let mut taps = [[0.0f32; 16]; 9];
        if channel < self.inputs {
            for at in 0..self.lanes.saturating_sub(lane).min(V::LANES) {
                let kernel = (self.kernel)(self.first + lane + at, channel);
                for tap in 0..9 {
                    taps[tap][at] = kernel[tap];
                }
            }
        }
        let mut out = [V::splat(0.0); 9];
        for tap in 0..9 {
            // SAFETY: no level has more than 16 lanes.
            out[tap] = unsafe { V::load(taps[tap].as_ptr()) };
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::noise;
    use super::super::turned::plain;
    use super::*;
    use crate::vector::Portable;

    #[test]
    fn a_transformed_kernel_is_found_again() {
        let values = noise(9 * 8, 4);
        // SAFETY: eight lanes lie behind each tap's start, and in each array.
        let taps = std::array::from_fn(|tap| unsafe { Portable::load(values[8 * tap..].as_ptr()) });
        let lane = |x: Portable, lane: usize| {
            let mut lanes = [0.0; 8];
            unsafe { x.store(lanes.as_mut_ptr()) }
            lanes[lane]
        };
        let (two, four) = (transformed::<Portable, 4>(taps), transformed::<Portable, 6>(taps));
        for at in 0..8 {
            let [two, four] =
                [plain(two.map(|row| row.map(|x| lane(x, at)))), plain(four.map(|row| row.map(|x| lane(x, at))))];
            for (tap, found) in two.into_iter().enumerate().chain(four.into_iter().enumerate()) {
                assert!((found - values[8 * tap + at]).abs() < 2e-6, "{found}, {}", values[8 * tap + at]);
            }
        }
    }
}
