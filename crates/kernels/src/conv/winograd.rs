//! 3x3 convolutions without a stride by Winograd's minimal filtering F(4x4, 3x3): 36 multiplications for what takes 144.
//!
//! Lavin and Gray 2016, <https://arxiv.org/abs/1509.09308>. Tiles of 6x6 input pixels, four apart, are transformed
//! (`B^T d B`), multiplied channel by channel with transformed weights (`G g G^T`) in 36 matrix products, and
//! transformed back to 4x4 output pixels (`A^T m A`). What it costs is accuracy: the points 0, 1, -1, 2, -2 make errors
//! some ten times those of the plain sum, see the tests.

use super::Conv2d;
use super::forward::Write;
use super::plane::SLACK;
use super::tile::{Row, Sweep};
use super::weights::Matrix;
use crate::Level;
use crate::level::Kernel;
use crate::scratch::Scratch;
use crate::vector::Vector;
use std::ops::Range;

/// Output pixels of a tile's side.
pub(crate) const TILE: usize = 4;
/// Input pixels of a tile's side.
const PATCH: usize = TILE + 2;
/// Products of a tile.
const POINTS: usize = PATCH * PATCH;
/// Transformed tiles that are worked on together should stay in a second-level cache.
const CHUNK_VALUES: usize = 128 * 1024;

/// A convolution with its weights transformed and packed: made once, run over any number of images.
#[derive(Debug)]
pub(crate) struct Winograd {
    level: Level,
    height: usize,
    width: usize,
    matrix: Matrix,
    /// One packed matrix a point.
    weights: Vec<Scratch>,
}

impl Winograd {
    /// Whether it serves a convolution, and is worth it.
    pub(crate) fn serves(conv: &Conv2d) -> bool {
        let &Conv2d { height, width, channels_in, channels_out, kernel, stride, padding, .. } = conv;
        (kernel, stride, padding) == (3, 1, 1) && height.min(width) >= 2 * TILE && channels_in >= 8 && channels_out >= 8
    }

    /// [`super::conv2d`] with `weights` `[out, in, 3, 3]`.
    pub(crate) fn forward(level: Level, conv: &Conv2d, weights: &[f32]) -> Self {
        let inputs = conv.channels_in;
        Self::new(level, conv, [inputs, conv.channels_out], |o, i| {
            std::array::from_fn(|tap| weights[(o * inputs + i) * 9 + tap])
        })
    }

    /// [`super::conv2d_input_grad`]: the same with the weights turned around and channels exchanged.
    pub(crate) fn input_grad(level: Level, conv: &Conv2d, weights: &[f32]) -> Self {
        let inputs = conv.channels_in;
        Self::new(level, conv, [conv.channels_out, inputs], |o, i| {
            std::array::from_fn(|tap| weights[(i * inputs + o) * 9 + 8 - tap])
        })
    }

    /// `kernel(lane, depth)` is the 3x3 from one channel to another.
    #[allow(clippy::cast_possible_truncation)] // f64 within, rounded once
    fn new(level: Level, conv: &Conv2d, [depth, lanes]: [usize; 2], kernel: impl Fn(usize, usize) -> [f32; 9]) -> Self {
        const G: [[f64; 3]; PATCH] = [
            [1.0 / 4.0, 0.0, 0.0],
            [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
            [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
            [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
            [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
            [0.0, 0.0, 1.0],
        ];
        let mut transformed = vec![vec![0.0f32; lanes * depth]; POINTS];
        for lane in 0..lanes {
            for channel in 0..depth {
                let g = kernel(lane, channel).map(f64::from);
                for point in 0..POINTS {
                    let (u, v) = (point / PATCH, point % PATCH);
                    let sum: f64 = (0..9).map(|tap| G[u][tap / 3] * g[tap] * G[v][tap % 3]).sum();
                    transformed[point][lane * depth + channel] = sum as f32;
                }
            }
        }
        let matrix = Matrix { depth, block: 16, lanes, vector: level.lanes() };
        let pack = |weights: &Vec<f32>| {
            let mut packed = Scratch::of(matrix.padded_lanes() * depth);
            matrix.pack(&[()], weights, packed.as_mut_slice(), |channel, lane, ()| Some(lane * depth + channel));
            packed
        };
        let weights = transformed.iter().map(pack).collect();
        Self { level, height: conv.height, width: conv.width, matrix, weights }
    }

    /// Values of the packed weights.
    pub(crate) fn weights(&self) -> usize {
        self.weights.iter().map(|weights| weights.as_slice().len()).sum()
    }

    /// Values of the working memory of a thread.
    pub(crate) fn working(&self) -> usize {
        let tiles = self.across() * self.together();
        POINTS * tiles * (self.depth() + self.matrix.padded_lanes()) + 2 * SLACK
    }

    /// Over a few images, on this thread.
    pub(crate) fn images(&self, from: &[f32], to: &mut [f32], write: Write) {
        let image = self.height * self.width * self.matrix.depth;
        self.strips(from, to, 0..from.len() / image * self.down(), write);
    }

    /// Some rows of one image, on this thread; `rows` begin at a multiple of [`TILE`] and `to` holds those rows.
    pub(crate) fn rows(&self, from: &[f32], to: &mut [f32], rows: Range<usize>) {
        assert!(rows.start.is_multiple_of(TILE), "rows {rows:?} begin within a tile");
        self.strips(from, to, rows.start / TILE..rows.end.div_ceil(TILE), Write::Over);
    }

    /// Rows of tiles, counted over images; `to` begins where they do.
    fn strips(&self, from: &[f32], to: &mut [f32], strips: Range<usize>, write: Write) {
        let first = strips.start;
        for start in strips.clone().step_by(self.together()) {
            let strips = start..(start + self.together()).min(strips.end);
            self.level.run(Strips { walk: self, from, to: &mut *to, first, strips, write });
        }
    }

    /// Rows of tiles of an image.
    fn down(&self) -> usize {
        self.height.div_ceil(TILE)
    }

    /// Tiles of a row.
    fn across(&self) -> usize {
        self.width.div_ceil(TILE)
    }

    /// Channels that are summed over, in whole blocks.
    fn depth(&self) -> usize {
        self.matrix.depth.next_multiple_of(self.matrix.block)
    }

    /// Rows of tiles that are worked on together.
    fn together(&self) -> usize {
        let strip = POINTS * self.across() * (self.depth() + self.matrix.padded_lanes());
        (CHUNK_VALUES / strip).max(1)
    }
}

/// Some rows of tiles: there, multiplied and back.
struct Strips<'a> {
    walk: &'a Winograd,
    from: &'a [f32],
    to: &'a mut [f32],
    /// The row of tiles that `to` begins with.
    first: usize,
    strips: Range<usize>,
    write: Write,
}

impl Kernel for Strips<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { walk, from, to, first, strips, write } = self;
        let tiles = strips.len() * walk.across();
        let (depth, lanes) = (walk.depth(), walk.matrix.padded_lanes());
        // Transformed inputs, `[point][block][tile][16]`, and products, `[point][tile][lane]`.
        let (pitch_in, pitch_out) = (depth * tiles, lanes * tiles);
        let mut inputs = Scratch::of(POINTS * pitch_in + SLACK);
        let mut products = Scratch::of(POINTS * pitch_out);
        for (number, strip) in strips.clone().enumerate() {
            walk.enter::<V>(from, strip, number * walk.across(), tiles, inputs.as_mut_slice());
        }
        let row = [Row { from: 0, to: 0 }];
        for point in 0..POINTS {
            let sweep = Sweep {
                matrix: walk.matrix,
                planes: &inputs.as_slice()[point * pitch_in..][..pitch_in + SLACK],
                block_pitch: 16 * tiles,
                taps: &[0],
                weights: walk.weights[point].as_slice(),
                rows: &row,
                origin: 0,
                columns: tiles,
                column_step: lanes,
                add: false,
                output: &mut products.as_mut_slice()[point * pitch_out..][..pitch_out],
            };
            sweep.run::<V>();
        }
        for (number, strip) in strips.enumerate() {
            walk.leave::<V>(products.as_slice(), number * walk.across(), tiles, strip, first, to, write);
        }
    }
}

impl Winograd {
    /// Transforms the inputs of a row of tiles.
    #[inline(always)]
    fn enter<V: Vector>(&self, from: &[f32], strip: usize, tile: usize, tiles: usize, to: &mut [f32]) {
        let (height, width, channels) = (self.height, self.width, self.matrix.depth);
        let (image, top) = (strip / self.down(), strip % self.down() * TILE);
        let from = &from[image * height * width * channels..][..height * width * channels];
        let pitch = self.depth() * tiles;
        assert!(to.len() >= POINTS * pitch && tile + self.across() <= tiles);
        for at in 0..self.across() {
            let left = at * TILE;
            let mut lane = 0;
            while lane < channels {
                let count = channels - lane;
                let mut patch = [[V::splat(0.0); PATCH]; PATCH];
                for y in 0..PATCH {
                    // Row `top + y - 1` and column `left + x - 1` of the image; zeros outside.
                    let Some(row) = (top + y).checked_sub(1).filter(|row| *row < height) else { continue };
                    for x in 0..PATCH {
                        let Some(column) = (left + x).checked_sub(1).filter(|column| *column < width) else { continue };
                        let place = (row * width + column) * channels + lane;
                        // SAFETY: the pixel lies in the image, and `count` channels of it from `lane` on.
                        patch[y][x] = unsafe { V::load_up_to(from.as_ptr().add(place), count) };
                    }
                }
                for x in 0..PATCH {
                    let column = forth([0, 1, 2, 3, 4, 5].map(|y| patch[y][x]));
                    for y in 0..PATCH {
                        patch[y][x] = column[y];
                    }
                }
                let place = lane / 16 * 16 * tiles + (tile + at) * 16 + lane % 16;
                for y in 0..PATCH {
                    let row = forth(patch[y]);
                    for x in 0..PATCH {
                        // SAFETY: a block of 16 lanes lies at each point's tile, vectors do not straddle blocks, and the
                        // assertion above has compared the last point's end with the memory.
                        unsafe { row[x].store(to.as_mut_ptr().add((y * PATCH + x) * pitch + place)) }
                    }
                }
                lane += V::LANES;
            }
        }
    }

    /// Transforms the products of a row of tiles back into output pixels.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)] // the two sides of one copy
    fn leave<V: Vector>(
        &self,
        from: &[f32],
        tile: usize,
        tiles: usize,
        strip: usize,
        first: usize,
        to: &mut [f32],
        write: Write,
    ) {
        let (height, width, channels) = (self.height, self.width, self.matrix.lanes);
        // Pixels of whole images and of rows of tiles before this one, counted from where `to` begins.
        let row_of = |strip: usize| strip / self.down() * height + strip % self.down() * TILE;
        let (start, top) = (row_of(strip) - row_of(first), strip % self.down() * TILE);
        let rows = TILE.min(height - top);
        let padded = self.matrix.padded_lanes();
        let pitch = padded * tiles;
        assert!(from.len() >= POINTS * pitch && tile + self.across() <= tiles);
        assert!(to.len() >= (start + rows) * width * channels);
        for at in 0..self.across() {
            let left = at * TILE;
            let columns = TILE.min(width - left);
            let mut lane = 0;
            while lane < channels {
                let count = channels - lane;
                let mut half = [[V::splat(0.0); PATCH]; TILE];
                let place = (tile + at) * padded + lane;
                for x in 0..PATCH {
                    // SAFETY: `padded` lanes lie at each point's tile; see the assertion above.
                    let column = [0, 1, 2, 3, 4, 5]
                        .map(|y| unsafe { V::load(from.as_ptr().add((y * PATCH + x) * pitch + place)) });
                    let column = back(column);
                    for y in 0..TILE {
                        half[y][x] = column[y];
                    }
                }
                for y in 0..rows {
                    let row = back(half[y]);
                    for x in 0..columns {
                        let place = ((start + y) * width + left + x) * channels + lane;
                        // SAFETY: the pixel lies before the end that was asserted, and `count` channels of it.
                        unsafe {
                            let to = to.as_mut_ptr().add(place);
                            let value = if write == Write::Add { row[x].add(V::load_up_to(to, count)) } else { row[x] };
                            value.store_up_to(to, count);
                        }
                    }
                }
                lane += V::LANES;
            }
        }
    }
}

/// A row of `B^T`.
#[inline(always)]
fn forth<V: Vector>(d: [V; PATCH]) -> [V; PATCH] {
    let [two, four, minus_four, minus_five] = [2.0, 4.0, -4.0, -5.0].map(V::splat);
    // d4 - 4 d2 and d3 - 4 d1, d4 - d2 and 2 (d3 - d1): the halves that points of opposite signs share.
    let (even, odd) = (d[2].mul_add(minus_four, d[4]), d[1].mul_add(minus_four, d[3]));
    let (even_two, odd_two) = (d[4].sub(d[2]), d[3].sub(d[1]).mul(two));
    [
        d[0].mul_add(four, d[2].mul_add(minus_five, d[4])),
        even.add(odd),
        even.sub(odd),
        even_two.add(odd_two),
        even_two.sub(odd_two),
        d[1].mul_add(four, d[3].mul_add(minus_five, d[5])),
    ]
}

/// A row of `A^T`.
#[inline(always)]
fn back<V: Vector>(m: [V; PATCH]) -> [V; TILE] {
    let [two, four, eight] = [2.0, 4.0, 8.0].map(V::splat);
    let (sum, difference) = (m[1].add(m[2]), m[1].sub(m[2]));
    let (sum_two, difference_two) = (m[3].add(m[4]), m[3].sub(m[4]));
    [
        m[0].add(sum).add(sum_two),
        difference_two.mul_add(two, difference),
        sum_two.mul_add(four, sum),
        difference_two.mul_add(eight, difference).add(m[5]),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::forward::Walk;
    use super::*;
    use proptest::prelude::*;

    fn noise(length: usize, seed: u64) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        (0..length).map(|_| next()).collect()
    }

    /// The largest error relative to the largest value.
    fn error(found: &[f32], exact: &[f32]) -> f32 {
        let scale = exact.iter().fold(1e-3f32, |most, value| most.max(value.abs()));
        found.iter().zip(exact).map(|(found, exact)| (found - exact).abs() / scale).fold(0.0, f32::max)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn it_is_the_convolution_and_its_gradient(
            batch in 1usize..5, height in 8usize..21, width in 8usize..21,
            channels_in in 8usize..40, channels_out in 8usize..40, seed in 1u64..1000,
        ) {
            let conv = Conv2d { batch, height, width, channels_in, channels_out, kernel: 3, stride: 1, padding: 1 };
            prop_assert!(Winograd::serves(&conv));
            let weights = noise(conv.weight_len(), seed);
            let (x, dy) = (noise(conv.input_len(), seed + 1), noise(conv.output_len(), seed + 2));
            for level in Level::available() {
                let (mut exact, mut found) = (vec![f32::NAN; dy.len()], vec![f32::NAN; dy.len()]);
                Walk::forward(level, &conv, &weights).images(&x, &mut exact, Write::Over);
                let forward = Winograd::forward(level, &conv, &weights);
                forward.images(&x, &mut found, Write::Over);
                prop_assert!(error(&found, &exact) < 2e-5, "{level:?}: {}", error(&found, &exact));
                // An image by rows is the image.
                let image = found.len() / batch;
                let mut by_rows = vec![f32::NAN; image];
                let (first, rest) = by_rows.split_at_mut(4 * width * channels_out);
                forward.rows(&x[..x.len() / batch], first, 0..4);
                forward.rows(&x[..x.len() / batch], rest, 4..height);
                prop_assert_eq!(&by_rows, &found[..image]);
                let (mut exact, mut found) = (vec![1.0; x.len()], vec![1.0; x.len()]);
                Walk::input_grad(level, &conv, &weights).images(&dy, &mut exact, Write::Add);
                Winograd::input_grad(level, &conv, &weights).images(&dy, &mut found, Write::Add);
                prop_assert!(error(&found, &exact) < 2e-5, "{level:?}: {}", error(&found, &exact));
            }
        }
    }
}
