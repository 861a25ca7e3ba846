//! Properties that hold for any weights and images.

use burn::Tensor;
use burn::tensor::{Device, Int, TensorData};
use gabion_learn::attack::{Ball, Pgd, pgd, random_start};
use gabion_learn::loss::cross_entropy;
use gabion_learn::optim::{Average, Lars};
use gabion_learn::train::{self, FreeAt, Minibatch, PgdAt, State};
use gabion_learn::{Head, Mode, Model, weights};
use gabion_spec::{Depth, Encoder, Loss, Optimizer, Projector, Stem};
use proptest::prelude::*;

const SHAPE: Encoder = Encoder { depth: Depth::Resnet18, width: 4, stem: Stem::Cifar };
const PROJECTOR: Projector = Projector { hidden: 16, output: 8 };

fn device() -> Device {
    Device::flex()
}

fn images(seed: u32, count: usize) -> Tensor<4> {
    let values: Vec<f32> = (0..count * 3 * 64)
        .map(|i| {
            let mixed = (i as u32).wrapping_mul(2_654_435_761).wrapping_add(seed.wrapping_mul(40_503)).rotate_left(13);
            (mixed.wrapping_mul(2_246_822_519) >> 8) as f32 / (1 << 24) as f32
        })
        .collect();
    Tensor::from_data(TensorData::new(values, [count, 3, 8, 8]), &device())
}

fn state(seed: u64) -> State {
    State {
        model: Model::init(&SHAPE, &PROJECTOR, seed, &device().autodiff()),
        optim: Lars::new(Optimizer::default()),
        average: Some(Average::new(0.9)),
        delta: None,
    }
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data_as::<f32>().try_into_vec::<f32>().unwrap()
}

const EMP: Loss = Loss::EmpSsl { invariance_weight: 200.0, tcr_weight: 1.0, distortion: 0.2 };

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn project_stays_inside_and_is_idempotent(seed in any::<u32>(), epsilon in 0f32..0.2, wild in -3f32..3.0) {
        let (x, ball) = (images(seed, 2), Ball { epsilon });
        let delta = ball.project(x.clone(), (images(seed ^ 1, 2) - 0.5).mul_scalar(wild));
        for (x, d) in values(x.clone()).into_iter().zip(values(delta.clone())) {
            prop_assert!(d.abs() <= epsilon + 1e-6 && (-1e-6..=1.0 + 1e-6).contains(&(x + d)), "{x} + {d}");
        }
        let again = ball.project(x, delta.clone());
        for (once, twice) in values(delta).into_iter().zip(values(again)) {
            prop_assert!((once - twice).abs() <= 1e-7);
        }
    }
}

#[test]
fn free_at_with_one_replay_and_no_budget_is_standard_training() {
    let objective = train::objective(EMP, 2);
    let (mut free, mut standard, mut pgd) = (state(3), state(3), state(3));
    let none = Ball { epsilon: 0.0 };
    for step in 0..4 {
        let batch = Minibatch { x: images(step, 12), clean: 0 };
        let threat = FreeAt { ball: none, step: 0.01, project_first: true, reset: false };
        train::free_at(&mut free, &objective, &batch, [0.1], &threat);
        train::standard(&mut standard, &objective, &batch, 0.1);
        let threat = PgdAt { ball: none, step: 0.01, steps: 2, accumulate_attack_gradients: false };
        train::pgd_at(&mut pgd, &objective, &batch, 0.1, &threat);
    }
    let expected = weights::export(&standard.model, "");
    assert_eq!(weights::export(&free.model, ""), expected);
    assert_eq!(weights::export(&pgd.model, ""), expected);
    let averaged = |state: &State| weights::export(&state.average.as_ref().unwrap().apply(state.model.clone()), "");
    assert_eq!(averaged(&free), averaged(&standard));
    assert_ne!(averaged(&free), expected);
}

#[test]
fn simclr_leaves_its_first_view_clean() {
    let loss = Loss::SimClr { temperature: 0.5, supcon_scale: true };
    let objective = train::objective(loss, 2);
    let mut state = state(5);
    let batch = Minibatch { x: images(9, 8), clean: train::clean_views(&loss) * 4 };
    let threat = FreeAt { ball: Ball { epsilon: 0.1 }, step: 0.05, project_first: true, reset: false };
    let losses = train::free_at(&mut state, &objective, &batch, [0.1, 0.1], &threat);
    assert!(losses.iter().all(|loss| loss.total.clone().into_scalar::<f32>().is_finite()));
    assert_eq!(state.delta.unwrap().dims(), [4, 3, 8, 8]);
}

#[test]
fn an_attack_never_lowers_its_own_loss_and_no_budget_changes_nothing() {
    let device = device().autodiff();
    let model = Model::init(&SHAPE, &PROJECTOR, 1, &device);
    let head = Head::init(16, 5, 1, &device);
    let classify = |x: Tensor<4>| head.forward(model.feature(x, Mode::Frozen), Mode::Frozen);
    let x = images(4, 6);
    let labels = Tensor::<1, Int>::from_data([0, 1, 2, 3, 4, 0], &burn::tensor::Device::flex());
    let losses = |x: Tensor<4>| values(cross_entropy(classify(Tensor::from_inner(x)).inner(), labels.clone()));
    let places: Vec<usize> = (0..6).collect();
    for epsilon in [0.0, 8.0 / 255.0] {
        let ball = Ball { epsilon };
        for restart in 0..2 {
            let start = random_start(7, restart, &places, [8, 8], ball, &x.device());
            let first = x.clone() + ball.project(x.clone(), start.clone());
            let attack = Pgd { ball, step: 0.01, steps: 5 };
            let adversarial = pgd(classify, x.clone(), labels.clone(), start, &attack);
            for (before, after) in losses(first).into_iter().zip(losses(adversarial.clone())) {
                assert!(after >= before - 1e-5, "the attack lowered its loss from {before} to {after}");
            }
            if epsilon == 0.0 {
                assert_eq!(values(adversarial), values(x.clone()));
            }
        }
    }
}

#[test]
fn what_is_attacked_does_not_depend_on_its_batch() {
    let device = device().autodiff();
    let model = Model::init(&SHAPE, &PROJECTOR, 1, &device);
    let head = Head::init(16, 5, 1, &device);
    let classify = |x: Tensor<4>| head.forward(model.feature(x, Mode::Frozen), Mode::Frozen);
    let (x, labels) = (images(4, 6), [0i64, 1, 2, 3, 4, 0]);
    let ball = Ball { epsilon: 8.0 / 255.0 };
    let attack = Pgd { ball, step: 0.01, steps: 3 };
    let run = |places: &[usize]| {
        let chosen = Tensor::cat(places.iter().map(|&place| x.clone().narrow(0, place, 1)).collect(), 0);
        let labels: Vec<i64> = places.iter().map(|&place| labels[place]).collect();
        let labels = Tensor::<1, Int>::from_data(TensorData::new(labels, [places.len()]), &x.device());
        let start = random_start(7, 0, places, [8, 8], ball, &x.device());
        values(pgd(classify, chosen, labels, start, &attack))
    };
    let together = run(&[0, 1, 2, 3, 4, 5]);
    for place in 0..6 {
        let alone = run(&[place]);
        let beside = &together[place * 192..(place + 1) * 192];
        let apart = alone.iter().zip(beside).filter(|(a, b)| (*a - *b).abs() > 1e-6).count();
        // The sign of a gradient that rounding decides may differ.
        assert!(apart <= 4, "image {place}: {apart} of 192 values differ");
    }
}
