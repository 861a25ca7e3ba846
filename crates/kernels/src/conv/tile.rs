//! The inner loops of the forward pass and of the input gradient: a register tile of output pixels by output channels.
//!
//! A tile holds `ROWS x COLUMNS` output pixels times one or two vectors of output channels as accumulators. For every
//! (block, tap, channel) it loads the vectors of weights once and multiplies them with one broadcast value per pixel.
//! Rows of a tile are independent pointers, so that small images share a tile, across images too.

use super::weights::Matrix;
use crate::level::Kernel;
use crate::vector::Vector;

/// One row of output pixels: offsets of its first pixel in the packed planes and in the output.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub from: usize,
    pub to: usize,
}

/// A convolution over packed planes.
pub(super) struct Sweep<'a> {
    pub matrix: Matrix,
    /// Packed planes, [`super::plane::SLACK`] values beyond the last pixel included.
    pub planes: &'a [f32],
    pub block_pitch: usize,
    /// Offset of each tap from the output pixel's place.
    pub taps: &'a [usize],
    /// See [`Matrix::pack`].
    pub weights: &'a [f32],
    pub rows: &'a [Row],
    /// The place that `output` begins at, in the numbers of the rows.
    pub origin: usize,
    pub columns: usize,
    /// Distance between output pixels of a row, in values.
    pub column_step: usize,
    /// Adds to what is there instead of overwriting it.
    pub add: bool,
    pub output: &'a mut [f32],
}

/// The part of the depth that one pass over the pixels covers, and its weights.
#[derive(Clone, Copy)]
struct Pass {
    lane: usize,
    blocks: (usize, usize),
    weights: *const f32,
}

/// Weights of one pass should leave room in a 32 KiB first-level cache for the pixels.
const PASS_BYTES: usize = 20 * 1024;

/// Values of the largest tile: 16 vectors of 16 lanes.
const TILE_VALUES: usize = 256;

impl Kernel for Sweep<'_> {
    #[inline(always)]
    fn run<V: Vector>(mut self) {
        assert_eq!(self.matrix.vector, V::LANES);
        assert_eq!(self.weights.len(), self.matrix.padded_lanes() * self.taps.len() * self.matrix.depth);
        self.check_reach();
        // SAFETY: `check_reach` has compared the furthest read and write with the slices.
        unsafe {
            match (self.matrix.bf16, self.matrix.block) {
                (true, _) => self.lanes::<V, 16, true>(),
                (false, 4) => self.lanes::<V, 4, false>(),
                (false, _) => self.lanes::<V, 16, false>(),
            }
        }
    }
}

impl Sweep<'_> {
    /// The tiles use raw pointers: the furthest they go is checked once, here.
    fn check_reach(&self) {
        let from = self.rows.iter().map(|row| row.from).max().unwrap_or(0);
        let to = self.rows.iter().map(|row| row.to).max().unwrap_or(0) - self.origin;
        assert!(self.rows.iter().all(|row| row.to >= self.origin), "a row lies before the output");
        let tap = self.taps.iter().max().copied().unwrap_or(0);
        let blocks = self.matrix.depth.div_ceil(self.matrix.block);
        // A tile may look at up to 15 columns beyond the last one.
        let read = from + tap + (blocks - 1) * self.block_pitch + (self.columns + 15) * self.matrix.block;
        let write = to + (self.columns - 1) * self.column_step + self.matrix.lanes;
        assert!(read <= self.planes.len(), "a tile would read {read} of {} values", self.planes.len());
        assert!(write <= self.output.len(), "a tile would write {write} of {} values", self.output.len());
    }

    #[inline(always)]
    unsafe fn lanes<V: Vector, const BLOCK: usize, const BF16: bool>(&mut self) {
        let pitch = self.taps.len() * self.matrix.depth;
        let mut lane = 0;
        while lane < self.matrix.lanes {
            // SAFETY: the weights hold `pitch` values per padded lane.
            unsafe {
                let weights = self.weights.as_ptr().add(lane * pitch);
                let vectors = self.matrix.group(lane);
                match vectors {
                    2 => self.depth::<V, BLOCK, BF16, 2>(lane, weights),
                    _ => self.depth::<V, BLOCK, BF16, 1>(lane, weights),
                }
                lane += vectors * V::LANES;
            }
        }
    }

    #[inline(always)]
    unsafe fn depth<V: Vector, const BLOCK: usize, const BF16: bool, const VECTORS: usize>(
        &mut self,
        lane: usize,
        weights: *const f32,
    ) {
        let blocks = self.matrix.depth.div_ceil(BLOCK);
        let block_weights = self.taps.len() * BLOCK * VECTORS * V::LANES;
        let step = (PASS_BYTES / 4 / block_weights.max(1)).max(1);
        for first in (0..blocks).step_by(step) {
            // SAFETY: all blocks before `first` are whole.
            let weights = unsafe { weights.add(first * block_weights) };
            let pass = Pass { lane, blocks: (first, (first + step).min(blocks)), weights };
            let mut column = 0;
            while column < self.columns {
                // SAFETY: the caller's.
                column += unsafe { self.columns::<V, BLOCK, BF16, VECTORS>(&pass, column) };
            }
        }
    }

    /// Every row, for the columns from `column` on that one width of tile covers; returns how many those are.
    #[inline(always)]
    unsafe fn columns<V: Vector, const BLOCK: usize, const BF16: bool, const VECTORS: usize>(
        &mut self,
        pass: &Pass,
        column: usize,
    ) -> usize {
        let rest = self.columns - column;
        // Sixteen accumulators hide the latency of the multiply-adds; with sixteen registers, eight have to do.
        let pixels = V::REGISTERS / 2 / VECTORS;
        let width = rest.next_power_of_two().min(pixels);
        // SAFETY: the caller's.
        unsafe {
            // `pixels` is a constant here, so only widths that it allows are compiled.
            match width {
                1 => self.pixels::<V, BLOCK, BF16, VECTORS, 1>(pass, column),
                2 => self.pixels::<V, BLOCK, BF16, VECTORS, 2>(pass, column),
                4 => self.pixels::<V, BLOCK, BF16, VECTORS, 4>(pass, column),
                8 if pixels >= 8 => self.pixels::<V, BLOCK, BF16, VECTORS, 8>(pass, column),
                16 if pixels >= 16 => self.pixels::<V, BLOCK, BF16, VECTORS, 16>(pass, column),
                _ => unreachable!("a tile is at most {pixels} wide"),
            }
        }
        width.min(rest)
    }

    #[inline(always)]
    unsafe fn pixels<V: Vector, const BLOCK: usize, const BF16: bool, const VECTORS: usize, const COLUMNS: usize>(
        &mut self,
        pass: &Pass,
        column: usize,
    ) {
        // SAFETY: the caller's.
        unsafe {
            match V::REGISTERS / 2 / VECTORS {
                16 => self.rows::<V, BLOCK, BF16, VECTORS, COLUMNS, 16>(pass, column),
                8 => self.rows::<V, BLOCK, BF16, VECTORS, COLUMNS, 8>(pass, column),
                _ => self.rows::<V, BLOCK, BF16, VECTORS, COLUMNS, 4>(pass, column),
            }
        }
    }

    #[inline(always)]
    unsafe fn rows<
        V: Vector,
        const BLOCK: usize,
        const BF16: bool,
        const VECTORS: usize,
        const COLUMNS: usize,
        const PIXELS: usize,
    >(
        &mut self,
        pass: &Pass,
        column: usize,
    ) {
        assert!(PIXELS * VECTORS * V::LANES <= TILE_VALUES);
        let last = self.rows.len() - 1;
        for first in (0..self.rows.len()).step_by(PIXELS / COLUMNS) {
            let mut rows = [self.rows[first]; PIXELS];
            for (r, row) in rows.iter_mut().enumerate().take(PIXELS / COLUMNS) {
                // Past the end the last row is computed again and not stored.
                *row = self.rows[(first + r).min(last)];
            }
            // SAFETY: the caller's.
            unsafe {
                self.tile::<V, BLOCK, BF16, VECTORS, COLUMNS, PIXELS>(pass, &rows, self.rows.len() - first, column);
            }
        }
    }

    /// `PIXELS / COLUMNS` rows of `COLUMNS` pixels. Pixels are one flat loop: nested ones are not always unrolled in
    /// time for the accumulators to become registers.
    #[inline(always)]
    unsafe fn tile<
        V: Vector,
        const BLOCK: usize,
        const BF16: bool,
        const VECTORS: usize,
        const COLUMNS: usize,
        const PIXELS: usize,
    >(
        &mut self,
        pass: &Pass,
        rows: &[Row; PIXELS],
        valid_rows: usize,
        column: usize,
    ) {
        let valid_columns = self.columns - column;
        let valid_lanes = self.matrix.lanes - pass.lane;
        let (first_block, end_block) = pass.blocks;
        let mut sums = [[V::splat(0.0); VECTORS]; PIXELS];
        let mut weights = pass.weights;
        // SAFETY: `check_reach` bounds `from + tap + block * pitch + column * BLOCK` for reads, with up to 15 columns
        // of slack, and `to + column * step + lane` for writes; `Matrix::pack` lays out exactly the weights walked here.
        unsafe {
            let mut starts = [self.planes.as_ptr(); PIXELS];
            for r in 0..PIXELS / COLUMNS {
                starts[r] = starts[r].add(rows[r].from + column * BLOCK);
            }
            for block in first_block..end_block {
                let depth = (self.matrix.depth - block * BLOCK).min(BLOCK);
                for &tap in self.taps {
                    let offset = block * self.block_pitch + tap;
                    for k in 0..depth {
                        let mut factors = [V::splat(0.0); VECTORS];
                        for v in 0..VECTORS {
                            factors[v] = V::load(weights.add(v * V::LANES));
                        }
                        weights = weights.add(VECTORS * V::LANES);
                        for p in 0..PIXELS {
                            let from = starts[p / COLUMNS].add(offset + p % COLUMNS * BLOCK + k);
                            let value = V::splat(*from);
                            for v in 0..VECTORS {
                                sums[p][v] = if BF16 {
                                    value.dot(factors[v], sums[p][v])
                                } else {
                                    value.mul_add(factors[v], sums[p][v])
                                };
                            }
                        }
                    }
                }
            }
            // By way of memory: a loop over registers would have to be unrolled with all its branches, or else the
            // accumulators live in memory throughout.
            let mut done = [0.0f32; TILE_VALUES];
            let width = VECTORS * V::LANES;
            for p in 0..PIXELS {
                for v in 0..VECTORS {
                    sums[p][v].store(done.as_mut_ptr().add(p * width + v * V::LANES));
                }
            }
            for r in 0..valid_rows.min(PIXELS / COLUMNS) {
                for c in 0..valid_columns.min(COLUMNS) {
                    let to = rows[r].to - self.origin + (column + c) * self.column_step + pass.lane;
                    let to = self.output.as_mut_ptr().add(to);
                    let from = done.as_ptr().add((r * COLUMNS + c) * width);
                    for v in 0..VECTORS {
                        let to = to.add(v * V::LANES);
                        let lanes = valid_lanes - v * V::LANES;
                        let mut sum = V::load(from.add(v * V::LANES));
                        if first_block > 0 || self.add {
                            sum = sum.add(V::load_up_to(to, lanes));
                        }
                        sum.store_up_to(to, lanes);
                    }
                }
            }
        }
    }
}
