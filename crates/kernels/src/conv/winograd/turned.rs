//! From prepared weights to those of the gradient, so that nobody need keep the plain ones for it.

use super::{Tile, Winograd};
use crate::Conv2d;

impl Winograd {
    /// [`Winograd::input_grad`] of the same weights, which are found again in the transformed ones to within a few
    /// roundings: far less than the transformation costs.
    pub(crate) fn turned(&self) -> Self {
        let (channels_in, channels_out) = (self.matrix.depth, self.matrix.lanes);
        let (height, width) = (self.height, self.width);
        let conv = Conv2d { batch: 1, height, width, channels_in, channels_out, kernel: 3, stride: 1, padding: 1 };
        assert!(!self.matrix.bf16, "what was rounded is not found again");
        Self::new(false, self.tile, self.level, &conv, [channels_out, channels_in], |input, output| {
            let mut kernel = match self.tile {
                Tile::Two => plain::<4>(self.gathered(output, input)),
                Tile::Four => plain::<6>(self.gathered(output, input)),
            };
            kernel.reverse();
            kernel
        })
    }

    /// The transformed 3x3 from one channel to another.
    fn gathered<const PATCH: usize>(&self, lane: usize, channel: usize) -> [[f32; PATCH]; PATCH] {
        let pair = 2 * self.matrix.vector;
        let (first, depth) = (lane / pair * pair, self.matrix.depth);
        let width = self.matrix.group(first) * self.matrix.vector;
        let place = first * depth + channel * width + lane - first;
        let pitch = self.matrix.padded_lanes() * depth;
        let weights = self.weights.as_slice();
        std::array::from_fn(|y| std::array::from_fn(|x| weights[(y * PATCH + x) * pitch + place]))
    }
}

/// The 3x3 of a transformed one, the transformation the other way.
pub(super) fn plain<const PATCH: usize>(u: [[f32; PATCH]; PATCH]) -> [f32; 9] {
    let half = u.map(row);
    let columns: [[f32; 3]; 3] = std::array::from_fn(|x| row(std::array::from_fn::<_, PATCH, _>(|y| half[y][x])));
    std::array::from_fn(|tap| columns[tap % 3][tap / 3])
}

/// What a row of `G` was made of.
fn row<const PATCH: usize>(u: [f32; PATCH]) -> [f32; 3] {
    match PATCH {
        4 => [u[0], u[1] - u[2], u[3]],
        _ => [4.0 * u[0], 3.0 * (u[2] - u[1]), u[PATCH - 1]],
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::noise;
    use super::*;
    use crate::Level;

    #[test]
    fn the_gradient_is_that_of_the_weights() {
        for (channels_in, channels_out) in [(8, 8), (9, 33), (40, 17), (64, 64)] {
            let conv =
                Conv2d { batch: 1, height: 9, width: 11, channels_in, channels_out, kernel: 3, stride: 1, padding: 1 };
            let weights = noise(conv.weight_len(), 3);
            for (level, tile) in Level::available().flat_map(|level| [(level, Tile::Two), (level, Tile::Four)]) {
                let exact = Winograd::input_grad(false, tile, level, &conv, &weights);
                let found = Winograd::forward(false, tile, level, &conv, &weights).turned();
                let most = exact.weights.as_slice().iter().fold(0f32, |most, value| most.max(value.abs()));
                for (found, exact) in found.weights.as_slice().iter().zip(exact.weights.as_slice()) {
                    assert!((found - exact).abs() <= 2e-6 * most, "{level:?} {tile:?}: {found}, {exact}");
                }
            }
        }
    }
}
