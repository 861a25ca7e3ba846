//! What JPEG loses: colours converted and halved in both directions, blocks of 8x8 transformed and quantised, and back.
//!
//! Entropy coding loses nothing and is left out. Everything else follows libjpeg as PIL calls it (baseline, 4:2:0,
//! smooth upsampling of colour), integer for integer. ITU-T T.81; <https://github.com/libjpeg-turbo/libjpeg-turbo>.

/// Encodes and decodes at a `quality` of 1 to 100.
pub(crate) fn jpeg_compression(image: &[u8], [height, width]: [usize; 2], quality: u32, out: &mut [u8]) {
    let (pixels, _) = image.as_chunks::<3>();
    let converted: Vec<[u8; 3]> = pixels.iter().map(|&pixel| to_ycc(pixel)).collect();

    let mut luma = Plane::filled([height, width], |y, x| converted[y * width + x.min(width - 1)][0]);
    luma.quantise(&table(&LUMA, quality));
    let chroma = [1, 2].map(|channel| {
        let value = |y: usize, x: usize| u32::from(converted[y.min(height - 1) * width + x.min(width - 1)][channel]);
        let mut plane = Plane::filled([height.div_ceil(2), width.div_ceil(2)], |y, x| {
            let (y, left) = (2 * y, 2 * x);
            let sum = value(y, left) + value(y, left + 1) + value(y + 1, left) + value(y + 1, left + 1);
            // libjpeg rounds halves down and up in turn.
            ((sum + 1 + (x as u32 & 1)) >> 2) as u8
        });
        plane.quantise(&table(&CHROMA, quality));
        plane.doubled([height, width])
    });
    let (out, _) = out.as_chunks_mut::<3>();
    for (place, out) in out.iter_mut().enumerate() {
        let luma = luma.values[place / width * luma.stride + place % width];
        *out = to_rgb([luma, chroma[0][place], chroma[1][place]]);
    }
}

/// Fixed point with 16 bits after the point.
const fn fixed(factor: f64) -> i32 {
    (factor * 65536.0 + 0.5) as i32
}
const HALF: i32 = 1 << 15;

fn to_ycc(pixel: [u8; 3]) -> [u8; 3] {
    let [r, g, b] = pixel.map(i32::from);
    let middle = (128 << 16) + HALF - 1;
    [
        (fixed(0.299) * r + fixed(0.587) * g + fixed(0.114) * b + HALF) >> 16,
        (-fixed(0.168_74) * r - fixed(0.331_26) * g + fixed(0.5) * b + middle) >> 16,
        (fixed(0.5) * r - fixed(0.418_69) * g - fixed(0.081_31) * b + middle) >> 16,
    ]
    .map(|value| value as u8)
}

fn to_rgb([y, cb, cr]: [u8; 3]) -> [u8; 3] {
    let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
    [
        y + ((fixed(1.402) * cr + HALF) >> 16),
        y + ((-fixed(0.344_14) * cb - fixed(0.714_14) * cr + HALF) >> 16),
        y + ((fixed(1.772) * cb + HALF) >> 16),
    ]
    .map(|value| value.clamp(0, 255) as u8)
}

const SIDE: usize = 8;
type Block = [[i32; SIDE]; SIDE];

/// Annex K's example tables, which libjpeg scales by the quality.
#[rustfmt::skip]
const LUMA: [u16; 64] = [
    16, 11, 10, 16, 24, 40, 51, 61,
    12, 12, 14, 19, 26, 58, 60, 55,
    14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62,
    18, 22, 37, 56, 68, 109, 103, 77,
    24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103, 99,
];
#[rustfmt::skip]
const CHROMA: [u16; 64] = [
    17, 18, 24, 47, 99, 99, 99, 99,
    18, 21, 26, 66, 99, 99, 99, 99,
    24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
];

/// A table at a quality.
fn table(base: &[u16; 64], quality: u32) -> Block {
    let percent = if quality < 50 { 5000 / quality.max(1) } else { 200 - 2 * quality.min(100) };
    let step = |place: usize| ((u32::from(base[place]) * percent + 50) / 100).clamp(1, 255).cast_signed();
    std::array::from_fn(|v| std::array::from_fn(|u| step(v * SIDE + u)))
}

/// Row `u` is the cosine of frequency `u` times `sqrt(8)`, with [`COSINE_BITS`] after the point.
///
/// libjpeg's accurate integer transform (Loeffler, Ligtenberg, Moschytz 1989) rounds only at the end of a pass. So a
/// pass is a product with this matrix, whose entries are the sums of its constants, unevenly rounded as they are.
#[rustfmt::skip]
const COSINES: Block = [
    [8192, 8192, 8192, 8192, 8192, 8192, 8192, 8192],
    [11363, 9633, 6437, 2260, -2260, -6437, -9633, -11363],
    [10703, 4433, -4433, -10703, -10703, -4433, 4433, 10703],
    [9633, -2259, -11362, -6436, 6436, 11362, 2259, -9633],
    [8192, -8192, -8192, 8192, 8192, -8192, -8192, 8192],
    [6437, -11362, 2261, 9633, -9633, -2261, 11362, -6437],
    [4433, -10704, 10704, -4433, -4433, 10704, -10704, 4433],
    [2260, -6436, 9633, -11363, 11363, -9633, 6436, -2260],
];
const COSINE_BITS: u32 = 13;
/// Bits after the point that are kept between the two passes.
const PASS_BITS: u32 = 2;

/// `sum / 2^bits`, rounded.
const fn descaled(sum: i32, bits: u32) -> i32 {
    (sum + (1 << (bits - 1))) >> bits
}

/// `left * right`, descaled.
fn product(left: &Block, right: &Block, bits: u32) -> Block {
    let mut product = [[0; SIDE]; SIDE];
    for (product, left) in product.iter_mut().zip(left) {
        for (left, right) in left.iter().zip(right) {
            for (product, right) in product.iter_mut().zip(right) {
                *product += left * right;
            }
        }
        *product = product.map(|sum| descaled(sum, bits));
    }
    product
}

const fn transposed(block: &Block) -> Block {
    let mut transposed = [[0; SIDE]; SIDE];
    let mut place = 0;
    while place < SIDE * SIDE {
        transposed[place % SIDE][place / SIDE] = block[place / SIDE][place % SIDE];
        place += 1;
    }
    transposed
}
const COSINES_TRANSPOSED: Block = transposed(&COSINES);

/// A block's frequencies, 8 times too large, from its levels about 0.
fn frequencies(levels: &Block) -> Block {
    let rows = product(levels, &COSINES_TRANSPOSED, COSINE_BITS - PASS_BITS);
    product(&COSINES, &rows, COSINE_BITS + PASS_BITS)
}

/// A block's levels about 0 from its frequencies.
fn levels(frequencies: &Block) -> Block {
    let columns = product(&COSINES_TRANSPOSED, frequencies, COSINE_BITS - PASS_BITS);
    product(&columns, &COSINES, COSINE_BITS + PASS_BITS + 3)
}

/// One component of an image, its last row and column repeated up to whole blocks.
struct Plane {
    values: Vec<u8>,
    size: [usize; 2],
    stride: usize,
}

impl Plane {
    /// Of `size`, what `value` says of row and column. Columns beyond the size are asked of it too, rows are repeated.
    fn filled(size: [usize; 2], value: impl Fn(usize, usize) -> u8) -> Self {
        let height = size[0];
        let [rows, stride] = size.map(|side| side.next_multiple_of(SIDE));
        let mut values = Vec::with_capacity(rows * stride);
        for y in 0..rows {
            values.extend((0..stride).map(|x| value(y.min(height - 1), x)));
        }
        Self { values, size, stride }
    }

    /// Rounds every block's frequencies to whole steps.
    fn quantise(&mut self, steps: &Block) {
        let across = self.stride / SIDE;
        for block in 0..self.values.len() / (SIDE * SIDE) {
            let corner = block / across * SIDE * self.stride + block % across * SIDE;
            let row = |y: usize| corner + y * self.stride..corner + y * self.stride + SIDE;
            let mut block = [[0; SIDE]; SIDE];
            for (y, line) in block.iter_mut().enumerate() {
                for (level, &value) in line.iter_mut().zip(&self.values[row(y)]) {
                    *level = i32::from(value) - 128;
                }
            }
            let mut block = frequencies(&block);
            for (frequency, &step) in block.as_flattened_mut().iter_mut().zip(steps.as_flattened()) {
                *frequency = frequency.signum() * ((frequency.abs() + 4 * step) / (8 * step)) * step;
            }
            for (y, line) in levels(&block).iter().enumerate() {
                for (value, level) in self.values[row(y)].iter_mut().zip(line) {
                    *value = (level + 128).clamp(0, 255) as u8;
                }
            }
        }
    }

    /// Twice as many rows and columns, cut to `[height, width]`: a pixel counts three times in what is nearer to it and
    /// once in what is farther. libjpeg repeats pixels instead where there are no more than two columns.
    fn doubled(&self, [height, width]: [usize; 2]) -> Vec<u8> {
        let [rows, columns] = self.size;
        let at = |y: usize, x: usize| u32::from(self.values[y * self.stride + x]);
        let mut doubled = Vec::with_capacity(height * width);
        for y in 0..height {
            let near = y / 2;
            let far = if y % 2 == 0 { near.saturating_sub(1) } else { (near + 1).min(rows - 1) };
            let sum = |x: usize| 3 * at(near, x) + at(far, x);
            for x in 0..width {
                let here = x / 2;
                let value = if columns <= 2 {
                    at(near, here)
                } else if x % 2 == 0 {
                    (3 * sum(here) + sum(here.saturating_sub(1)) + 8) >> 4
                } else {
                    (3 * sum(here) + sum((here + 1).min(columns - 1)) + 7) >> 4
                };
                doubled.push(value as u8);
            }
        }
        doubled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cosines_are_cosines() {
        for (u, row) in COSINES.iter().enumerate() {
            for (x, &value) in row.iter().enumerate() {
                let angle = ((2 * x + 1) * u) as f64 * std::f64::consts::PI / 16.0;
                let scale = if u == 0 { 8192.0 } else { 8192.0 * std::f64::consts::SQRT_2 };
                assert!((f64::from(value) - scale * angle.cos()).abs() < 2.5, "{u} {x}");
            }
        }
    }

    #[test]
    fn levels_come_back() {
        let block: Block =
            std::array::from_fn(|y| std::array::from_fn(|x| ((37 * y + 91 * x) % 256).cast_signed() as i32 - 128));
        let back = levels(&frequencies(&block).map(|row| row.map(|frequency| descaled(frequency, 3))));
        for (found, expected) in back.as_flattened().iter().zip(block.as_flattened()) {
            assert!((found - expected).abs() <= 1, "{found} {expected}");
        }
    }

    #[test]
    fn grey_of_one_level_is_kept_but_for_a_step() {
        for quality in [100, 80, 7] {
            for level in [0, 77, 128, 255] {
                let mut out = [0; 17 * 9 * 3];
                jpeg_compression(&[level; 17 * 9 * 3], [17, 9], quality, &mut out);
                let step = table(&LUMA, quality)[0][0] / 16 + 1;
                assert!(out.iter().all(|&value| i32::from(value.abs_diff(level)) <= step), "{quality} {level} {out:?}");
            }
        }
    }
}
