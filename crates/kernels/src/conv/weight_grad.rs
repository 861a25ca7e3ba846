//! The gradient with respect to the weights: per tap, a sum over pixels of outer products.
//!
//! A register tile holds some input channels times one or two vectors of output channels, and sums a band of pixels
//! that fits the first-level cache. The work is cut by the shape alone, so that threads decide nothing: first by groups of
//! output channels, whose sums are apart, and where those are few the batch into chunks, which are added in order.
//!
//! With products of bf16 a word holds two neighbouring pixels of a row: of `dy` each pair once, of `x` every pixel with the
//! one after it, because taps begin at either.

use super::Conv2d;
use super::plane::{Plane, SLACK};
use super::weights::Matrix;
use crate::Level;
use crate::level::Kernel;
use crate::scratch::Scratch;
use crate::vector::Vector;
use rayon::prelude::*;

/// Planes of the images that are walked together: half a second-level cache.
const GROUP_VALUES: usize = 64 * 1024;
/// Pixels of both operands that one tile walks before the next tile walks them again.
const BAND_BYTES: usize = 24 * 1024;
/// Pieces of work, at least, where the batch is large enough.
const TASKS: usize = 16;

/// Output pixels of a chunk, at least: fewer do not pay for adding a tile to its sum.
const CHUNK_PIXELS: usize = 128;

pub(super) fn weight_grad(bf16: bool, level: Level, conv: &Conv2d, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    let &Conv2d { batch, kernel, channels_in, channels_out, .. } = conv;
    let mut plane = Plane::of_input(conv);
    if bf16 {
        // The last pixel of an odd row has a neighbour, too.
        plane.columns += conv.out_width() % 2;
    }
    let matrix =
        Matrix { depth: channels_in, block: plane.block(), lanes: channels_out, vector: level.lanes(), bf16: false };
    let taps: Vec<_> = (0..kernel * kernel).map(|tap| plane.tap(tap / kernel, tap % kernel)).collect();
    let layout = Layout { matrix, taps: taps.len(), blocks: plane.blocks() };
    let size = layout.len();

    let pair = 2 * matrix.vector;
    let chunks = TASKS.div_ceil(channels_out.div_ceil(pair)).min(batch);
    let chunk = batch.div_ceil(chunks).max(CHUNK_PIXELS.div_ceil(conv.out_height() * conv.out_width())).min(batch);
    let group = (GROUP_VALUES / plane.len()).clamp(1, chunk);
    let pixels: Vec<usize> = (0..group)
        .flat_map(|image| (0..conv.out_height()).map(move |oy| (image, oy)))
        .flat_map(|(image, oy)| {
            let columns = (0..conv.out_width()).step_by(if bf16 { 2 } else { 1 });
            columns.map(move |ox| image * plane.len() + plane.offset((0, 0), oy, ox))
        })
        .collect();

    let mut partial = Scratch::of(batch.div_ceil(chunk) * size);
    let image_x = conv.input_len() / batch;
    let image_dy = conv.output_len() / batch;
    let row = bf16.then_some(conv.out_width());
    let images = Images { plane: &plane, layout, taps: &taps, pixels: &pixels, group, image_x, image_dy, row };
    partial
        .as_mut_slice()
        .par_chunks_mut(size)
        .zip(x.par_chunks(chunk * image_x).zip(dy.par_chunks(chunk * image_dy)))
        .for_each(|(sum, (x, dy))| {
            sum.par_chunks_mut(layout.start(pair, 0, 0)).enumerate().for_each(|(number, sum)| {
                let chunk = Chunk { images, x, dy, lane: number * pair, sum };
                level.run_products(bf16, chunk);
            });
        });
    let partial = partial.as_mut_slice();
    let (total, others) = partial.split_at_mut(size);
    // Ranges are summed in parallel, the chunks of a range in order.
    const RANGE: usize = 4096;
    total.par_chunks_mut(RANGE).enumerate().for_each(|(range, total)| {
        for other in others.chunks_exact(size) {
            for (total, other) in total.iter_mut().zip(&other[range * RANGE..]) {
                *total += *other;
            }
        }
    });
    let total = &*total;
    dw.par_chunks_mut(channels_in * kernel * kernel).enumerate().for_each(|(lane, dw)| {
        for (depth, dw) in dw.chunks_exact_mut(kernel * kernel).enumerate() {
            for (tap, dw) in dw.iter_mut().enumerate() {
                *dw = total[layout.at(lane, tap, depth)];
            }
        }
    });
}

/// Sums as the tiles leave them: `[lane group][block][tap][depth][lane]`, the depth padded to whole blocks.
#[derive(Clone, Copy)]
struct Layout {
    matrix: Matrix,
    taps: usize,
    blocks: usize,
}

impl Layout {
    fn len(&self) -> usize {
        self.matrix.padded_lanes() * self.blocks * self.taps * self.matrix.block
    }

    /// Start of the sums of a (lane group, block, tap); `lane` is the group's first.
    #[inline(always)]
    fn start(&self, lane: usize, block: usize, tap: usize) -> usize {
        let width = self.matrix.group(lane) * self.matrix.vector;
        lane * self.blocks * self.taps * self.matrix.block + (block * self.taps + tap) * self.matrix.block * width
    }

    fn at(&self, lane: usize, tap: usize, depth: usize) -> usize {
        let Matrix { block, vector, .. } = self.matrix;
        let first = lane - lane % (2 * vector);
        let width = self.matrix.group(first) * vector;
        self.start(first, depth / block, tap) + depth % block * width + lane - first
    }
}

/// How images are walked.
#[derive(Clone, Copy)]
struct Images<'a> {
    plane: &'a Plane,
    layout: Layout,
    taps: &'a [usize],
    /// Where each output pixel of a group of images sits in the packed planes; of words, each first of two.
    pixels: &'a [usize],
    group: usize,
    image_x: usize,
    image_dy: usize,
    /// Output pixels of a row, where products are of words.
    row: Option<usize>,
}

/// The sum over the images of one chunk, of the group of output channels that begins at `lane`.
struct Chunk<'a> {
    images: Images<'a>,
    x: &'a [f32],
    dy: &'a [f32],
    lane: usize,
    sum: &'a mut [f32],
}

impl Kernel for Chunk<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        match self.images.row {
            Some(row) => self.sum::<V, true>(row),
            None => self.sum::<V, false>(0),
        }
    }
}

impl Chunk<'_> {
    #[inline(always)]
    fn sum<V: Vector, const BF16: bool>(self, row: usize) {
        let Self { images: Images { plane, layout, taps, pixels, group, image_x, image_dy, .. }, x, dy, lane, sum } =
            self;
        let Matrix { lanes, block, .. } = layout.matrix;
        let width = layout.matrix.group(lane) * V::LANES;
        assert_eq!(layout.matrix.vector, V::LANES);
        assert_eq!(sum.len(), layout.start(lane, layout.blocks, 0) - layout.start(lane, 0, 0));
        sum.fill(0.0);
        let whole = lane + width <= lanes;
        let mut planes = Scratch::of(group * plane.len() + SLACK);
        let copied = BF16 || !whole;
        let mut padded = Scratch::of(if copied { group * image_dy / lanes * width } else { 0 });
        // The furthest that a tile reads: the last pixel of a group at its last tap and block, a whole block long.
        let furthest = pixels.iter().max().copied().unwrap_or(0)
            + taps.iter().max().copied().unwrap_or(0)
            + (layout.blocks - 1) * plane.block_pitch()
            + block;
        assert!(furthest <= group * plane.len(), "a tile would read {furthest} of {} values", group * plane.len());
        for (x, dy) in x.chunks(group * image_x).zip(dy.chunks(group * image_dy)) {
            let images = x.len() / image_x;
            for (image, plane_of) in x.chunks_exact(image_x).zip(planes.as_mut_slice().chunks_exact_mut(plane.len())) {
                plane.pack::<V>(image, plane_of);
                if BF16 {
                    join_neighbours::<V>(plane_of, block);
                }
            }
            // Output channels that are not whole vectors are padded once here rather than masked at every load.
            let pixels = &pixels[..pixels.len() / group * images];
            let (dy, pitch, first) = if BF16 {
                let padded = &mut padded.as_mut_slice()[..pixels.len() * width];
                join_pairs::<V>(dy, row, lanes, lane, padded, width);
                (&*padded, width, 0)
            } else if whole {
                (dy, lanes, lane)
            } else {
                for (to, from) in padded.as_mut_slice().chunks_exact_mut(width).zip(dy.chunks_exact(lanes)) {
                    to[..lanes - lane].copy_from_slice(&from[lane..]);
                    to[lanes - lane..].fill(0.0);
                }
                (&padded.as_slice()[..pixels.len() * width], width, 0)
            };
            let band = BAND_BYTES / 4 / (block + width);
            for (pixels, dy) in pixels.chunks(band).zip(dy.chunks(band * pitch)) {
                let walk = Walk { plane, layout, taps, pixels, planes: planes.as_slice(), dy, pitch, first };
                // SAFETY: `furthest` bounds the reads of planes; dy has `pitch` values per pixel; `sum` is as long as
                // the group's sums.
                unsafe {
                    match (block, layout.matrix.group(lane)) {
                        (4, 2) if plane.taps_are_neighbours() => walk.fused::<V, BF16, 2>(sum),
                        (4, _) if plane.taps_are_neighbours() => walk.fused::<V, BF16, 1>(sum),
                        (_, 2) => walk.blocks::<V, BF16, 2>(sum),
                        _ => walk.blocks::<V, BF16, 1>(sum),
                    }
                }
            }
        }
    }
}

/// Turns a packed plane into words: each pixel with the one after it.
#[inline(always)]
fn join_neighbours<V: Vector>(plane: &mut [f32], block: usize) {
    assert!(plane.len().is_multiple_of(block));
    // The last pixel has none after it; no pair begins there.
    let end = plane.len() - block;
    let mut at = 0;
    while at < end {
        let count = end - at;
        // SAFETY: `count` values lie at `at`, and as many a block further. What is read is written later or not at all.
        unsafe {
            let from = plane.as_mut_ptr().add(at);
            let [first, second] = [from, from.add(block)].map(|from| V::load_up_to(from, count));
            second.above(first.low_half()).store_up_to(from, count);
        }
        at += V::LANES;
    }
}

/// Two neighbouring pixels of a row to a word, of `width` channels from `lane` on; zeros where there are none.
#[inline(always)]
fn join_pairs<V: Vector>(dy: &[f32], row: usize, lanes: usize, lane: usize, to: &mut [f32], width: usize) {
    assert!(dy.len().is_multiple_of(row * lanes) && lane < lanes && width.is_multiple_of(V::LANES));
    let pairs = row.div_ceil(2);
    assert_eq!(to.len(), dy.len() / (row * lanes) * pairs * width);
    for (from, to) in dy.chunks_exact(row * lanes).zip(to.chunks_exact_mut(pairs * width)) {
        for (from, to) in from.chunks(2 * lanes).zip(to.chunks_exact_mut(width)) {
            for v in (0..width).step_by(V::LANES) {
                let channel = lane + v;
                let count = lanes.saturating_sub(channel);
                // SAFETY: a pixel has `count` channels from `channel` on, and `to` a vector at `v`.
                unsafe {
                    let mut words = V::load_up_to(from.as_ptr().add(channel), count).low_half();
                    if from.len() > lanes {
                        words = V::load_up_to(from.as_ptr().add(lanes + channel), count).above(words);
                    }
                    words.store(to.as_mut_ptr().add(v));
                }
            }
        }
    }
}

impl Plane {
    /// Three taps of one channel block in a row are twelve neighbouring values: one tall tile instead of three short.
    fn taps_are_neighbours(&self) -> bool {
        self.stride_x == 1 && self.block() == 4
    }
}

/// A band of pixels, all of whose products with a group of output channels are added to the sums.
struct Walk<'a> {
    plane: &'a Plane,
    layout: Layout,
    taps: &'a [usize],
    pixels: &'a [usize],
    planes: &'a [f32],
    dy: &'a [f32],
    /// Values of `dy` a pixel, and the group's first of them.
    pitch: usize,
    first: usize,
}

impl Walk<'_> {
    #[inline(always)]
    unsafe fn blocks<V: Vector, const BF16: bool, const VECTORS: usize>(&self, sum: &mut [f32]) {
        let Matrix { depth, block, .. } = self.layout.matrix;
        let tile = block * VECTORS * V::LANES;
        for index in 0..self.layout.blocks {
            let valid = (depth - index * block).min(block);
            for (tap, offset) in self.taps.iter().enumerate() {
                let offset = offset + index * self.plane.block_pitch();
                let sum = &mut sum[(index * self.taps.len() + tap) * tile..][..tile];
                // SAFETY: the caller's; rows of a tile stay inside the block.
                unsafe { self.tiles::<V, BF16, VECTORS>(offset, valid, sum) }
            }
        }
    }

    /// Covers `valid` input channels by tiles of 16, 8 or 4.
    #[inline(always)]
    unsafe fn tiles<V: Vector, const BF16: bool, const VECTORS: usize>(
        &self,
        offset: usize,
        valid: usize,
        sum: &mut [f32],
    ) {
        let tallest = V::REGISTERS / 2 / VECTORS;
        let mut row = 0;
        while row < valid {
            let height = (valid - row).next_power_of_two().clamp(4, tallest);
            let sum = &mut sum[row * VECTORS * V::LANES..];
            // SAFETY: the caller's.
            unsafe {
                match height {
                    4 => self.tile::<V, BF16, 4, VECTORS>(offset + row, sum),
                    8 if tallest >= 8 => self.tile::<V, BF16, 8, VECTORS>(offset + row, sum),
                    16 if tallest >= 16 => self.tile::<V, BF16, 16, VECTORS>(offset + row, sum),
                    _ => unreachable!("a tile is at most {tallest} high"),
                }
            }
            row += height;
        }
    }

    /// `blocks` for an unstrided convolution of at most 4 channels: neighbouring taps share a tile.
    #[inline(always)]
    unsafe fn fused<V: Vector, const BF16: bool, const VECTORS: usize>(&self, sum: &mut [f32]) {
        let kernel = self.taps.len().isqrt();
        let width = VECTORS * V::LANES;
        // Twice twelve accumulators are too many for sixteen registers.
        let three_fit = VECTORS == 1 || V::REGISTERS >= 32;
        for ky in 0..kernel {
            for kx in (0..kernel).step_by(3) {
                let tap = ky * kernel + kx;
                let sum = &mut sum[tap * 4 * width..];
                // SAFETY: the caller's; taps in a row are neighbours in planes and in sums.
                unsafe {
                    if kx + 3 <= kernel && three_fit {
                        self.tile::<V, BF16, 12, VECTORS>(self.taps[tap], sum);
                    } else {
                        for t in tap..(tap + 3).min((ky + 1) * kernel) {
                            self.tile::<V, BF16, 4, VECTORS>(self.taps[t], &mut sum[(t - tap) * 4 * width..]);
                        }
                    }
                }
            }
        }
    }

    /// Adds the band's sum over pixels of `x[pixel + offset + row] * dy[pixel][first + lane]` to `sum[row][lane]`.
    #[inline(always)]
    unsafe fn tile<V: Vector, const BF16: bool, const HEIGHT: usize, const VECTORS: usize>(
        &self,
        offset: usize,
        sum: &mut [f32],
    ) {
        let width = VECTORS * V::LANES;
        assert!(sum.len() >= HEIGHT * width);
        assert!(self.dy.len() >= self.pixels.len() * self.pitch && self.first + width <= self.pitch);
        let mut sums = [[V::splat(0.0); VECTORS]; HEIGHT];
        // SAFETY: reads of planes are bounded by the caller, of dy and sum by the assertions above.
        unsafe {
            let planes = self.planes.as_ptr().add(offset);
            let mut dy = self.dy.as_ptr().add(self.first);
            for pixel in self.pixels {
                let x = planes.add(*pixel);
                let mut factors = [V::splat(0.0); VECTORS];
                for v in 0..VECTORS {
                    factors[v] = V::load(dy.add(v * V::LANES));
                }
                dy = dy.wrapping_add(self.pitch);
                for row in 0..HEIGHT {
                    let value = V::splat(*x.add(row));
                    for v in 0..VECTORS {
                        sums[row][v] = if BF16 {
                            value.dot(factors[v], sums[row][v])
                        } else {
                            value.mul_add(factors[v], sums[row][v])
                        };
                    }
                }
            }
            for row in 0..HEIGHT {
                for v in 0..VECTORS {
                    let to = sum.as_mut_ptr().add(row * width + v * V::LANES);
                    V::load(to).add(sums[row][v]).store(to);
                }
            }
        }
    }
}
