//! The forward pass, and the gradient with respect to the input, which is the same walk over other planes.

use super::Conv2d;
use super::half;
use super::plane::{Plane, SLACK};
use super::tile::{Row, Sweep};
use super::weights::Matrix;
use crate::Level;
use crate::level::Kernel;
use crate::scratch::Scratch;
use crate::vector::Vector;
use rayon::prelude::*;
use std::ops::Range;

/// Packed planes of the images that are worked on together should stay in a second-level cache.
const GROUP_VALUES: usize = 48 * 1024;

/// A convolution or its input gradient with the weights packed: made once, run over any number of images.
#[derive(Debug)]
pub(crate) struct Walk {
    level: Level,
    plane: Plane,
    /// Values of an image's packed plane.
    length: usize,
    matrix: Matrix,
    parts: Vec<Packed>,
    /// Values of an image that is read, and of one that is written.
    from: usize,
    to: usize,
}

/// What a walk does with what it finds where it writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Write {
    Over,
    Add,
}

/// Some pixels of an image: those in these rows and columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Their rows.
    pub rows: Range<usize>,
    /// Their columns.
    pub columns: Range<usize>,
}

impl Walk {
    /// See [`super::conv2d`]. With products of `bf16`, input channels are what [`super::pairs`] can join.
    pub(crate) fn forward(bf16: bool, level: Level, conv: &Conv2d, weights: &[f32]) -> Self {
        let &Conv2d { kernel, channels_in, channels_out, .. } = conv;
        let plane = Plane::of_input(conv);
        let tap = |tap| {
            let (ky, kx) = (tap / kernel, tap % kernel);
            Tap { offset: plane.tap(ky, kx), ky, kx: kx.cast_signed() }
        };
        let part = Part {
            taps: (0..kernel * kernel).map(tap).collect(),
            rows: (0..conv.out_height())
                .map(|oy| Row { from: plane.offset((0, 0), oy, 0), to: oy * conv.out_width() * channels_out })
                .collect(),
            columns: conv.out_width(),
            column_step: channels_out,
        };
        let index = |depth: usize, lane: usize, tap: Tap| {
            let index = ((lane * channels_in + depth) * kernel + tap.ky) * kernel + tap.kx.cast_unsigned();
            (depth < channels_in).then_some(index)
        };
        Self::new(
            bf16,
            level,
            plane,
            channels_out,
            &[part],
            index,
            weights,
            [conv.input_len(), conv.output_len()],
            conv.batch,
        )
    }

    /// `dx[iy, ix] = sum over (ky, kx) of dy[oy, ox] w[ky, kx]` where `iy + padding = oy * stride + ky`. Input rows that
    /// share the remainder of `iy + padding` see the same taps at the same places relative to `u = (iy + padding) / stride`,
    /// so each pair of remainders is one unstrided convolution of `dy` and no multiplication meets an inserted zero.
    ///
    /// A picture's few channels would leave most lanes idle. Without a stride, `fold` neighbouring pixels share a vector:
    /// a convolution of `fold` times the channels, `fold` columns apart, with a kernel `fold - 1` wider.
    ///
    /// With products of `bf16`, output channels are what [`super::pairs`] can join.
    pub(crate) fn input_grad(bf16: bool, level: Level, conv: &Conv2d, weights: &[f32]) -> Self {
        let &Conv2d { height, width, kernel, stride, padding, channels_in, channels_out, .. } = conv;
        let reach = (kernel - 1) / stride;
        let fold = if stride == 1 { fold(level.lanes() / channels_in, width) } else { 1 };
        // Packed row r is dy row `r + first - reach`, with `first` the smallest u of any input row.
        let first = padding / stride;
        let origin = first.cast_signed() - reach.cast_signed();
        let span = |length: usize| (length - 1 + padding) / stride - first + 1 + reach;
        let plane = Plane {
            height: conv.out_height(),
            width: conv.out_width(),
            channels: channels_out,
            stride_y: 1,
            stride_x: fold,
            phases_y: 1,
            phases_x: fold,
            origin_y: origin,
            origin_x: origin,
            rows: span(height),
            columns: span(width).div_ceil(fold),
        };
        // The first input position of a phase: the smallest i with (i + padding) % stride == phase.
        let start = |phase: usize| (phase + stride - padding % stride) % stride;
        let mut parts = Vec::new();
        for p in 0..stride {
            for q in 0..stride {
                let (top, left) = (start(p), start(q));
                if top >= height || left >= width {
                    continue;
                }
                let column = (left + padding) / stride - first;
                // Tap k looks back by k / stride pixels, counted from `reach` before; other pixels of a fold look further.
                let across = |ky: usize| {
                    (0..reach + fold).filter_map(move |shift| {
                        let kx = (reach.cast_signed() - shift.cast_signed()) * stride.cast_signed() + q.cast_signed();
                        let offset = plane.tap(reach - ky / stride, shift);
                        (kx < kernel.cast_signed()).then_some(Tap { offset, ky, kx })
                    })
                };
                parts.push(Part {
                    taps: (p..kernel).step_by(stride).flat_map(across).collect(),
                    rows: (top..height)
                        .step_by(stride)
                        .map(|iy| Row {
                            from: plane.offset((0, 0), (iy + padding) / stride - first, column),
                            to: (iy * width + left) * channels_in,
                        })
                        .collect(),
                    columns: (width - left).div_ceil(stride * fold),
                    column_step: stride * fold * channels_in,
                });
            }
        }
        let index = |depth: usize, lane: usize, tap: Tap| {
            let kx = tap.kx + (lane / channels_in).cast_signed();
            let inside = depth < channels_out && (0..kernel.cast_signed()).contains(&kx);
            let row = ((depth * channels_in + lane % channels_in) * kernel + tap.ky) * kernel;
            inside.then(|| row + kx.cast_unsigned())
        };
        let sizes = [conv.output_len(), conv.input_len()];
        Self::new(bf16, level, plane, fold * channels_in, &parts, index, weights, sizes, conv.batch)
    }

    /// `index` gives a weight's place in OIHW from (depth, lane, tap); `sizes` are the values read and written, of `batch`
    /// images.
    #[allow(clippy::too_many_arguments)] // the operands of one convolution
    fn new(
        bf16: bool,
        level: Level,
        plane: Plane,
        lanes: usize,
        parts: &[Part],
        index: impl Fn(usize, usize, Tap) -> Option<usize> + Sync,
        weights: &[f32],
        sizes: [usize; 2],
        batch: usize,
    ) -> Self {
        assert!(!bf16 || half::pairs(plane.channels), "{} channels in words", plane.channels);
        let depth = if bf16 { half::words(plane.channels) } else { plane.channels };
        let matrix = Matrix { depth, block: plane.block(), lanes, vector: level.lanes(), bf16 };
        let length = depth.div_ceil(plane.block()) * plane.block_pitch();
        let [from, to] = sizes.map(|size| size / batch);
        let group = (GROUP_VALUES / length).clamp(1, batch);
        let pack = |part: &Part| {
            let mut packed = Scratch::of(matrix.padded_lanes() * part.taps.len() * matrix.depth);
            matrix.pack(&part.taps, weights, packed.as_mut_slice(), &index);
            let rows = (0..group).flat_map(|image| {
                part.rows.iter().map(move |row| Row { from: row.from + image * length, to: row.to + image * to })
            });
            Packed {
                taps: part.taps.iter().map(|tap| tap.offset).collect(),
                weights: packed,
                rows: rows.collect(),
                rows_per_image: part.rows.len(),
                columns: part.columns,
                column_step: part.column_step,
            }
        };
        Self { level, plane, length, matrix, parts: parts.iter().map(pack).collect(), from, to }
    }

    /// Values of the packed weights.
    pub(crate) fn weights(&self) -> usize {
        self.parts.iter().map(|part| part.weights.as_slice().len()).sum()
    }

    /// Values of the planes that so many images are packed into.
    pub(crate) fn planes(&self, images: usize) -> usize {
        let whole = if self.matrix.bf16 { self.plane.len() } else { 0 };
        images.min(self.group()) * self.length + whole + SLACK
    }

    /// The most images that share packed planes.
    fn group(&self) -> usize {
        self.parts.first().map_or(1, |part| part.rows.len() / part.rows_per_image)
    }

    /// Packs an image.
    #[inline(always)]
    fn pack<V: Vector>(&self, image: &[f32], to: &mut [f32]) {
        if self.matrix.bf16 {
            let mut whole = Scratch::of(self.plane.len());
            self.plane.pack::<V>(image, whole.as_mut_slice());
            half::join::<V>(whole.as_slice(), self.plane.block_pitch(), to);
        } else {
            self.plane.pack::<V>(image, to);
        }
    }

    /// A part over all of `planes`, overwriting an `output` that begins where the image does.
    #[inline(always)]
    fn sweep<'a>(&'a self, part: &'a Packed, planes: &'a [f32], output: &'a mut [f32]) -> Sweep<'a> {
        Sweep {
            matrix: self.matrix,
            planes,
            block_pitch: self.plane.block_pitch(),
            taps: &part.taps,
            weights: part.weights.as_slice(),
            rows: &part.rows,
            origin: 0,
            columns: part.columns,
            column_step: part.column_step,
            add: false,
            output,
        }
    }

    /// Over a batch, on all threads.
    pub(super) fn over(&self, from: &[f32], to: &mut [f32]) {
        let batch = from.len() / self.from;
        // No output depends on how images are grouped, so the number of threads may decide.
        let group = self.group().min(batch.div_ceil(4 * rayon::current_num_threads())).max(1);
        to.par_chunks_mut(group * self.to).zip(from.par_chunks(group * self.from)).for_each(|(to, from)| {
            self.matrix.run(self.level, Group { walk: self, from, to, rows: None, write: Write::Over })
        });
    }

    /// Over a few images, on this thread.
    pub(crate) fn images(&self, from: &[f32], to: &mut [f32], write: Write) {
        let group = self.group();
        for (to, from) in to.chunks_mut(group * self.to).zip(from.chunks(group * self.from)) {
            self.matrix.run(self.level, Group { walk: self, from, to, rows: None, write });
        }
    }

    /// Some rows of one image of a forward pass, on this thread; `to` holds those rows.
    pub(crate) fn rows(&self, from: &[f32], to: &mut [f32], rows: Range<usize>) {
        assert!(self.parts.len() == 1 && from.len() == self.from, "rows are those of one image's forward pass");
        self.matrix.run(self.level, Group { walk: self, from, to, rows: Some(rows), write: Write::Over });
    }

    /// Some pixels of one image of a forward pass, on this thread; `to` holds the image.
    pub(crate) fn region(&self, from: &[f32], to: &mut [f32], region: &Window) {
        assert!(self.parts.len() == 1 && from.len() == self.from, "a region is one of one image's forward pass");
        self.matrix.run(self.level, Pixels { walk: self, from, to, region });
    }
}

/// The largest number of pixels, at most `most`, that divides a row.
fn fold(most: usize, width: usize) -> usize {
    (2..=most).rev().find(|fold| width.is_multiple_of(*fold)).unwrap_or(1)
}

/// One place of the kernel, as an output pixel sees it.
#[derive(Clone, Copy)]
struct Tap {
    /// From the output pixel's place in the plane.
    offset: usize,
    ky: usize,
    /// Kernel column for the first pixel of a fold; the others' follow, and those outside the kernel are zeros.
    kx: isize,
}

/// One unstrided walk over the planes: all of a forward pass, or one phase of an input gradient.
struct Part {
    taps: Vec<Tap>,
    /// Rows of one image.
    rows: Vec<Row>,
    columns: usize,
    column_step: usize,
}

/// A part with its weights packed, its taps turned to offsets and its rows laid out for a group of images.
#[derive(Debug)]
struct Packed {
    taps: Vec<usize>,
    weights: Scratch,
    rows: Vec<Row>,
    rows_per_image: usize,
    columns: usize,
    column_step: usize,
}

/// Packs the planes of a few images, then runs every part over them.
struct Group<'a> {
    walk: &'a Walk,
    from: &'a [f32],
    to: &'a mut [f32],
    /// Rows of the one image, when it is not all of them.
    rows: Option<Range<usize>>,
    write: Write,
}

/// Packs the planes of one image, then runs its forward pass over some of its pixels.
struct Pixels<'a> {
    walk: &'a Walk,
    from: &'a [f32],
    to: &'a mut [f32],
    region: &'a Window,
}

impl Kernel for Pixels<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let (walk, Window { rows, columns }) = (self.walk, self.region);
        let part = &walk.parts[0];
        assert!(columns.end <= part.columns, "columns {columns:?} of {}", part.columns);
        let mut planes = Scratch::of(walk.length + SLACK);
        walk.pack::<V>(self.from, &mut planes.as_mut_slice()[..walk.length]);
        let shifted = |row: &Row| Row {
            from: row.from + columns.start * walk.plane.block(),
            to: row.to + columns.start * part.column_step,
        };
        let rows: Vec<Row> = part.rows[rows.clone()].iter().map(shifted).collect();
        let whole = walk.sweep(part, planes.as_slice(), self.to);
        Sweep { rows: &rows, columns: columns.len(), ..whole }.run::<V>();
    }
}

impl Kernel for Group<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Walk { length, parts, from: image_from, .. } = self.walk;
        let images = self.from.len() / image_from;
        let mut planes = Scratch::of(images * length + SLACK);
        for (image, packed) in self.from.chunks_exact(*image_from).zip(planes.as_mut_slice().chunks_exact_mut(*length))
        {
            self.walk.pack::<V>(image, packed);
        }
        for part in parts {
            let rows = self.rows.clone().unwrap_or(0..images * part.rows_per_image);
            let rows = &part.rows[rows];
            let whole = self.walk.sweep(part, planes.as_slice(), &mut *self.to);
            // A forward pass writes its rows in order; elsewhere the output begins where the image does.
            let origin = if self.rows.is_some() { rows[0].to } else { 0 };
            Sweep { rows, origin, add: self.write == Write::Add, ..whole }.run::<V>();
        }
    }
}
