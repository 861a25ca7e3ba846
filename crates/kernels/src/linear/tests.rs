//! Linear layers against plain f64 loops, on every level of the machine, and on any number of threads.

use super::product::{DEPTH, PIECE};
use super::step::linear_lars_at;
use super::*;
use crate::conv::tests::noise;
use crate::{Lars, lars};
use proptest::prelude::*;

const PRODUCTS: [Products; 2] = [Products::F32, Products::Bf16];

/// Forward, input gradient and weight gradient.
fn run(level: Level, products: Products, shape: &Linear, seed: u64) -> [Vec<f32>; 3] {
    let &Linear { rows, inputs, outputs } = shape;
    let [x, weight, dy] = given(shape, seed);
    // NaN shows what was not written.
    let mut all = [rows * outputs, rows * inputs, outputs * inputs].map(|length| vec![f32::NAN; length]);
    let [y, dx, dw] = &mut all;
    linear_at(level, shape, products, &x, &weight, y);
    linear_input_grad_at(level, shape, products, &dy, &weight, dx);
    linear_weight_grad_at(level, shape, products, &x, &dy, dw);
    all
}

fn given(&Linear { rows, inputs, outputs }: &Linear, seed: u64) -> [Vec<f32>; 3] {
    [noise(rows * inputs, seed), noise(outputs * inputs, seed + 1), noise(rows * outputs, seed + 2)]
}

fn check(shape: &Linear, seed: u64) {
    let &Linear { rows, inputs, outputs } = shape;
    let [x, weight, dy] = given(shape, seed);
    let mut exact = [rows * outputs, rows * inputs, outputs * inputs].map(|length| vec![[0f64; 2]; length]);
    for (row, (o, i)) in
        (0..rows).flat_map(|row| (0..outputs * inputs).map(move |at| (row, (at / inputs, at % inputs))))
    {
        let [at_y, at_x, at_w] = [row * outputs + o, row * inputs + i, o * inputs + i];
        for (pass, at, a, b) in
            [(0, at_y, x[at_x], weight[at_w]), (1, at_x, dy[at_y], weight[at_w]), (2, at_w, dy[at_y], x[at_x])]
        {
            let product = f64::from(a) * f64::from(b);
            exact[pass][at][0] += product;
            exact[pass][at][1] += product.abs();
        }
    }
    for (level, products) in Level::available().flat_map(|level| PRODUCTS.map(|products| (level, products))) {
        // Sums of f32, of factors that bf16 rounds by one part in 256 each.
        let part = if products == Products::Bf16 { 1.01 / 128.0 } else { 2e-6 };
        for (pass, (found, exact)) in run(level, products, shape, seed).iter().zip(&exact).enumerate() {
            for (found, [exact, magnitude]) in found.iter().zip(exact) {
                let error = (f64::from(*found) - exact).abs();
                assert!(error <= magnitude * part + 1e-6, "{shape:?} {level:?} {products:?} {pass}: {found}, {exact}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) })]
    #[test]
    fn agrees_with_plain_loops(
        rows in 1usize..=70, inputs in 1usize..=150, outputs in 1usize..=100, seed in 1u64..1 << 40,
    ) {
        check(&Linear { rows, inputs, outputs }, seed);
    }
}

#[test]
fn depths_of_several_pieces_agree_with_plain_loops() {
    for (rows, inputs, outputs) in [(3, 2 * DEPTH + 5, 2 * PIECE + 3), (DEPTH + 40, 7, 9), (2, TASK_COLUMNS + 1, 70)] {
        check(&Linear { rows, inputs, outputs }, 5);
    }
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let shape = Linear { rows: 33, inputs: DEPTH + 70, outputs: 3 * TASK_ROWS + 5 };
    for (level, products) in Level::available().flat_map(|level| PRODUCTS.map(|products| (level, products))) {
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start");
            pool.install(|| run(level, products, &shape, 3)).concat().into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        assert!(on(1) == on(2) && on(1) == on(3), "{level:?} {products:?}");
    }
}

const RULE: Lars = Lars { rate: 0.3, momentum: 0.9, weight_decay: 1e-4, trust: Some(0.005) };

/// The moved weight and velocity.
fn stepped(
    level: Level,
    products: Products,
    shape: &Linear,
    rule: &Lars,
    [x, dy]: [&[f32]; 2],
    seed: u64,
) -> [Vec<f32>; 2] {
    let [mut weight, mut velocity] = [seed, seed + 1].map(|seed| noise(shape.outputs * shape.inputs, seed));
    linear_lars_at(level, shape, products, rule, [x, dy], &mut weight, &mut velocity);
    [weight, velocity]
}

/// Against the gradient as a whole.
fn check_step(shape: &Linear, rule: &Lars, [x, dy]: [&[f32]; 2], seed: u64) {
    let [weight, velocity] = [seed, seed + 1].map(|seed| noise(shape.outputs * shape.inputs, seed));
    for (level, products) in Level::available().flat_map(|level| PRODUCTS.map(|products| (level, products))) {
        let (mut gradient, mut moved, mut wanted) = (vec![0.0; weight.len()], weight.clone(), velocity.clone());
        linear_weight_grad_at(level, shape, products, x, dy, &mut gradient);
        lars(rule, &mut moved, &gradient, &mut wanted);
        for (found, wanted) in stepped(level, products, shape, rule, [x, dy], seed).iter().zip([&moved, &wanted]) {
            for (found, wanted) in found.iter().zip(wanted) {
                let close = (found - wanted).abs() <= 2e-6 * wanted.abs().max(1.0);
                assert!(close, "{shape:?} {level:?} {products:?}: {found}, {wanted}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(40) })]
    #[test]
    fn a_step_by_factors_is_a_step_by_the_gradient(
        rows in 1usize..=70, inputs in 1usize..=150, outputs in 1usize..=100, seed in 1u64..1 << 40, size in 0f32..2.0,
        scaled: bool,
    ) {
        let shape = Linear { rows, inputs, outputs };
        let [x, _, dy] = given(&shape, seed);
        let dy: Vec<f32> = dy.iter().map(|dy| dy * size).collect();
        check_step(&shape, &Lars { trust: scaled.then_some(0.005), ..RULE }, [&x, &dy], seed + 3);
    }
}

/// As in a network that collapses: equal features, and gradients that sum to nothing.
#[test]
fn rows_that_cancel_are_a_step_all_the_same() {
    let shape = Linear { rows: 4, inputs: 300, outputs: 100 };
    let one = noise(shape.inputs, 1);
    let x: Vec<f32> = (0..4).flat_map(|row| one.iter().map(move |x| x + 1e-3 * row as f32)).collect();
    let (first, second) = (noise(shape.outputs, 2), noise(shape.outputs, 3));
    let against = |values: &[f32]| values.iter().map(|dy| -dy).collect::<Vec<_>>();
    let dy = [&first[..], &against(&first), &second, &against(&second)].concat();
    check_step(&shape, &RULE, [&x, &dy], 4);
}

#[test]
fn a_step_does_not_depend_on_the_number_of_threads() {
    let shape = Linear { rows: 33, inputs: 70, outputs: 3 * TASK_ROWS + 5 };
    let [x, _, dy] = given(&shape, 1);
    for (level, products) in Level::available().flat_map(|level| PRODUCTS.map(|products| (level, products))) {
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start");
            let moved = pool.install(|| stepped(level, products, &shape, &RULE, [&x, &dy], 3));
            moved.concat().into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        assert!(on(1) == on(2) && on(1) == on(3), "{level:?} {products:?}");
    }
}

#[test]
fn no_rows_have_no_gradient() {
    let shape = Linear { rows: 0, inputs: 3, outputs: 2 };
    let mut dw = vec![1.0; 6];
    linear_weight_grad(&shape, Products::F32, &[], &[], &mut dw);
    assert_eq!(dw, [0.0; 6]);
    linear(&shape, Products::F32, &[], &dw, &mut []);
    linear_input_grad(&shape, Products::F32, &[], &dw, &mut []);
    check_step(&shape, &RULE, [&[], &[]], 1);
}

#[test]
#[should_panic(expected = "input values")]
fn a_short_input_is_refused() {
    linear(&Linear { rows: 2, inputs: 3, outputs: 2 }, Products::F32, &[0.0; 5], &[0.0; 6], &mut [0.0; 4]);
}
