//! 3x3 convolutions without a stride by Winograd's minimal filtering: F(2x2, 3x3) needs 16 multiplications for what takes
//! 36, F(4x4, 3x3) 36 for 144.
//!
//! Lavin and Gray 2016, <https://arxiv.org/abs/1509.09308>. Tiles of 4x4 (6x6) input pixels, two (four) apart, are
//! transformed (`B^T d B`), multiplied channel by channel with transformed weights (`G g G^T`) in 16 (36) matrix products,
//! and transformed back to 2x2 (4x4) output pixels (`A^T m A`). F(2x2) adds and subtracts, and is as accurate as the plain
//! sum; the points 2 and -2 of F(4x4) make errors some ten times as large, see the tests: good enough for a frozen
//! network, and not used to train one.

mod transform;
mod turned;

use super::Conv2d;
use super::forward::{Window, Write};
use super::half;
use super::plane::SLACK;
use super::tile::{Row, Sweep};
use super::weights::Matrix;
use crate::Level;
use crate::level::Kernel;
use crate::scratch::Scratch;
use crate::vector::Vector;
use rayon::prelude::*;
use std::ops::Range;
use transform::{Prepare, back, forth};

/// Transformed tiles that are worked on together should stay in a second-level cache.
const CHUNK_VALUES: usize = 128 * 1024;
/// But so many at least are, so that large weights are not fetched for a few.
const FEWEST_TILES: usize = 32;

/// How many output pixels a tile has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tile {
    /// F(2x2, 3x3).
    Two,
    /// F(4x4, 3x3).
    Four,
}

impl Tile {
    /// Output pixels of a side.
    const fn side(self) -> usize {
        match self {
            Self::Two => 2,
            Self::Four => 4,
        }
    }

    /// Products of a tile.
    const fn points(self) -> usize {
        (self.side() + 2) * (self.side() + 2)
    }
}

/// A convolution with its weights transformed and packed: made once, run over any number of images.
#[derive(Debug)]
pub(crate) struct Winograd {
    tile: Tile,
    level: Level,
    height: usize,
    width: usize,
    /// Channels that are read.
    inputs: usize,
    matrix: Matrix,
    /// One packed matrix after another, a point each.
    weights: Scratch,
}

impl Winograd {
    /// Whether it serves a convolution, and is worth it.
    pub(crate) fn serves(tile: Tile, conv: &Conv2d) -> bool {
        let &Conv2d { height, width, channels_in, channels_out, kernel, stride, padding, .. } = conv;
        let fits = height.min(width) >= 2 * tile.side() && channels_in.min(channels_out) >= 8;
        (kernel, stride, padding) == (3, 1, 1) && fits
    }

    /// [`super::conv2d`] with `weights` `[out, in, 3, 3]`. With products of `bf16`, the channels that are read are what
    /// [`super::pairs`] can join; here and of the gradient.
    pub(crate) fn forward(bf16: bool, tile: Tile, level: Level, conv: &Conv2d, weights: &[f32]) -> Self {
        let inputs = conv.channels_in;
        Self::new(bf16, tile, level, conv, [inputs, conv.channels_out], |o, i| {
            *weights[(o * inputs + i) * 9..].first_chunk().expect("a 3x3 for every pair of channels")
        })
    }

    /// [`super::conv2d_input_grad`]: the same with the weights turned around and channels exchanged.
    pub(crate) fn input_grad(bf16: bool, tile: Tile, level: Level, conv: &Conv2d, weights: &[f32]) -> Self {
        let inputs = conv.channels_in;
        Self::new(bf16, tile, level, conv, [conv.channels_out, inputs], |o, i| {
            let mut kernel = *weights[(i * inputs + o) * 9..].first_chunk().expect("a 3x3 for every pair of channels");
            kernel.reverse();
            kernel
        })
    }

    /// `kernel(lane, depth)` is the 3x3 from one channel to another.
    fn new(
        bf16: bool,
        tile: Tile,
        level: Level,
        conv: &Conv2d,
        [inputs, lanes]: [usize; 2],
        kernel: impl Fn(usize, usize) -> [f32; 9] + Sync,
    ) -> Self {
        assert!(!bf16 || half::pairs(inputs), "{inputs} channels in words");
        let depth = if bf16 { half::words(inputs) } else { inputs };
        let matrix = Matrix { depth, block: 16, lanes, vector: level.lanes(), bf16 };
        let pitch = matrix.padded_lanes() * depth;
        let mut weights = Scratch::of(tile.points() * pitch);
        // Lanes come in groups, and a group's part of each point's matrix is one piece: see `Matrix::pack`.
        let piece = 2 * matrix.vector * depth;
        let mut points: Vec<_> =
            weights.as_mut_slice().chunks_mut(pitch).map(|point| point.chunks_mut(piece)).collect();
        let groups: Vec<Vec<&mut [f32]>> = (0..pitch.div_ceil(piece))
            .map(|_| points.iter_mut().map(|pieces| pieces.next().expect("a piece a group")).collect())
            .collect();
        groups.into_par_iter().enumerate().for_each(|(group, pieces)| {
            let first = group * 2 * matrix.vector;
            let (width, lanes, kernel) = (matrix.group(first) * matrix.vector, lanes - first, &kernel);
            matrix.run(level, Prepare { tile, bf16, inputs, depth, first, lanes, width, kernel, pieces });
        });
        Self { tile, level, height: conv.height, width: conv.width, inputs, matrix, weights }
    }

    /// Rows of a tile.
    pub(crate) fn side(&self) -> usize {
        self.tile.side()
    }

    /// Values of the packed weights.
    pub(crate) fn weights(&self) -> usize {
        self.weights.as_slice().len()
    }

    /// Values of the working memory of a thread.
    pub(crate) fn working(&self) -> usize {
        let tiles = self.across() * self.together();
        self.tile.points() * tiles * (self.depth() + self.matrix.padded_lanes()) + 2 * SLACK
    }

    /// Over a batch, on all threads.
    pub(crate) fn over(&self, from: &[f32], to: &mut [f32]) {
        let pixels = self.height * self.width;
        let (length_from, length_to) = (pixels * self.inputs, pixels * self.matrix.lanes);
        let batch = from.len() / length_from;
        let group = self.together().div_ceil(self.down()).min(batch.div_ceil(2 * rayon::current_num_threads())).max(1);
        to.par_chunks_mut(group * length_to)
            .zip(from.par_chunks(group * length_from))
            .for_each(|(to, from)| self.images(from, to, Write::Over));
    }

    /// Over a few images, on this thread.
    pub(crate) fn images(&self, from: &[f32], to: &mut [f32], write: Write) {
        let image = self.height * self.width * self.inputs;
        self.strips(from, to, 0..from.len() / image * self.down(), write);
    }

    /// Some rows of one image, on this thread; `rows` begin at a multiple of the tile's side and `to` holds those rows.
    pub(crate) fn rows(&self, from: &[f32], to: &mut [f32], rows: Range<usize>) {
        let side = self.side();
        assert!(rows.start.is_multiple_of(side), "rows {rows:?} begin within a tile");
        self.strips(from, to, rows.start / side..rows.end.div_ceil(side), Write::Over);
    }

    /// Some pixels of one image, on this thread; `region` is made of whole tiles and `to` holds the image.
    pub(crate) fn region(&self, from: &[f32], to: &mut [f32], region: &Window) {
        assert!(*region == self.covering(region), "{region:?} is not made of whole tiles");
        let side = self.side();
        let [strips, columns] =
            [&region.rows, &region.columns].map(|range| range.start / side..range.end.div_ceil(side));
        self.matrix.run(self.level, Strips { walk: self, from, to, first: 0, strips, columns, write: Write::Over });
    }

    /// The whole tiles that pixels lie in.
    pub(crate) fn covering(&self, region: &Window) -> Window {
        let side = self.side();
        let whole = |range: &Range<usize>, length: usize| {
            range.start / side * side..range.end.next_multiple_of(side).min(length)
        };
        Window { rows: whole(&region.rows, self.height), columns: whole(&region.columns, self.width) }
    }

    /// Rows of tiles, counted over images; `to` begins where they do.
    fn strips(&self, from: &[f32], to: &mut [f32], strips: Range<usize>, write: Write) {
        let first = strips.start;
        for start in strips.clone().step_by(self.together()) {
            let strips = start..(start + self.together()).min(strips.end);
            let columns = 0..self.across();
            self.matrix.run(self.level, Strips { walk: self, from, to: &mut *to, first, strips, columns, write });
        }
    }

    /// Rows of tiles of an image.
    fn down(&self) -> usize {
        self.height.div_ceil(self.side())
    }

    /// Tiles of a row.
    fn across(&self) -> usize {
        self.width.div_ceil(self.side())
    }

    /// Channels that are summed over, in whole blocks.
    fn depth(&self) -> usize {
        self.matrix.depth.next_multiple_of(self.matrix.block)
    }

    /// Rows of tiles that are worked on together.
    fn together(&self) -> usize {
        let strip = self.tile.points() * self.across() * (self.depth() + self.matrix.padded_lanes());
        (CHUNK_VALUES / strip).max(FEWEST_TILES.div_ceil(self.across()))
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
    /// Tiles of each row.
    columns: Range<usize>,
    write: Write,
}

impl Kernel for Strips<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        match self.walk.tile {
            Tile::Two => self.tiled::<V, 2, 4>(),
            Tile::Four => self.tiled::<V, 4, 6>(),
        }
    }
}

impl Strips<'_> {
    #[inline(always)]
    fn tiled<V: Vector, const SIDE: usize, const PATCH: usize>(self) {
        let Self { walk, from, to, first, strips, columns, write } = self;
        let (points, tiles) = (PATCH * PATCH, strips.len() * columns.len());
        let (depth, lanes) = (walk.depth(), walk.matrix.padded_lanes());
        // Transformed inputs, `[point][block][tile][16]`, and products, `[point][tile][lane]`.
        let (pitch_in, pitch_out) = (depth * tiles, lanes * tiles);
        let pitch_weights = lanes * walk.matrix.depth;
        let mut inputs = Scratch::of(points * pitch_in + SLACK);
        let mut products = Scratch::of(points * pitch_out);
        for (number, strip) in strips.clone().enumerate() {
            let tile = number * columns.len();
            walk.enter::<V, SIDE, PATCH>(from, strip, columns.clone(), tile, tiles, inputs.as_mut_slice());
        }
        let row = [Row { from: 0, to: 0 }];
        for point in 0..points {
            let sweep = Sweep {
                matrix: walk.matrix,
                planes: &inputs.as_slice()[point * pitch_in..][..pitch_in + SLACK],
                block_pitch: 16 * tiles,
                taps: &[0],
                weights: &walk.weights.as_slice()[point * pitch_weights..][..pitch_weights],
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
            let tile = number * columns.len();
            walk.leave::<V, SIDE, PATCH>(products.as_slice(), tile, tiles, strip, columns.clone(), first, to, write);
        }
    }
}

impl Winograd {
    /// Transforms the inputs of a row of tiles.
    #[inline(always)]
    fn enter<V: Vector, const SIDE: usize, const PATCH: usize>(
        &self,
        from: &[f32],
        strip: usize,
        columns: Range<usize>,
        tile: usize,
        tiles: usize,
        to: &mut [f32],
    ) {
        let (height, width, channels) = (self.height, self.width, self.inputs);
        let (image, top) = (strip / self.down(), strip % self.down() * SIDE);
        let from = &from[image * height * width * channels..][..height * width * channels];
        let pitch = self.depth() * tiles;
        assert!(to.len() >= PATCH * PATCH * pitch && tile + columns.len() <= tiles);
        for (at, column) in columns.enumerate() {
            let left = column * SIDE;
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
                    let column = forth::<V, PATCH>(std::array::from_fn(|y| patch[y][x]));
                    for y in 0..PATCH {
                        patch[y][x] = column[y];
                    }
                }
                let (word, high) = if self.matrix.bf16 { half::word_of(lane) } else { (lane, false) };
                let place = word / 16 * 16 * tiles + (tile + at) * 16 + word % 16;
                for y in 0..PATCH {
                    let row = forth::<V, PATCH>(patch[y]);
                    for x in 0..PATCH {
                        // SAFETY: a block of 16 lanes lies at each point's tile, vectors do not straddle blocks, and the
                        // assertion above has compared the last point's end with the memory.
                        unsafe {
                            let to = to.as_mut_ptr().add((y * PATCH + x) * pitch + place);
                            match (self.matrix.bf16, high) {
                                (false, _) => row[x].store(to),
                                (true, false) => row[x].low_half().store(to),
                                // The low halves of these words were stored sixteen lanes ago.
                                (true, true) => row[x].above(V::load(to)).store(to),
                            }
                        }
                    }
                }
                lane += V::LANES;
            }
        }
    }

    /// Transforms the products of a row of tiles back into output pixels.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)] // the two sides of one copy
    fn leave<V: Vector, const SIDE: usize, const PATCH: usize>(
        &self,
        from: &[f32],
        tile: usize,
        tiles: usize,
        strip: usize,
        tile_columns: Range<usize>,
        first: usize,
        to: &mut [f32],
        write: Write,
    ) {
        let (height, width, channels) = (self.height, self.width, self.matrix.lanes);
        // Rows of whole images and of rows of tiles before this one, counted from where `to` begins.
        let row_of = |strip: usize| strip / self.down() * height + strip % self.down() * SIDE;
        let (start, top) = (row_of(strip) - row_of(first), strip % self.down() * SIDE);
        let rows = SIDE.min(height - top);
        let padded = self.matrix.padded_lanes();
        let pitch = padded * tiles;
        assert!(from.len() >= PATCH * PATCH * pitch && tile + tile_columns.len() <= tiles);
        assert!(tile_columns.end <= self.across() && to.len() >= (start + rows) * width * channels);
        for (at, column) in tile_columns.enumerate() {
            let left = column * SIDE;
            let columns = SIDE.min(width - left);
            let mut lane = 0;
            while lane < channels {
                let count = channels - lane;
                let mut half = [[V::splat(0.0); PATCH]; SIDE];
                let place = (tile + at) * padded + lane;
                for x in 0..PATCH {
                    let column = std::array::from_fn(|y| {
                        // SAFETY: `padded` lanes lie at each point's tile; see the assertion above.
                        unsafe { V::load(from.as_ptr().add((y * PATCH + x) * pitch + place)) }
                    });
                    let column = back::<V, SIDE, PATCH>(column);
                    for y in 0..SIDE {
                        half[y][x] = column[y];
                    }
                }
                for y in 0..rows {
                    let row = back::<V, SIDE, PATCH>(half[y]);
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

#[cfg(test)]
mod tests {
    use super::super::forward::Walk;
    use super::super::tests::noise;
    use super::*;
    use proptest::prelude::*;

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
            channels_in in prop_oneof![8usize..40, Just(32), Just(48)], channels_out in prop_oneof![8usize..40, Just(32), Just(48)], seed in 1u64..1000,
        ) {
            let conv = Conv2d { batch, height, width, channels_in, channels_out, kernel: 3, stride: 1, padding: 1 };
            let weights = noise(conv.weight_len(), seed);
            let (x, dy) = (noise(conv.input_len(), seed + 1), noise(conv.output_len(), seed + 2));
            for (level, tile) in Level::available().flat_map(|level| [(level, Tile::Two), (level, Tile::Four)]) {
                prop_assert!(Winograd::serves(tile, &conv));
                let tolerance = if tile == Tile::Two { 2e-6 } else { 2e-5 };
                let (mut exact, mut found) = (vec![f32::NAN; dy.len()], vec![f32::NAN; dy.len()]);
                Walk::forward(false, level, &conv, &weights).images(&x, &mut exact, Write::Over);
                let forward = Winograd::forward(false, tile, level, &conv, &weights);
                forward.images(&x, &mut found, Write::Over);
                prop_assert!(error(&found, &exact) < tolerance, "{level:?} {tile:?}: {}", error(&found, &exact));
                if half::pairs(channels_in) && tile == Tile::Two {
                    let mut rounded = vec![f32::NAN; dy.len()];
                    Winograd::forward(true, tile, level, &conv, &weights).images(&x, &mut rounded, Write::Over);
                    let error = error(&rounded, &exact);
                    prop_assert!(error < 2.0 * super::super::tests::BF16_TOLERANCE, "{level:?}: {error}");
                }
                // An image by rows is the image.
                let image = found.len() / batch;
                let mut by_rows = vec![f32::NAN; image];
                let (first, rest) = by_rows.split_at_mut(4 * width * channels_out);
                forward.rows(&x[..x.len() / batch], first, 0..4);
                forward.rows(&x[..x.len() / batch], rest, 4..height);
                prop_assert_eq!(&by_rows, &found[..image]);
                let (mut exact, mut found) = (vec![1.0; x.len()], vec![1.0; x.len()]);
                Walk::input_grad(false, level, &conv, &weights).images(&dy, &mut exact, Write::Add);
                Winograd::input_grad(false, tile, level, &conv, &weights).images(&dy, &mut found, Write::Add);
                prop_assert!(error(&found, &exact) < tolerance, "{level:?} {tile:?}: {}", error(&found, &exact));
                if half::pairs(channels_out) && tile == Tile::Two {
                    let mut rounded = vec![f32::NAN; x.len()];
                    Winograd::input_grad(true, tile, level, &conv, &weights).images(&dy, &mut rounded, Write::Over);
                    exact.iter_mut().for_each(|value| *value -= 1.0);
                    let error = error(&rounded, &exact);
                    prop_assert!(error < 2.0 * super::super::tests::BF16_TOLERANCE, "{level:?}: {error}");
                }
            }
        }
    }
}
