//! The zero-padded, channel-blocked copy of an image that the convolution tiles read.
//!
//! Channels come in blocks of 16 (or 4, for pictures), each block a plane of pixels. Two things follow: the distance
//! between neighbouring pixels is known at compile time, so a tile addresses all its pixels as constant offsets from
//! one pointer; and borders are zeros in memory, so no tile knows of them. A strided convolution reads every
//! `stride`-th pixel: the copy sorts rows and columns by their remainder ("phase"), which makes those neighbours too.

use super::Conv2d;
use crate::vector::Vector;

/// Where a packed plane comes from and how it is laid out: `[block][row phase][column phase][row][column][lane]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plane {
    /// Source image: height, width, channels.
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    /// Source row of packed row `row` in phase `p`: `row * stride_y + p + origin_y`; columns likewise.
    pub stride_y: usize,
    pub stride_x: usize,
    pub phases_y: usize,
    pub phases_x: usize,
    pub origin_y: isize,
    pub origin_x: isize,
    /// Packed rows and columns per phase.
    pub rows: usize,
    pub columns: usize,
}

/// Values past the last pixel that a tile may read (and ignore) when a row is not a multiple of its width.
pub(super) const SLACK: usize = 16 * 16;

impl Plane {
    /// The input of `conv`, as its forward pass and its weight gradient read it.
    pub fn of_input(conv: &Conv2d) -> Self {
        let &Conv2d { height, width, channels_in, kernel, stride, padding, .. } = conv;
        let reach = (kernel - 1) / stride;
        Self {
            height,
            width,
            channels: channels_in,
            stride_y: stride,
            stride_x: stride,
            phases_y: stride.min(kernel),
            phases_x: stride.min(kernel),
            origin_y: -padding.cast_signed(),
            origin_x: -padding.cast_signed(),
            rows: conv.out_height() + reach,
            columns: conv.out_width() + reach,
        }
    }

    /// Channels per block, which is also the distance between neighbouring pixels.
    pub fn block(&self) -> usize {
        if self.channels <= 4 { 4 } else { 16 }
    }

    pub fn blocks(&self) -> usize {
        self.channels.div_ceil(self.block())
    }

    /// Distance between blocks.
    pub fn block_pitch(&self) -> usize {
        self.phases_y * self.phases_x * self.rows * self.columns * self.block()
    }

    /// Values of one packed image.
    pub fn len(&self) -> usize {
        self.blocks() * self.block_pitch()
    }

    /// Offset of a pixel within block 0.
    pub fn offset(&self, phase: (usize, usize), row: usize, column: usize) -> usize {
        let (p, q) = phase;
        (((p * self.phases_x + q) * self.rows + row) * self.columns + column) * self.block()
    }

    /// Offset of the pixel that kernel tap (`ky`, `kx`) adds to an output pixel's own.
    pub fn tap(&self, ky: usize, kx: usize) -> usize {
        self.offset((ky % self.stride_y, kx % self.stride_x), ky / self.stride_y, kx / self.stride_x)
    }

    /// Packs one NHWC image of `height * width * channels` values into `to`, `len()` values. Lanes beyond the last
    /// channel are left unspecified: no tile stores what it computes from them.
    #[inline(always)]
    pub fn pack<V: Vector>(&self, image: &[f32], to: &mut [f32]) {
        assert_eq!(image.len(), self.height * self.width * self.channels);
        assert_eq!(to.len(), self.len());
        match self.block() {
            4 => self.pack_blocks::<V, 4>(image, to),
            _ => self.pack_blocks::<V, 16>(image, to),
        }
    }

    #[inline(always)]
    fn pack_blocks<V: Vector, const BLOCK: usize>(&self, image: &[f32], to: &mut [f32]) {
        let mut rows = to.chunks_exact_mut(self.columns * BLOCK);
        for block in 0..self.blocks() {
            for p in 0..self.phases_y {
                for q in 0..self.phases_x {
                    let (first, last) = self.inside(q);
                    for row in 0..self.rows {
                        let to = rows.next().expect("one row per (block, phase, row)");
                        let y = (row * self.stride_y + p).checked_add_signed(self.origin_y);
                        let Some(y) = y.filter(|y| *y < self.height && first < last) else {
                            to.fill(0.0);
                            continue;
                        };
                        let x = (first * self.stride_x + q).strict_add_signed(self.origin_x);
                        let from = (y * self.width + x) * self.channels + block * BLOCK;
                        self.copy_row::<V, BLOCK>(&image[from..], to, first, last, block);
                    }
                }
            }
        }
    }

    /// The packed columns of phase `q` that lie inside the source: first, and one past the last.
    fn inside(&self, q: usize) -> (usize, usize) {
        let at_or_past = |x: isize| {
            // The smallest column whose source position is >= x.
            let distance = x - self.origin_x - q.cast_signed();
            (distance.max(0).cast_unsigned()).div_ceil(self.stride_x).min(self.columns)
        };
        (at_or_past(0), at_or_past(self.width.cast_signed()))
    }

    /// Copies pixels of one block from `from` (which starts at that block of the first pixel) to columns `first` to
    /// `last`, and zeros to the others.
    #[inline(always)]
    fn copy_row<V: Vector, const BLOCK: usize>(
        &self,
        from: &[f32],
        to: &mut [f32],
        first: usize,
        last: usize,
        block: usize,
    ) {
        let step = self.stride_x * self.channels;
        let valid = (self.channels - block * BLOCK).min(BLOCK);
        // A whole block is one or two registers; the lanes that belong to the next pixel are ignored later. Only at
        // the very end of the image is there nothing to over-read.
        let whole = from.len().checked_sub(BLOCK).map_or(0, |room| room / step + 1);
        for (column, to) in to.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
            // One loop and no `fill`: calls to memset and memcpy for a few pixels cost more than the pixels.
            if column < first || column >= last {
                store_block::<V, BLOCK>(&[0.0; BLOCK], to);
            } else if column - first < whole {
                let from = &from[(column - first) * step..];
                store_block::<V, BLOCK>(from.first_chunk().expect("`whole` pixels have a block to read"), to);
            } else {
                to[..valid].copy_from_slice(&from[(column - first) * step..][..valid]);
            }
        }
    }
}

/// `to = from` by vector moves where vectors are not longer than a block.
#[inline(always)]
fn store_block<V: Vector, const BLOCK: usize>(from: &[f32; BLOCK], to: &mut [f32; BLOCK]) {
    if BLOCK.is_multiple_of(V::LANES) {
        for lane in (0..BLOCK).step_by(V::LANES) {
            // SAFETY: lane + LANES <= BLOCK.
            unsafe { V::load(from.as_ptr().add(lane)).store(to.as_mut_ptr().add(lane)) }
        }
    } else {
        *to = *from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_and_padding_land_where_taps_look() {
        // 5 x 4 image of 3 channels, stride 2, padding 1, kernel 3.
        let plane = Plane {
            height: 5,
            width: 4,
            channels: 3,
            stride_y: 2,
            stride_x: 2,
            phases_y: 2,
            phases_x: 2,
            origin_y: -1,
            origin_x: -1,
            rows: 4,
            columns: 3,
        };
        let image: Vec<f32> = (1..=60u8).map(f32::from).collect();
        let mut packed = vec![f32::NAN; plane.len()];
        plane.pack::<crate::vector::Portable>(&image, &mut packed);
        for (oy, ox) in [(0, 0), (1, 1), (2, 0), (0, 1)] {
            for (ky, kx) in [(0, 0), (1, 2), (2, 1), (2, 2)] {
                for c in 0..3 {
                    let (y, x) = (oy * 2 + ky, ox * 2 + kx);
                    let inside = (1..6).contains(&y) && (1..5).contains(&x);
                    let expected = if inside { image[((y - 1) * 4 + x - 1) * 3 + c] } else { 0.0 };
                    let at = plane.offset((0, 0), oy, ox) + plane.tap(ky, kx) + c;
                    assert_eq!(packed[at], expected, "output ({oy}, {ox}), tap ({ky}, {kx}), channel {c}");
                }
            }
        }
    }
}
