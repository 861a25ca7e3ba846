// Sizes here are tiny.
#![allow(clippy::cast_possible_wrap)]

use super::*;
use crate::Window;
use proptest::prelude::*;

/// Numbers that look random, in [-1, 1).
fn noise(length: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..length).map(|_| next()).collect()
}

/// One image's activation in f64, `[channels, height, width]`.
#[derive(Clone)]
struct Plain {
    size: [usize; 3],
    values: Vec<f64>,
}

impl Plain {
    fn at(&self, c: usize, y: isize, x: isize) -> Option<f64> {
        let [_, height, width] = self.size;
        let inside = (0..height as isize).contains(&y) && (0..width as isize).contains(&x);
        inside.then(|| self.values[(c * height + y as usize) * width + x as usize])
    }

    fn conv(&self, filter: Filter, weights: &[f32], bias: &[f32], residual: Option<&Self>, relu: bool) -> Self {
        let Filter { kernel, stride, padding } = filter;
        let [channels, height, width] = self.size;
        let out = |length: usize| (length + 2 * padding - kernel) / stride + 1;
        let size = [bias.len(), out(height), out(width)];
        let mut values = Vec::new();
        for o in 0..size[0] {
            for y in 0..size[1] {
                for x in 0..size[2] {
                    let mut sum = f64::from(bias[o]);
                    for c in 0..channels {
                        for ky in 0..kernel {
                            for kx in 0..kernel {
                                let place = |at: usize, k: usize| (at * stride + k) as isize - padding as isize;
                                let weight = weights[((o * channels + c) * kernel + ky) * kernel + kx];
                                sum += self.at(c, place(y, ky), place(x, kx)).unwrap_or(0.0) * f64::from(weight);
                            }
                        }
                    }
                    sum += residual.map_or(0.0, |residual| residual.values[values.len()]);
                    values.push(if relu { sum.max(0.0) } else { sum });
                }
            }
        }
        Self { size, values }
    }

    fn max_pool(&self) -> Self {
        let [channels, height, width] = self.size;
        let size = [channels, (height - 1) / 2 + 1, (width - 1) / 2 + 1];
        let mut values = Vec::new();
        for c in 0..channels {
            for y in 0..size[1] as isize {
                for x in 0..size[2] as isize {
                    let window = (0..9).filter_map(|at| self.at(c, 2 * y + at / 3 - 1, 2 * x + at % 3 - 1));
                    values.push(window.fold(f64::NEG_INFINITY, f64::max));
                }
            }
        }
        Self { size, values }
    }

    fn average_pool(&self) -> Self {
        let pixels = self.size[1] * self.size[2];
        let values = self.values.chunks(pixels).map(|plane| plane.iter().sum::<f64>() / pixels as f64).collect();
        Self { size: [self.size[0], 1, 1], values }
    }

    fn linear(&self, weights: &[f32], bias: &[f32], relu: bool) -> Self {
        let flat = Self { size: [self.values.len(), 1, 1], values: self.values.clone() };
        flat.conv(Filter { kernel: 1, stride: 1, padding: 0 }, weights, bias, None, relu)
    }
}

/// A stem, a pooling where asked, a block that changes shape, one that does not, two linear layers.
struct Example {
    size: [usize; 3],
    width: usize,
    stem: Filter,
    pools: bool,
    flat: bool,
    seed: u64,
}

const NINE: Filter = Filter { kernel: 3, stride: 1, padding: 1 };

impl Example {
    fn tensor(&self, number: u64, shape: &[usize]) -> Vec<f32> {
        let length: usize = shape.iter().product();
        let fan: f32 = (length / shape[0]).max(1) as f32;
        noise(length, self.seed * 1000 + number).iter().map(|value| value * (3.0 / fan).sqrt()).collect()
    }

    fn normalisation(&self) -> [Vec<f32>; 2] {
        let channels = self.size[0];
        [noise(channels, 7).iter().map(|value| value + 2.0).collect(), noise(channels, 8)]
    }

    fn build(&self, level: Level) -> (Frozen, Value) {
        self.build_in(level, Precision::F32)
    }

    fn build_in(&self, level: Level, precision: Precision) -> (Frozen, Value) {
        let [scale, shift] = self.normalisation();
        let (net, x) = Builder::at(level, self.size, &scale, &shift);
        self.layers(net.with(precision), x)
    }

    /// In int8, its ranges those of some images.
    fn build_int8(&self, level: Level, images: &[f32]) -> Frozen {
        let [scale, shift] = self.normalisation();
        let (net, x) = Builder::at(level, self.size, &scale, &shift);
        let ranges = self.build(level).0.ranges(images);
        self.layers(net.quantised(&ranges), x).0
    }

    fn layers(&self, mut net: Builder, x: Value) -> (Frozen, Value) {
        let (w, k) = (self.width, self.stem.kernel);
        let mut x = net.conv(x, self.stem, &self.tensor(0, &[w, self.size[0], k, k]), &noise(w, 1), None, true);
        if self.pools {
            x = net.max_pool(x);
        }
        let (two, one) = (Filter { stride: 2, ..NINE }, Filter { kernel: 1, stride: 2, padding: 0 });
        let around = net.conv(x, one, &self.tensor(2, &[2 * w, w, 1, 1]), &noise(2 * w, 3), None, false);
        let mid = net.conv(x, two, &self.tensor(4, &[2 * w, w, 3, 3]), &noise(2 * w, 5), None, true);
        let x = net.conv(mid, NINE, &self.tensor(6, &[2 * w, 2 * w, 3, 3]), &noise(2 * w, 7), Some(around), true);
        let mid = net.conv(x, NINE, &self.tensor(8, &[2 * w, 2 * w, 3, 3]), &noise(2 * w, 9), None, true);
        let x = net.conv(mid, NINE, &self.tensor(10, &[2 * w, 2 * w, 3, 3]), &noise(2 * w, 11), Some(x), true);
        let x = if self.flat { x } else { net.average_pool(x) };
        let features = net.frozen.values[x.0].len();
        let feature = net.linear(x, &self.tensor(12, &[9, features]), &noise(9, 13), true);
        net.linear(feature, &self.tensor(14, &[5, 9]), &noise(5, 15), false);
        (net.build(), feature)
    }

    fn plain(&self, image: &[f32]) -> Vec<f64> {
        let [scale, shift] = self.normalisation();
        let pixels = self.size[1] * self.size[2];
        let entered = |(at, value): (usize, &f32)| {
            f64::from(*value) * f64::from(scale[at / pixels]) + f64::from(shift[at / pixels])
        };
        let x = Plain { size: self.size, values: image.iter().enumerate().map(entered).collect() };
        let (w, k) = (self.width, self.stem.kernel);
        let mut x = x.conv(self.stem, &self.tensor(0, &[w, self.size[0], k, k]), &noise(w, 1), None, true);
        if self.pools {
            x = x.max_pool();
        }
        let (two, one) = (Filter { stride: 2, ..NINE }, Filter { kernel: 1, stride: 2, padding: 0 });
        let around = x.conv(one, &self.tensor(2, &[2 * w, w, 1, 1]), &noise(2 * w, 3), None, false);
        let mid = x.conv(two, &self.tensor(4, &[2 * w, w, 3, 3]), &noise(2 * w, 5), None, true);
        let x = mid.conv(NINE, &self.tensor(6, &[2 * w, 2 * w, 3, 3]), &noise(2 * w, 7), Some(&around), true);
        let mid = x.conv(NINE, &self.tensor(8, &[2 * w, 2 * w, 3, 3]), &noise(2 * w, 9), None, true);
        let x = mid.conv(NINE, &self.tensor(10, &[2 * w, 2 * w, 3, 3]), &noise(2 * w, 11), Some(&x), true);
        let x = if self.flat { x } else { x.average_pool() };
        let feature = x.linear(&self.tensor(12, &[9, x.values.len()]), &noise(9, 13), true);
        feature.linear(&self.tensor(14, &[5, 9]), &noise(5, 15), false).values
    }

    /// Logits and gradient against f64 and its finite differences.
    fn check(&self, level: Level, images: usize) {
        let (net, _) = self.build(level);
        let length = net.input_len();
        let x = noise(images * length, self.seed + 99);
        let mut logits = vec![f32::NAN; images * 5];
        net.forward(&x, net.last(), &mut logits);
        let weights = noise(images * 5, self.seed + 77);
        let (mut again, mut dx) = (vec![f32::NAN; images * 5], vec![f32::NAN; x.len()]);
        net.gradient(&x, net.last(), &mut |_| weights.clone(), &mut again, &mut dx);
        assert_eq!(logits, again, "{level:?}: logits on the way to a gradient");
        for image in 0..images {
            let x = &x[image * length..][..length];
            let weights = &weights[image * 5..][..5];
            let exact = self.plain(x);
            for (found, exact) in logits[image * 5..].iter().zip(&exact) {
                assert!((f64::from(*found) - exact).abs() < 1e-4, "{level:?}: logit {found}, exact {exact}");
            }
            let loss = |x: &[f32]| {
                self.plain(x).iter().zip(weights).map(|(logit, weight)| logit * f64::from(*weight)).sum::<f64>()
            };
            for at in [0, length / 3, length / 2, length - 1] {
                let mut moved = x.to_vec();
                let mut at_distance = |distance: f32| {
                    moved[at] = x[at] + distance;
                    (loss(&moved), f64::from(moved[at]))
                };
                let ((above, high), (below, low)) = (at_distance(1e-4), at_distance(-1e-4));
                let exact = (above - below) / (high - low);
                let found = f64::from(dx[image * length + at]);
                // A kink within the step moves the quotient by at most the slope on its other side.
                let (right, left) = ((above - loss(x)) / 1e-4, (loss(x) - below) / 1e-4);
                let kink = (right - left).abs();
                assert!((found - exact).abs() < 2e-3 + kink, "{level:?}: gradient {found} at {at}, quotient {exact}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn logits_and_gradients_are_those_of_f64(
        height in 5usize..14, width in 5usize..14, channels in 1usize..5, net in 1usize..20, images in 1usize..6,
        stem in 0usize..3, pools: bool, flat: bool, seed in 1u64..1000,
    ) {
        let stem = [NINE, Filter { kernel: 4, stride: 2, padding: 1 }, Filter { kernel: 7, stride: 2, padding: 3 }][stem];
        let example = Example { size: [channels, height, width], width: net, stem, pools, flat, seed };
        for level in Level::available() {
            example.check(level, images);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_window_changes_what_a_whole_pass_would(
        height in 24usize..52, width in 8usize..34, net in 4usize..20, images in 1usize..6, stem in 0usize..2,
        pools: bool, corners in prop::collection::vec((0.0f64..1.0, 0.0f64..1.0, 0.0f64..0.6, any::<bool>()), 1..6),
    ) {
        let stem = [NINE, Filter { kernel: 4, stride: 2, padding: 1 }][stem];
        let example = Example { size: [3, height, width], width: net, stem, pools, flat: false, seed: 3 };
        for level in Level::available() {
            let (net, _) = example.build(level);
            let length = net.input_len();
            let mut traces: Vec<Trace> = (0..images).map(|_| net.trace()).collect();
            let answer = |traces: &mut Vec<Trace>, x: &[f32], window: &Window, undo: bool| {
                let mut logits = vec![f32::NAN; images * 5];
                let mut traces: Vec<&mut Trace> = traces.iter_mut().collect();
                if undo {
                    traces.iter_mut().for_each(|trace| trace.undo());
                }
                net.changed(&mut traces, x, &vec![window.clone(); images], &mut logits);
                logits
            };
            let mut x = noise(images * length, 1);
            let whole = Window { rows: 0..height, columns: 0..width };
            answer(&mut traces, &x, &whole, false);
            let mut undo = false;
            for (number, &(top, left, side, keep)) in corners.iter().enumerate() {
                let range = |from: f64, length: usize| {
                    let start = (from * length as f64) as usize;
                    start..(start + 1 + (side * length as f64) as usize).min(length)
                };
                let window = Window { rows: range(top, height), columns: range(left, width) };
                let (before, fresh) = (x.clone(), noise(x.len(), 2 + number as u64));
                for at in 0..x.len() {
                    let (row, column) = (at / width % height, at % width);
                    if window.rows.contains(&row) && window.columns.contains(&column) {
                        x[at] = fresh[at];
                    }
                }
                let found = answer(&mut traces, &x, &window, undo);
                let mut exact = vec![f32::NAN; images * 5];
                net.forward(&x, net.last(), &mut exact);
                for (found, exact) in found.iter().zip(&exact) {
                    prop_assert!((found - exact).abs() < 2e-5, "{level:?}: logit {found}, of a whole pass {exact}");
                }
                undo = !keep;
                if undo {
                    x = before;
                }
            }
        }
    }
}

#[test]
fn what_is_kept_are_activations_of_many_rows() {
    let kept = |side: usize, pools: bool| {
        let (net, _) = Example { size: [3, side, side], pools, ..example() }.build(Level::current());
        net.trace_bytes() / (2 * size_of::<f32>())
    };
    // The image and the stem; of a large one the blocks of half its rows too.
    assert_eq!(kept(32, false), (3 + 16) * 32 * 32);
    assert_eq!(kept(48, false), (3 + 16) * 48 * 48 + 5 * 32 * 24 * 24);
    assert_eq!(kept(48, true), (3 + 16) * 48 * 48);
    assert!(!example().build(Level::current()).0.traces());
}

fn example() -> Example {
    Example { size: [3, 8, 8], width: 16, stem: NINE, pools: false, flat: false, seed: 5 }
}

/// Largest error of a logit in bf16, relative to the largest logit: some layers of roundings to 8 bits.
const BF16_TOLERANCE: f32 = 2e-2;

#[test]
fn bf16_moves_logits_by_little_and_gradients_by_what_the_masks_move() {
    for (side, width) in [(8, 32), (11, 48), (16, 32)] {
        let example = Example { size: [3, side, side], width, ..example() };
        for level in Level::available() {
            let (exact, _) = example.build(level);
            let (net, _) = example.build_in(level, Precision::Bf16);
            let x = noise(5 * net.input_len(), 3);
            let run = |net: &Frozen| {
                let (mut logits, mut dx) = (vec![0.0; 25], vec![0.0; x.len()]);
                net.gradient(&x, net.last(), &mut |logits| vec![1.0; logits.len()], &mut logits, &mut dx);
                [logits, dx]
            };
            let [[exact, exact_dx], [found, dx]] = [run(&exact), run(&net)];
            let distance = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt();
            let length = |a: &[f32]| a.iter().map(|a| a * a).sum::<f32>().sqrt();
            let most = exact.iter().fold(0f32, |most, logit| most.max(logit.abs()));
            for (found, exact) in found.iter().zip(&exact) {
                assert!((found - exact).abs() < BF16_TOLERANCE * most, "{level:?}: {found}, {exact}");
            }
            assert!(found != exact, "{level:?}: nothing was rounded");
            assert!(distance(&dx, &exact_dx) < 0.2 * length(&exact_dx), "{level:?}: {}", distance(&dx, &exact_dx));
            // One image on its own shares its rows among threads.
            let mut one = vec![0.0; 5];
            net.forward(&x[..net.input_len()], net.last(), &mut one);
            assert_eq!(one, found[..5]);
        }
    }
}

#[test]
fn an_image_is_the_same_in_any_company() {
    let (net, feature) = example().build(Level::current());
    let length = net.input_len();
    let x = noise(40 * length, 3);
    let (mut all, mut gradients) = (vec![0.0; 40 * 5], vec![0.0; x.len()]);
    net.gradient(&x, net.last(), &mut |logits| logits.to_vec(), &mut all, &mut gradients);
    for image in [0, 7, 39] {
        let x = &x[image * length..][..length];
        let (mut alone, mut gradient) = (vec![0.0; 5], vec![0.0; length]);
        net.forward(x, net.last(), &mut alone);
        assert_eq!(alone, all[image * 5..][..5], "logits");
        net.gradient(x, net.last(), &mut |logits| logits.to_vec(), &mut alone, &mut gradient);
        assert_eq!(gradient, gradients[image * length..][..length], "gradient");
        let (mut features, mut by_way) = (vec![0.0; 9], vec![0.0; 5]);
        net.forward(x, feature, &mut features);
        net.between(&features, feature, net.last(), &mut by_way);
        assert_eq!(by_way, alone, "by way of the feature");
    }
}

#[test]
fn threads_change_nothing() {
    let (net, _) = example().build(Level::current());
    let x = noise(11 * net.input_len(), 3);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        let (mut logits, mut dx) = (vec![0.0; 11 * 5], vec![0.0; x.len()]);
        pool.install(|| net.gradient(&x, net.last(), &mut |logits| logits.to_vec(), &mut logits, &mut dx));
        let mut one = vec![0.0; 5];
        pool.install(|| net.forward(&x[..net.input_len()], net.last(), &mut one));
        assert_eq!(one, logits[..5]);
        (logits, dx)
    };
    assert_eq!(run(1), run(5));
}

#[test]
#[should_panic(expected = "is not made from")]
fn a_shortcut_around_the_start_is_refused() {
    let (net, _) = example().build(Level::current());
    // Value 3 is in the middle of a block.
    let mut out = vec![0.0; net.len_of(Value(4))];
    net.between(&vec![0.0; net.len_of(Value(3))], Value(3), Value(4), &mut out);
}

/// Largest error of a logit in int8, relative to the largest logit: some layers of 255 steps.
const INT8_TOLERANCE: f32 = 5e-2;

#[test]
fn int8_moves_logits_by_little_and_is_the_same_whatever_the_batch() {
    for (side, width, pools) in [(8, 12, false), (11, 32, false), (16, 17, true)] {
        let example = Example { size: [3, side, side], width, pools, ..example() };
        for level in Level::available() {
            let (exact, _) = example.build(level);
            let x = noise(7 * exact.input_len(), 3);
            let net = example.build_int8(level, &noise(20 * exact.input_len(), 9));
            assert_eq!(net.precision(), Precision::Int8);
            let run = |net: &Frozen, x: &[f32]| {
                let mut logits = vec![f32::NAN; x.len() / net.input_len() * 5];
                net.forward(x, net.last(), &mut logits);
                logits
            };
            let [found, exact] = [&net, &exact].map(|net| run(net, &x));
            let most = exact.iter().fold(0f32, |most, logit| most.max(logit.abs()));
            for (found, exact) in found.iter().zip(&exact) {
                assert!((found - exact).abs() < INT8_TOLERANCE * most, "{level:?}: {found}, {exact}");
            }
            assert!(found != exact, "{level:?}: nothing was rounded");
            let one_by_one: Vec<f32> = x.chunks_exact(net.input_len()).flat_map(|x| run(&net, x)).collect();
            assert_eq!(one_by_one, found, "{level:?}");
            assert!(net.weight_bytes() * 2 < example.build(level).0.weight_bytes());
        }
    }
}

#[test]
#[should_panic(expected = "no way back in int8")]
fn int8_has_no_gradient() {
    let net = example().build_int8(Level::current(), &noise(3 * 64, 1));
    let (mut logits, mut dx) = (vec![0.0; 5], vec![0.0; net.input_len()]);
    net.gradient(&noise(net.input_len(), 1), net.last(), &mut <[f32]>::to_vec, &mut logits, &mut dx);
}
