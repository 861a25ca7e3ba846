//! Between channels-first and channels-last; sums and roundings in whichever.

use crate::Level;
use crate::level::Kernel;
use crate::vector::Vector;
use half::bf16;
use rayon::prelude::*;

/// Side of the square that is transposed at a time: its 16 rows on both sides stay in the first-level cache.
const BLOCK: usize = 16;
/// Values added or rounded by a task.
const ADDED: usize = 32 * 1024;

/// Channels-first to channels-last.
///
/// # Shapes
/// - `from`: `[batch, channels, pixels]` with `pixels = height * width`
/// - `to`: `[batch, pixels, channels]`, overwritten
///
/// # Panics
/// When the slices differ in length or are not whole images.
pub fn nchw_to_nhwc(channels: usize, pixels: usize, from: &[f32], to: &mut [f32]) {
    transpose(channels, pixels, from, to);
}

/// Channels-last to channels-first.
///
/// # Shapes
/// - `from`: `[batch, pixels, channels]` with `pixels = height * width`
/// - `to`: `[batch, channels, pixels]`, overwritten
///
/// # Panics
/// When the slices differ in length or are not whole images.
pub fn nhwc_to_nchw(channels: usize, pixels: usize, from: &[f32], to: &mut [f32]) {
    transpose(pixels, channels, from, to);
}

/// `to += from`, value by value.
///
/// # Panics
/// When the slices differ in length.
pub fn add_assign(to: &mut [f32], from: &[f32]) {
    assert_eq!(to.len(), from.len(), "values: to (left), from (right)");
    to.par_chunks_mut(ADDED).zip(from.par_chunks(ADDED)).for_each(|(to, from)| {
        for (to, from) in to.iter_mut().zip(from) {
            *to += from;
        }
    });
}

/// The nearest numbers of bf16.
///
/// # Panics
/// When the slices differ in length.
pub fn to_bf16(from: &[f32], to: &mut [bf16]) {
    assert_eq!(to.len(), from.len(), "values: to (left), from (right)");
    let level = Level::current();
    to.par_chunks_mut(ADDED).zip(from.par_chunks(ADDED)).for_each(|(to, from)| level.run(Round { from, to }));
}

struct Round<'a> {
    from: &'a [f32],
    to: &'a mut [bf16],
}

impl Kernel for Round<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let whole = self.from.len() / V::LANES * V::LANES;
        assert_eq!(self.to.len(), self.from.len());
        for at in (0..whole).step_by(V::LANES) {
            // SAFETY: both hold a vector at `at`.
            unsafe { V::load(self.from.as_ptr().add(at)).store_bf16(self.to.as_mut_ptr().add(at)) }
        }
        for (from, to) in self.from.iter().zip(self.to).skip(whole) {
            *to = bf16::from_f32(*from);
        }
    }
}

/// `[batch, rows, columns]` to `[batch, columns, rows]`.
fn transpose(rows: usize, columns: usize, from: &[f32], to: &mut [f32]) {
    let image = rows * columns;
    assert_eq!(from.len(), to.len(), "values: from (left), to (right)");
    assert!(
        image > 0 && from.len().is_multiple_of(image),
        "{} values are not images of {rows} x {columns}",
        from.len()
    );
    to.par_chunks_mut(image).zip(from.par_chunks(image)).with_min_len((4096 / image).max(1)).for_each(|(to, from)| {
        if rows == 1 || columns == 1 {
            to.copy_from_slice(from);
            return;
        }
        for row in (0..rows).step_by(BLOCK) {
            for column in (0..columns).step_by(BLOCK) {
                if row + BLOCK <= rows && column + BLOCK <= columns {
                    square(rows, columns, &from[row * columns + column..], &mut to[column * rows + row..]);
                } else {
                    for r in row..(row + BLOCK).min(rows) {
                        for c in column..(column + BLOCK).min(columns) {
                            to[c * rows + r] = from[r * columns + c];
                        }
                    }
                }
            }
        }
    });
}

/// One whole square, with bounds known to the compiler.
fn square(rows: usize, columns: usize, from: &[f32], to: &mut [f32]) {
    let mut tile = [[0.0f32; BLOCK]; BLOCK];
    for (r, tile) in tile.iter_mut().enumerate() {
        tile.copy_from_slice(&from[r * columns..][..BLOCK]);
    }
    for c in 0..BLOCK {
        let mut line = [0.0f32; BLOCK];
        for r in 0..BLOCK {
            line[r] = tile[r][c];
        }
        to[c * rows..][..BLOCK].copy_from_slice(&line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn adds_across_tasks() {
        let mut to: Vec<f32> = (0..2 * ADDED as u32 + 7).map(|v| v as f32).collect();
        let from = to.clone();
        add_assign(&mut to, &from);
        assert!(to.iter().zip(&from).all(|(to, from)| *to == 2.0 * from));
    }

    #[test]
    fn rounds_to_the_nearest_on_every_level() {
        let mut from = crate::conv::tests::noise(2 * ADDED + 7, 5);
        from[3] = f32::from_bits(0x3f80_8000); // a tie, to even
        from[4] = f32::from_bits(0x3f81_8000);
        from[5] = f32::from_bits(0x7fff_ffff);
        from[6] = f32::NEG_INFINITY;
        let bits = |halves: &[bf16]| halves.iter().map(|half| half.to_bits()).collect::<Vec<_>>();
        let expected: Vec<bf16> = from.iter().map(|value| bf16::from_f32(*value)).collect();
        for level in Level::available() {
            let mut to = vec![bf16::default(); from.len()];
            level.run(Round { from: &from, to: &mut to });
            assert!(bits(&to) == bits(&expected), "{level:?}");
        }
        let mut to = vec![bf16::default(); from.len()];
        to_bf16(&from, &mut to);
        assert!(bits(&to) == bits(&expected));
        assert_eq!([3, 4].map(|at| f32::from(to[at])), [1.0, 1.015_625]);
        assert!(f32::from(to[5]).is_nan() && f32::from(to[6]) == f32::NEG_INFINITY);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn transposes_and_returns(batch in 1usize..4, channels in 1usize..40, pixels in 1usize..70) {
            let from: Vec<f32> = (0..batch * channels * pixels).map(|v| v as f32).collect();
            let mut last = vec![f32::NAN; from.len()];
            nchw_to_nhwc(channels, pixels, &from, &mut last);
            for (at, value) in last.iter().enumerate() {
                let (n, p, c) = (at / (channels * pixels), at / channels % pixels, at % channels);
                prop_assert_eq!(*value, from[(n * channels + c) * pixels + p]);
            }
            let mut back = vec![f32::NAN; from.len()];
            nhwc_to_nchw(channels, pixels, &last, &mut back);
            prop_assert_eq!(back, from);
        }
    }
}
