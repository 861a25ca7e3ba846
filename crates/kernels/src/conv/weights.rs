//! Weights packed for the tiles: `[lane group][block][tap][depth within the block][lane]`.

use super::half::{channels_of, word};
use crate::Level;
use crate::level::Kernel;
use rayon::prelude::*;

/// What is multiplied with what: `depth` channels are summed over, `lanes` channels are written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Matrix {
    pub depth: usize,
    /// Depth channels per block, as in [`super::plane::Plane::block`].
    pub block: usize,
    pub lanes: usize,
    /// Lanes of a vector register.
    pub vector: usize,
    /// Weights are words of two bf16 (see [`super::half`]), and the depth counts words.
    pub bf16: bool,
}

impl Matrix {
    /// Runs a kernel compiled for what this multiplies.
    pub fn run(&self, level: Level, kernel: impl Kernel) {
        level.run_products(self.bf16, kernel);
    }

    /// Vectors of the group that starts at `lane`: two while there is work for two, then one.
    #[inline(always)]
    pub fn group(&self, lane: usize) -> usize {
        if self.lanes - lane > self.vector { 2 } else { 1 }
    }

    /// Lanes after padding to whole vectors.
    pub fn padded_lanes(&self) -> usize {
        self.lanes.next_multiple_of(self.vector)
    }

    /// Packs the weights of `taps`. `at(channel, lane, tap)` is the value's index in `weights`, `None` for a zero.
    pub fn pack<T: Copy + Sync>(
        &self,
        taps: &[T],
        weights: &[f32],
        to: &mut [f32],
        at: impl Fn(usize, usize, T) -> Option<usize> + Sync,
    ) {
        let pair = 2 * self.vector;
        let pitch = taps.len() * self.depth;
        assert_eq!(to.len(), self.padded_lanes() * pitch);
        if to.is_empty() {
            return;
        }
        to.par_chunks_mut(pair * pitch).enumerate().for_each(|(group, to)| {
            let first = group * pair;
            let width = self.group(first) * self.vector;
            let mut rows = to.chunks_exact_mut(width);
            for start in (0..self.depth).step_by(self.block) {
                for &tap in taps {
                    for depth in start..(start + self.block).min(self.depth) {
                        let row = rows.next().expect("one row per (tap, depth)");
                        for (lane, value) in row.iter_mut().enumerate() {
                            let lane = first + lane;
                            let of = |depth: usize| {
                                let index = if lane < self.lanes { at(depth, lane, tap) } else { None };
                                index.map_or(0.0, |index| weights[index])
                            };
                            *value = if self.bf16 { word(channels_of(depth).map(of)) } else { of(depth) };
                        }
                    }
                }
            }
        });
    }
}
