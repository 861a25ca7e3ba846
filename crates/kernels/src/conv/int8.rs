//! Convolution in 8 bits: activations that are never negative times signed weights, summed exactly in 32.
//!
//! A weight is a multiple of its output channel's greatest one over 127, an activation a multiple of the tensor's range over
//! 255, rounded to nearest, ties to even, and cut off beyond the range. Four channels are a word, whose products the
//! machine's instruction adds to a sum at once (AVX512_VNNI's `vpdpbusd`, NEON's `sdot`); without it plain Rust finds the
//! same integers. Sums become f32 by one factor an output channel. No level rounds differently.

mod sums;

use super::forward::Window;
use super::{Conv2d, Write};
use crate::Level;
use crate::scratch::Scratch;
use std::ops::Range;
use sums::{Plain, Sums, quantise};

/// Output channels of a vector of sums.
const LANES: usize = 16;
/// Input channels of a word.
const WORD: usize = 4;
/// Output pixels of a row that share weights; a tile may look at so many beyond the last one.
const PIXELS: usize = 8;
/// Of activations and of weights, steps from 0 to the greatest.
const STEPS: f32 = 255.0;
const WEIGHT_STEPS: f32 = 127.0;

/// A word's weights of one vector's lanes.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([i8; LANES * WORD]);

/// A prepared convolution.
#[derive(Debug)]
pub(crate) struct Int8 {
    level: Level,
    conv: Conv2d,
    /// Words of a pixel.
    words: usize,
    /// Steps of an activation of 1.
    scale: f32,
    /// Of each output channel, what a sum of 1 stands for; whole vectors.
    factors: Vec<f32>,
    /// Of each output channel, the sum of its weights; whole vectors.
    totals: Vec<i32>,
    /// `[two vectors, or one][tap][word][vector]`.
    weights: Vec<Line>,
}

impl Int8 {
    /// With `weights` `[out, in, kernel, kernel]`, of activations from 0 to `range`.
    ///
    /// # Panics
    /// When sums may be beyond 32 bits.
    pub(crate) fn new(level: Level, conv: &Conv2d, weights: &[f32], range: f32) -> Self {
        let &Conv2d { channels_in, channels_out, kernel, .. } = conv;
        let (taps, words) = (kernel * kernel, channels_in.div_ceil(WORD));
        assert!(taps * words * WORD < (i32::MAX / (255 * 127)) as usize, "{conv:?} sums more than 32 bits hold");
        let vectors = channels_out.div_ceil(LANES);
        let inputs = channels_in * taps;
        let greatest = |out: usize| weights[out * inputs..][..inputs].iter().fold(0f32, |most, w| most.max(w.abs()));
        let steps: Vec<f32> = (0..channels_out).map(|out| greatest(out) / WEIGHT_STEPS).collect();
        let mut factors = vec![0.0; vectors * LANES];
        factors.iter_mut().zip(&steps).for_each(|(factor, step)| *factor = step * (range / STEPS));
        let mut totals = vec![0; vectors * LANES];
        let mut lines = vec![Line([0; LANES * WORD]); vectors * taps * words];
        for vector in 0..vectors {
            let (pair, together) = (vector & !1, (vectors - (vector & !1)).min(2));
            for tap in 0..taps {
                for word in 0..words {
                    let place = pair * taps * words + (tap * words + word) * together + vector - pair;
                    for (at, value) in lines[place].0.iter_mut().enumerate() {
                        let (out, channel) = (vector * LANES + at / WORD, word * WORD + at % WORD);
                        if out < channels_out && channel < channels_in && steps[out] > 0.0 {
                            let weight = weights[(out * channels_in + channel) * taps + tap];
                            *value = (weight / steps[out]).round_ties_even() as i8;
                            totals[out] += i32::from(*value);
                        }
                    }
                }
            }
        }
        let scale = if range > 0.0 { STEPS / range } else { 0.0 };
        Self { level, conv: Conv2d { batch: 1, ..*conv }, words, scale, factors, totals, weights: lines }
    }

    /// A few images on this thread.
    pub(crate) fn images(&self, from: &[f32], to: &mut [f32], write: Write) {
        assert!(write == Write::Over, "there is no way back in 8 bits");
        let (height, width) = (self.conv.out_height(), self.conv.out_width());
        let whole = Window { rows: 0..height, columns: 0..width };
        for (from, to) in from.chunks_exact(self.conv.input_len()).zip(to.chunks_exact_mut(self.conv.output_len())) {
            self.run(from, to, 0, &whole);
        }
    }

    /// Some rows of one image, on this thread; `to` holds those rows.
    pub(crate) fn rows(&self, from: &[f32], to: &mut [f32], rows: Range<usize>) {
        let first = rows.start;
        self.run(from, to, first, &Window { rows, columns: 0..self.conv.out_width() });
    }

    /// Some pixels of one image, on this thread; `to` holds the image.
    pub(crate) fn region(&self, from: &[f32], to: &mut [f32], region: &Window) {
        self.run(from, to, 0, region);
    }

    /// Values of the weights' memory.
    pub(crate) fn weights(&self) -> usize {
        self.weights.len() * LANES + self.factors.len() + self.totals.len()
    }

    /// Values of a thread's working memory.
    pub(crate) fn working(&self) -> usize {
        let Conv2d { kernel, stride, .. } = self.conv;
        let side = |out: usize| (out - 1) * stride + kernel;
        (side(self.conv.out_height()) * side(self.conv.out_width()) + PIXELS * stride) * self.words
    }

    fn run(&self, from: &[f32], to: &mut [f32], first_row: usize, window: &Window) {
        if self.level.multiplies_int8() {
            // SAFETY: the instructions were just found.
            #[cfg(target_arch = "x86_64")]
            return unsafe { self.run_vnni(from, to, first_row, window) };
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            return unsafe { self.run_sdot(from, to, first_row, window) };
        }
        self.walk::<Plain>(from, to, first_row, window);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    fn run_vnni(&self, from: &[f32], to: &mut [f32], first_row: usize, window: &Window) {
        self.walk::<sums::Vnni>(from, to, first_row, window);
    }

    #[cfg(target_arch = "aarch64")]
    #[target_feature(enable = "neon,dotprod")]
    fn run_sdot(&self, from: &[f32], to: &mut [f32], first_row: usize, window: &Window) {
        self.walk::<sums::Sdot>(from, to, first_row, window);
    }

    /// `to` begins at row `first_row` of the output.
    #[inline(always)]
    fn walk<S: Sums>(&self, from: &[f32], to: &mut [f32], first_row: usize, Window { rows, columns }: &Window) {
        let Conv2d { height, width, channels_in, channels_out, kernel, stride, padding, .. } = self.conv;
        let (across, pixel) = (self.conv.out_width(), self.words * WORD);
        let columns_of_plane = (across - 1) * stride + kernel;
        let pitch = columns_of_plane * pixel;
        assert!(from.len() == height * width * channels_in && rows.start >= first_row && columns.end <= across);
        assert!(rows.end <= self.conv.out_height() && to.len() >= (rows.end - first_row) * across * channels_out);
        let mut plane = Scratch::of(self.working());
        let plane = bytes(plane.as_mut_slice());
        for row in rows.start * stride..(rows.end - 1) * stride + kernel {
            let to = &mut plane[row * pitch..][..pitch];
            let Some(y) = row.checked_sub(padding).filter(|y| *y < height) else {
                to.fill(0);
                continue;
            };
            let (left, rest) = to.split_at_mut(padding * pixel);
            let inside = width.min(columns_of_plane - padding);
            let (middle, right) = rest.split_at_mut(inside * pixel);
            left.fill(0);
            right.fill(0);
            let from = &from[y * width * channels_in..][..inside * channels_in];
            if pixel == channels_in {
                S::quantise(from, self.scale, middle);
            } else {
                for (from, to) in from.chunks_exact(channels_in).zip(middle.chunks_exact_mut(pixel)) {
                    let (to, beyond) = to.split_at_mut(channels_in);
                    quantise(from, self.scale, to);
                    beyond.fill(0);
                }
            }
        }
        let vectors = self.factors.len() / LANES;
        let pixels = if S::NARROW { PIXELS / 2 } else { PIXELS };
        for first in (0..vectors).step_by(2) {
            let together = (vectors - first).min(2);
            let weights = &self.weights[first * kernel * kernel * self.words..];
            for row in rows.clone() {
                for column in columns.clone().step_by(pixels) {
                    let valid = (columns.end - column).min(pixels);
                    let at = row * stride * pitch + column * stride * pixel;
                    let place = ((row - first_row) * across + column) * channels_out + first * LANES;
                    let tile = Tile { at, pitch, weights, together, lane: first * LANES, valid };
                    // SAFETY: a tile reads `kernel` rows from a row that was filled, and up to PIXELS pixels of a stride
                    // beyond the last of its own, which `working` has room for; `weights` holds its vectors' lines.
                    unsafe {
                        match (together, valid > PIXELS / 2) {
                            _ if S::NARROW => {
                                for v in 0..together {
                                    let (weights, lane) = (&weights[v..], tile.lane + v * LANES);
                                    let tile = Tile { weights, lane, ..tile };
                                    self.tile::<S, 1, { PIXELS / 2 }>(plane, &tile, &mut to[place + v * LANES..]);
                                }
                            }
                            (2, true) => self.tile::<S, 2, PIXELS>(plane, &tile, &mut to[place..]),
                            (2, false) => self.tile::<S, 2, { PIXELS / 2 }>(plane, &tile, &mut to[place..]),
                            (_, true) => self.tile::<S, 1, PIXELS>(plane, &tile, &mut to[place..]),
                            (_, false) => self.tile::<S, 1, { PIXELS / 2 }>(plane, &tile, &mut to[place..]),
                        }
                    }
                }
            }
        }
    }

    /// # Safety
    /// `plane` and the tile's weights hold what it reaches.
    #[inline(always)]
    unsafe fn tile<S: Sums, const V: usize, const P: usize>(&self, plane: &[u8], tile: &Tile<'_>, to: &mut [f32]) {
        let Conv2d { channels_out, kernel, stride, .. } = self.conv;
        let step = stride * self.words * WORD;
        debug_assert!(tile.weights.len() + tile.together >= kernel * kernel * self.words * tile.together + V);
        let totals = self.totals[tile.lane..].as_chunks::<LANES>().0;
        let mut sums = [[S::start(&totals[0]); V]; P];
        for v in 1..V {
            sums.iter_mut().for_each(|sums| sums[v] = S::start(&totals[v]));
        }
        // SAFETY: the caller's.
        unsafe {
            let mut lines = tile.weights.as_ptr();
            for ky in 0..kernel {
                let from = plane.as_ptr().add(tile.at + ky * tile.pitch);
                // The taps of a row lie side by side.
                for word in 0..kernel * self.words {
                    let mut factors = [S::of(&(*lines).0); V];
                    for v in 1..V {
                        factors[v] = S::of(&(*lines.add(v)).0);
                    }
                    // Behind the last line it points nowhere.
                    lines = lines.wrapping_add(tile.together);
                    for p in 0..P {
                        let value = from.add(p * step + word * WORD).cast::<[u8; WORD]>().read();
                        for v in 0..V {
                            sums[p][v] = sums[p][v].dot(value, factors[v]);
                        }
                    }
                }
            }
        }
        // By way of memory: a loop whose end is not known would keep the sums there throughout.
        let mut done = [[[0.0; LANES]; V]; P];
        let factors: [&[f32; LANES]; V] = std::array::from_fn(|v| {
            self.factors[tile.lane + v * LANES..].first_chunk().expect("factors are whole vectors")
        });
        for p in 0..P {
            for v in 0..V {
                done[p][v] = sums[p][v].times(factors[v]);
            }
        }
        for (p, done) in done.iter().enumerate().take(tile.valid) {
            for (v, done) in done.iter().enumerate() {
                let lanes = (channels_out - tile.lane - v * LANES).min(LANES);
                let to = &mut to[p * channels_out + v * LANES..];
                match to.first_chunk_mut() {
                    Some(to) if lanes == LANES => *to = *done,
                    _ => to[..lanes].copy_from_slice(&done[..lanes]),
                }
            }
        }
    }
}

/// Output pixels of a row.
struct Tile<'a> {
    /// The first byte that the first one sees.
    at: usize,
    /// Bytes of a row of the plane.
    pitch: usize,
    /// From its own first line on.
    weights: &'a [Line],
    /// Vectors whose lines lie side by side.
    together: usize,
    /// Its first output channel.
    lane: usize,
    valid: usize,
}

/// The memory of floats.
fn bytes(values: &mut [f32]) -> &mut [u8] {
    // SAFETY: a float is four bytes, and any four bytes are a float.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) }
}

#[cfg(test)]
mod tests {
    use super::super::tests::noise;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn every_level_finds_the_integers(
            height in 3usize..14, width in 3usize..20, channels_in in 1usize..40, channels_out in 1usize..70,
            kernel in 1usize..4, stride in 1usize..3, pads: bool, seed in 1u64..1000,
        ) {
            let padding = if pads { kernel / 2 } else { 0 };
            let conv = Conv2d { batch: 2, height, width, channels_in, channels_out, kernel, stride, padding };
            let mut x: Vec<f32> = noise(conv.input_len(), seed).iter().map(|x| 1.3 * x.max(0.0)).collect();
            x[0] = f32::NAN;
            let (weights, range) = (noise(conv.weight_len(), seed + 1), 1.1);
            let prepared = Int8::new(Level::Portable, &conv, &weights, range);
            let (mut exact, one) = (Vec::new(), Conv2d { batch: 1, ..conv });
            #[allow(clippy::manual_clamp)] // as above
            let step = |x: f32| f64::from((x * prepared.scale).max(0.0).min(255.0).round_ties_even());
            let (down, across) = (conv.out_height(), conv.out_width());
            for image in x.chunks_exact(one.input_len()) {
                for place in 0..one.output_len() {
                    let (pixel, out) = (place / channels_out, place % channels_out);
                    let mine = &weights[out * channels_in * kernel * kernel..][..channels_in * kernel * kernel];
                    let unit = mine.iter().fold(0f32, |most, w| most.max(w.abs())) / 127.0;
                    let mut sum = 0.0;
                    for (at, weight) in mine.iter().enumerate() {
                        let (channel, ky, kx) = (at / kernel / kernel, at / kernel % kernel, at % kernel);
                        let (y, x) = (pixel / across * stride + ky, pixel % across * stride + kx);
                        if (padding..height + padding).contains(&y) && (padding..width + padding).contains(&x) {
                            let value = image[((y - padding) * width + x - padding) * channels_in + channel];
                            sum += step(value) * f64::from((weight / unit).round_ties_even());
                        }
                    }
                    exact.push(sum as f32 * (unit * (range / 255.0)));
                }
            }
            for level in Level::available() {
                let prepared = Int8 { level, ..Int8::new(level, &conv, &weights, range) };
                let mut found = vec![f32::NAN; exact.len()];
                prepared.images(&x, &mut found, Write::Over);
                prop_assert_eq!(&found, &exact, "{:?}", level);
                // Rows and a region are parts of the image.
                let image = &x[..one.input_len()];
                let row = across * channels_out;
                let mut parts = vec![f32::NAN; one.output_len()];
                let (first, rest) = parts.split_at_mut(down / 2 * row);
                if down > 1 {
                    prepared.rows(image, first, 0..down / 2);
                }
                prepared.rows(image, rest, down / 2..down);
                prop_assert_eq!(&parts[..], &exact[..one.output_len()]);
                let mut region = vec![f32::NAN; one.output_len()];
                prepared.region(image, &mut region, &Window { rows: down / 2..down, columns: across / 2..across });
                for (place, found) in region.iter().enumerate() {
                    let inside = place / row >= down / 2 && place % row / channels_out >= across / 2;
                    prop_assert!(if inside { *found == exact[place] } else { found.is_nan() }, "{place}");
                }
            }
        }
    }

    #[test]
    fn nothing_is_of_nothing() {
        let conv =
            Conv2d { batch: 1, height: 4, width: 4, channels_in: 4, channels_out: 3, kernel: 3, stride: 1, padding: 1 };
        let mut y = vec![f32::NAN; conv.output_len()];
        Int8::new(Level::current(), &conv, &vec![0.0; conv.weight_len()], 1.0).images(&[1.0; 64], &mut y, Write::Over);
        assert!(y.iter().all(|y| *y == 0.0));
        Int8::new(Level::current(), &conv, &vec![1.0; conv.weight_len()], 0.0).images(&[1.0; 64], &mut y, Write::Over);
        assert!(y.iter().all(|y| *y == 0.0));
    }
}
