//! The product of two row-major matrices, `C[m, n] = sum over d of A[m, d] B[d, n]`.
//!
//! A tile holds six rows of `C` by some vectors; for every step of the depth it loads the vectors of `B` and multiplies them
//! with one broadcast value of each row of `A`. With products of bf16 a word holds two steps of the depth, sixteen apart
//! (see `conv/half.rs`).

use crate::Level;
use crate::conv::half;
use crate::level::Kernel;
use crate::scratch::Scratch;
use crate::vector::Vector;
use rayon::prelude::*;
use std::ops::Range;

/// Rows of a tile.
const ROWS: usize = 6;
/// Rows of `C` of a task: whole tiles.
pub(super) const TASK_ROWS: usize = 8 * ROWS;
/// Columns of `C` of a task, where its rows are few.
pub(super) const TASK_COLUMNS: usize = 512;
/// Steps of the depth that one pass over rows of `A` covers: as many of `B` stay in a second-level cache.
pub(super) const DEPTH: usize = 1024;
/// The same of a `B` that is as large as the weight and is copied, some steps at a time, to where all rows of `A` meet it.
pub(super) const PIECE: usize = 64;
/// Steps of the depth that make sixteen words.
const BLOCK: usize = 32;

/// What is summed over.
#[derive(Clone, Copy)]
pub(super) struct Depth {
    pub steps: usize,
    /// In words of two steps.
    pub bf16: bool,
}

impl Depth {
    pub fn run(self, level: Level, kernel: impl Kernel) {
        level.run_products(self.bf16, kernel);
    }

    /// Values, or words, that so many steps take.
    fn length(self, steps: usize) -> usize {
        if self.bf16 { steps.div_ceil(BLOCK) * (BLOCK / 2) } else { steps }
    }
}

/// Columns of a panel of `B` for so many columns in all: those of a tile.
fn width(lanes: usize, registers: usize, columns: usize) -> usize {
    if columns <= lanes { lanes } else { registers / 8 * lanes }
}

/// All of `B`, `[panel][step][width]`.
pub(super) struct Panels {
    values: Scratch,
    pitch: usize,
}

#[derive(Clone, Copy)]
pub(super) struct Packed<'a> {
    values: &'a [f32],
    /// Values of a panel.
    pitch: usize,
}

impl Panels {
    /// `b` is `[steps, columns]`.
    pub fn new(level: Level, depth: Depth, b: &[f32], columns: usize) -> Self {
        let width = width(level.lanes(), level.registers(), columns);
        let pitch = depth.length(depth.steps) * width;
        let mut values = Scratch::of(columns.div_ceil(width) * pitch);
        values.as_mut_slice().par_chunks_mut(pitch).enumerate().for_each(|(panel, to)| {
            let first = panel * width;
            let from = Piece { b, pitch: columns, steps: 0..depth.steps, columns: first..columns.min(first + width) };
            depth.run(level, Pack { depth, from, width, panel: pitch, to });
        });
        Self { values, pitch }
    }

    pub fn borrowed(&self) -> Packed<'_> {
        Packed { values: self.values.as_slice(), pitch: self.pitch }
    }
}

/// Some rows and columns of a matrix.
struct Piece<'a> {
    b: &'a [f32],
    /// Values of a row.
    pitch: usize,
    steps: Range<usize>,
    columns: Range<usize>,
}

/// Panels: rows of `width` values, or of words that join two rows; zeros where there are none. Rows are read whole, one
/// after the other, because they come from far away.
struct Pack<'a> {
    depth: Depth,
    from: Piece<'a>,
    width: usize,
    /// Values of a panel.
    panel: usize,
    to: &'a mut [f32],
}

impl Kernel for Pack<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { depth, from: Piece { b, pitch, steps, columns }, width, panel, to } = self;
        let length = depth.length(steps.len());
        assert!(columns.end <= pitch && steps.end * pitch <= b.len() && width.is_multiple_of(V::LANES));
        assert!(length * width <= panel && columns.len().div_ceil(width) * panel <= to.len());
        // SAFETY: a row has `count` values from `column` on, by the assertions; a row that is none is not read.
        let load = |step: usize, column: usize, count: usize| unsafe {
            if step < steps.end { V::load_up_to(b.as_ptr().add(step * pitch + column), count) } else { V::splat(0.0) }
        };
        for number in 0..length {
            let step = if depth.bf16 {
                steps.start + number / (BLOCK / 2) * BLOCK + number % (BLOCK / 2)
            } else {
                steps.start + number
            };
            for (place, first) in (0..).zip(columns.clone().step_by(width)) {
                let row = &mut to[place * panel + number * width..][..width];
                for at in (0..width).step_by(V::LANES) {
                    let column = first + at;
                    let value = if column >= columns.end {
                        V::splat(0.0)
                    } else if depth.bf16 {
                        let count = columns.end - column;
                        load(step + BLOCK / 2, column, count).above(load(step, column, count).low_half())
                    } else {
                        load(step, column, columns.end - column)
                    };
                    // SAFETY: a row has `width` values, whole vectors.
                    unsafe { value.store(row.as_mut_ptr().add(at)) }
                }
            }
        }
    }
}

/// Where `B` is.
#[derive(Clone, Copy)]
pub(super) enum Operand<'a> {
    Packed(Packed<'a>),
    /// The columns from `first` on of a row-major matrix, too large to be packed at once.
    Weight {
        values: &'a [f32],
        pitch: usize,
        first: usize,
    },
}

/// Some rows, or columns, of `C`.
pub(super) struct Product<'a> {
    pub depth: Depth,
    /// Rows of `pitch` values, which the depth begins with.
    pub a: &'a [f32],
    pub pitch: usize,
    pub b: Operand<'a>,
    pub columns: usize,
    /// `[rows, columns]`, overwritten.
    pub c: &'a mut [f32],
}

impl Kernel for Product<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        if self.depth.bf16 { self.over::<V, true>() } else { self.over::<V, false>() }
    }
}

impl Product<'_> {
    #[inline(always)]
    fn over<V: Vector, const BF16: bool>(self) {
        let Self { depth, a, pitch, b, columns, c } = self;
        let width = width(V::LANES, V::REGISTERS, columns);
        let rows = c.len() / columns;
        assert!(depth.steps <= pitch && rows * pitch <= a.len());
        let most = match b {
            Operand::Packed(_) => DEPTH,
            Operand::Weight { .. } => PIECE,
        };
        let piece = depth.length(most) * width;
        let mut copied = Scratch::of(match b {
            Operand::Packed(_) => 0,
            Operand::Weight { .. } => columns.div_ceil(width) * piece,
        });
        let mut words = Scratch::of(if BF16 { ROWS * depth.length(most) } else { 0 });
        for start in (0..depth.steps).step_by(most) {
            let steps = start..(start + most).min(depth.steps);
            let length = depth.length(steps.len());
            let (panels, panel_pitch, offset) = match b {
                Operand::Packed(Packed { values, pitch }) => (values, pitch, depth.length(start) * width),
                Operand::Weight { values: b, pitch, first } => {
                    let from = Piece { b, pitch, steps: steps.clone(), columns: first..first + columns };
                    Pack { depth, from, width, panel: piece, to: copied.as_mut_slice() }.run::<V>();
                    (copied.as_slice(), piece, 0)
                }
            };
            // What is read from far away next: of a packed `B` the rows of `A`, else the next piece of `B`.
            let mut ahead = match b {
                Operand::Packed(_) => Ahead::default(),
                Operand::Weight { values, pitch, first } => {
                    let rows = depth.steps.min(steps.end + most) - steps.end;
                    Ahead::new(values.as_ptr().wrapping_add(steps.end * pitch + first), pitch, rows, columns)
                }
            };
            for first in (0..rows).step_by(ROWS) {
                if matches!(b, Operand::Packed(_)) && first + ROWS < rows {
                    let next = a[(first + ROWS) * pitch + start..].as_ptr();
                    ahead = Ahead::new(next, pitch, (rows - first - ROWS).min(ROWS), steps.len());
                }
                let valid = (rows - first).min(ROWS);
                // Past the end the last row is computed again and not stored.
                let row = |r: usize| &a[(first + r.min(valid - 1)) * pitch..][steps.clone()];
                let rows: [*const f32; ROWS] = if BF16 {
                    for (r, to) in words.as_mut_slice().chunks_exact_mut(depth.length(most)).enumerate() {
                        join::<V>(row(r), to);
                    }
                    std::array::from_fn(|r| words.as_slice()[r * depth.length(most)..].as_ptr())
                } else {
                    std::array::from_fn(|r| row(r).as_ptr())
                };
                for (panel, column) in (0..columns).step_by(width).enumerate() {
                    let b = &panels[panel * panel_pitch + offset..][..length * width];
                    let to = Corner { at: first * columns + column, pitch: columns, rows: valid, add: start > 0 };
                    let columns = columns - column;
                    // SAFETY: each row has `length` values.
                    unsafe {
                        match (width / V::LANES, V::REGISTERS) {
                            (1, _) => tile::<V, BF16, 1>(&rows, b, to, columns, c, &mut ahead),
                            (_, 32) => tile::<V, BF16, 4>(&rows, b, to, columns, c, &mut ahead),
                            _ => tile::<V, BF16, 2>(&rows, b, to, columns, c, &mut ahead),
                        }
                    }
                }
            }
        }
    }
}

/// Steps of a row as words; zeros behind the last.
#[inline(always)]
fn join<V: Vector>(row: &[f32], to: &mut [f32]) {
    let (whole, rest) = row.split_at(row.len() / BLOCK * BLOCK);
    let (of_whole, of_rest) = to.split_at_mut(whole.len() / 2);
    half::join::<V>(whole, BLOCK / 2, of_whole);
    if !rest.is_empty() {
        let mut last = [0.0; BLOCK];
        last[..rest.len()].copy_from_slice(rest);
        half::join::<V>(&last, BLOCK / 2, &mut of_rest[..BLOCK / 2]);
    }
}

/// Some rows of a matrix that are asked for a line at a time, while others are multiplied.
#[derive(Clone, Copy)]
struct Ahead {
    row: *const f32,
    pitch: usize,
    rows: usize,
    lines: usize,
    line: usize,
}

impl Default for Ahead {
    fn default() -> Self {
        Self::new(std::ptr::null(), 0, 0, 0)
    }
}

impl Ahead {
    /// Values of a line.
    const LINE: usize = 16;

    fn new(row: *const f32, pitch: usize, rows: usize, columns: usize) -> Self {
        Self { row, pitch, rows, lines: columns.div_ceil(Self::LINE), line: 0 }
    }

    #[inline(always)]
    fn one<V: Vector>(&mut self) {
        if self.rows == 0 {
            return;
        }
        V::prefetch(self.row.wrapping_add(self.line * Self::LINE));
        self.line += 1;
        if self.line >= self.lines {
            (self.row, self.rows, self.line) = (self.row.wrapping_add(self.pitch), self.rows - 1, 0);
        }
    }
}

/// Where a tile goes.
#[derive(Clone, Copy)]
struct Corner {
    at: usize,
    pitch: usize,
    /// Rows that there are.
    rows: usize,
    /// Adds to what is there.
    add: bool,
}

/// `ROWS` rows by `VECTORS` vectors of `C`, of which `columns` are stored.
///
/// # Safety
/// Each of `rows` is valid for reading as many values as `b` has steps.
#[inline(always)]
unsafe fn tile<V: Vector, const BF16: bool, const VECTORS: usize>(
    rows: &[*const f32; ROWS],
    b: &[f32],
    to: Corner,
    columns: usize,
    c: &mut [f32],
    ahead: &mut Ahead,
) {
    let mut asked = *ahead;
    let width = VECTORS * V::LANES;
    let mut sums = [[V::splat(0.0); VECTORS]; ROWS];
    for (step, b) in b.chunks_exact(width).enumerate() {
        // SAFETY: `b` has whole vectors, and the caller's promise.
        unsafe {
            let mut factors = [V::splat(0.0); VECTORS];
            for v in 0..VECTORS {
                factors[v] = V::load(b.as_ptr().add(v * V::LANES));
            }
            asked.one::<V>();
            for r in 0..ROWS {
                let value = V::splat(*rows[r].add(step));
                for v in 0..VECTORS {
                    sums[r][v] =
                        if BF16 { value.dot(factors[v], sums[r][v]) } else { value.mul_add(factors[v], sums[r][v]) };
                }
            }
        }
    }
    *ahead = asked;
    // By way of memory, so that the accumulators need no branches.
    let mut done = [0.0f32; ROWS * 64];
    for r in 0..ROWS {
        for v in 0..VECTORS {
            // SAFETY: a tile is at most 64 columns wide.
            unsafe { sums[r][v].store(done.as_mut_ptr().add(r * width + v * V::LANES)) }
        }
    }
    let count = columns.min(width);
    for r in 0..to.rows {
        let c = &mut c[to.at + r * to.pitch..][..count];
        for v in 0..count.div_ceil(V::LANES) {
            // SAFETY: `count` values of a row lie in `done` and in `c`.
            unsafe {
                let at = v * V::LANES;
                let place = c.as_mut_ptr().add(at);
                let mut sum = V::load(done.as_ptr().add(r * width + at));
                if to.add {
                    sum = sum.add(V::load_up_to(place, count - at));
                }
                sum.store_up_to(place, count - at);
            }
        }
    }
}
