//! Convolution against plain f64 loops, on every level of the machine, and on any number of threads.

use super::*;
use proptest::prelude::*;

/// Calls `f(x index, weight index, y index)` for every product of the convolution.
fn products(conv: &Conv2d, mut f: impl FnMut(usize, usize, usize)) {
    let &Conv2d { batch, height, width, channels_in, channels_out, kernel, stride, padding } = conv;
    for n in 0..batch {
        for oy in 0..conv.out_height() {
            for ox in 0..conv.out_width() {
                for ky in 0..kernel {
                    for kx in 0..kernel {
                        let (y, x) = (oy * stride + ky, ox * stride + kx);
                        if y < padding || x < padding || y - padding >= height || x - padding >= width {
                            continue;
                        }
                        let pixel = ((n * height + y - padding) * width + x - padding) * channels_in;
                        let out = ((n * conv.out_height() + oy) * conv.out_width() + ox) * channels_out;
                        for o in 0..channels_out {
                            for i in 0..channels_in {
                                f(pixel + i, ((o * channels_in + i) * kernel + ky) * kernel + kx, out + o);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Values in [-1, 1) from a small generator, so that a failing case is its shape and a seed.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..length).map(|_| next()).collect()
}

/// Largest error relative to the largest value.
fn assert_close(what: &str, conv: &Conv2d, level: Level, got: &[f32], expected: &[f64]) {
    let scale = expected.iter().fold(1e-3f64, |m, v| m.max(v.abs()));
    for (at, (got, expected)) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(*got) - expected).abs() / scale;
        assert!(error < 1e-5, "{what} of {conv:?} at {level:?}: [{at}] is {got}, expected {expected}");
    }
}

fn check(conv: &Conv2d, seed: u64) {
    let x = noise(conv.input_len(), seed);
    let weights = noise(conv.weight_len(), seed + 1);
    let dy = noise(conv.output_len(), seed + 2);
    let [y64, dx64, dw64] =
        in_f64(conv, &x, &weights, &dy).map(|all| all.into_iter().map(|[sum, _]| sum).collect::<Vec<_>>());
    for level in Level::available() {
        // NaN shows what was not written.
        let mut y = vec![f32::NAN; dy.len()];
        conv2d_at(level, conv, Products::F32, &x, &weights, &mut y);
        assert_close("output", conv, level, &y, &y64);
        let mut dx = vec![f32::NAN; x.len()];
        conv2d_input_grad_at(level, conv, Products::F32, &dy, &weights, &mut dx);
        assert_close("input gradient", conv, level, &dx, &dx64);
        let mut dw = vec![f32::NAN; weights.len()];
        conv2d_weight_grad_at(level, conv, Products::F32, &x, &dy, &mut dw);
        assert_close("weight gradient", conv, level, &dw, &dw64);
    }
}

prop_compose! {
    fn shapes()(
        (height, width) in (1usize..=9, 1usize..=9),
        (channels_in, channels_out) in (1usize..=40, 1usize..=40),
        kernel in prop::sample::select(vec![1usize, 2, 3, 5, 7]),
        stride in 1usize..=3,
        padding in 0usize..=3,
        batch in 1usize..=5,
    ) -> Conv2d {
        // A kernel that does not fit is padded until it does.
        let padding = padding.max(kernel.saturating_sub(height.min(width)).div_ceil(2));
        Conv2d { batch, height, width, channels_in, channels_out, kernel, stride, padding }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]
    #[test]
    fn agrees_with_plain_loops(conv in shapes(), seed in 1u64..1 << 40) {
        check(&conv, seed);
    }
}

/// Largest error of products of bf16, relative to the largest value, where many are summed.
pub(crate) const BF16_TOLERANCE: f32 = 1e-2;

/// What the three passes sum to, and the sum of the magnitudes of what each sums.
fn in_f64(conv: &Conv2d, x: &[f32], weights: &[f32], dy: &[f32]) -> [Vec<[f64; 2]>; 3] {
    let mut all = [dy.len(), x.len(), weights.len()].map(|length| vec![[0.0; 2]; length]);
    products(conv, |i, w, o| {
        for (pass, at, a, b) in [(0, o, x[i], weights[w]), (1, i, dy[o], weights[w]), (2, w, dy[o], x[i])] {
            let product = f64::from(a) * f64::from(b);
            all[pass][at][0] += product;
            all[pass][at][1] += product.abs();
        }
    });
    all
}

/// Both factors are rounded to 8 bits, each by one part in 256 at most.
fn assert_near(what: &str, conv: &Conv2d, level: Level, got: &[f32], expected: &[[f64; 2]]) {
    for (got, [expected, magnitude]) in got.iter().zip(expected) {
        let error = (f64::from(*got) - expected).abs();
        let bound = magnitude * 1.01 / 128.0 + 1e-6;
        assert!(error <= bound, "{what} of {conv:?} at {level:?}: {got}, expected {expected} within {bound}");
    }
}

// The direct way in bf16 on every level, whole and by rows.
proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(40) })]
    #[test]
    fn bf16_is_near_plain_loops(
        (height, width) in (1usize..=11, 1usize..=11), blocks in 2usize..=5, channels_out in 1usize..=40,
        kernel in prop::sample::select(vec![1usize, 3]), stride in 1usize..=2, batch in 1usize..=4, seed in 1u64..1 << 40,
    ) {
        let channels_in = 16 * blocks;
        let conv = Conv2d { batch, height, width, channels_in, channels_out, kernel, stride, padding: kernel / 2 };
        let (x, weights) = (noise(conv.input_len(), seed), noise(conv.weight_len(), seed + 1));
        let [expected, ..] = in_f64(&conv, &x, &weights, &vec![0.0; conv.output_len()]);
        for level in Level::available() {
            let mut found = vec![f32::NAN; conv.output_len()];
            let walk = Walk::forward(true, level, &conv, &weights);
            walk.images(&x, &mut found, Write::Over);
            assert_near("output", &conv, level, &found, &expected);
            let mut by_rows = vec![f32::NAN; found.len() / batch];
            walk.rows(&x[..x.len() / batch], &mut by_rows, 0..conv.out_height());
            prop_assert_eq!(&by_rows, &found[..by_rows.len()]);
        }
    }
}

const PRODUCTS: [Products; 2] = [Products::F32, Products::Bf16];

/// All three passes in bf16 against f64, on every level.
fn check_bf16(conv: &Conv2d, seed: u64) {
    let (x, weights) = (noise(conv.input_len(), seed), noise(conv.weight_len(), seed + 1));
    let dy = noise(conv.output_len(), seed + 2);
    let [of_y, of_x, of_weights] = in_f64(conv, &x, &weights, &dy);
    for level in Level::available() {
        let (mut y, mut dx, mut dw) =
            (vec![f32::NAN; dy.len()], vec![f32::NAN; x.len()], vec![f32::NAN; weights.len()]);
        conv2d_at(level, conv, Products::Bf16, &x, &weights, &mut y);
        assert_near("output", conv, level, &y, &of_y);
        conv2d_input_grad_at(level, conv, Products::Bf16, &dy, &weights, &mut dx);
        assert_near("input gradient", conv, level, &dx, &of_x);
        conv2d_weight_grad_at(level, conv, Products::Bf16, &x, &dy, &mut dw);
        assert_near("weight gradient", conv, level, &dw, &of_weights);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100) })]
    #[test]
    fn all_passes_in_bf16_are_near_plain_loops(
        conv in shapes(), blocks in prop::sample::select(vec![(2usize, 3usize), (3, 2), (1, 2), (4, 1)]),
        joined in any::<bool>(), seed in 1u64..1 << 40,
    ) {
        let (channels_in, channels_out) = (16 * blocks.0, 16 * blocks.1);
        let conv = if joined { Conv2d { channels_in, channels_out, ..conv } } else { conv };
        check_bf16(&conv, seed);
    }
}

#[test]
fn layers_of_the_network_in_bf16_are_near_plain_loops() {
    for conv in layers() {
        check_bf16(&conv, 7);
    }
}

/// Layers of the network, at sizes where several blocks, passes, groups and chunks meet.
fn layers() -> Vec<Conv2d> {
    [
        (3, 32, 3, 16, 3, 1, 1),
        (2, 32, 16, 16, 3, 1, 1),
        (3, 16, 16, 32, 3, 2, 1),
        (3, 17, 16, 32, 1, 2, 0),
        (20, 8, 64, 64, 3, 1, 1),
        (37, 4, 80, 128, 3, 1, 1),
        (33, 2, 72, 50, 3, 1, 1),
        (18, 1, 33, 24, 3, 1, 1),
        (2, 33, 3, 24, 7, 2, 3),
        (2, 12, 4, 48, 5, 1, 2),
        (3, 20, 1, 9, 7, 1, 2),
        (2, 9, 2, 20, 1, 1, 1),
        (9, 1, 128, 10, 1, 1, 0),
    ]
    .map(|(batch, side, channels_in, channels_out, kernel, stride, padding)| Conv2d {
        batch,
        height: side,
        width: side,
        channels_in,
        channels_out,
        kernel,
        stride,
        padding,
    })
    .to_vec()
}

#[test]
fn layers_of_the_network_agree_with_plain_loops() {
    for conv in layers() {
        check(&conv, 7);
    }
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    for conv in layers() {
        let (x, weights, dy) = (noise(conv.input_len(), 1), noise(conv.weight_len(), 2), noise(conv.output_len(), 3));
        for (level, products) in Level::available().flat_map(|level| PRODUCTS.map(|products| (level, products))) {
            let on = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start");
                pool.install(|| {
                    let mut all = [vec![0.0; dy.len()], vec![0.0; x.len()], vec![0.0; weights.len()]];
                    conv2d_at(level, &conv, products, &x, &weights, &mut all[0]);
                    conv2d_input_grad_at(level, &conv, products, &dy, &weights, &mut all[1]);
                    conv2d_weight_grad_at(level, &conv, products, &x, &dy, &mut all[2]);
                    all.concat().into_iter().map(f32::to_bits).collect::<Vec<_>>()
                })
            };
            let one = on(1);
            assert!(
                one == on(2) && one == on(3) && one == on(1),
                "{conv:?} in {products:?} at {level:?} depends on its threads"
            );
        }
    }
}

#[test]
fn an_empty_batch_has_no_gradient() {
    let conv =
        Conv2d { batch: 0, height: 4, width: 4, channels_in: 2, channels_out: 3, kernel: 3, stride: 1, padding: 1 };
    let mut dw = vec![1.0; conv.weight_len()];
    conv2d_weight_grad(&conv, Products::F32, &[], &[], &mut dw);
    assert!(dw.iter().all(|v| *v == 0.0));
    conv2d(&conv, Products::F32, &[], &dw, &mut []);
}

#[test]
#[should_panic(expected = "input values")]
fn a_short_input_is_refused() {
    let conv =
        Conv2d { batch: 1, height: 4, width: 4, channels_in: 2, channels_out: 3, kernel: 3, stride: 1, padding: 1 };
    conv2d(&conv, Products::F32, &[0.0; 31], &[0.0; 54], &mut [0.0; 48]);
}
