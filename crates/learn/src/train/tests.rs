use super::*;
use crate::weights;
use burn::tensor::{Device, TensorData};
use gabion_spec::{Arithmetic, Depth, Encoder, Optimizer, Projector, Stem};
use std::collections::BTreeMap;

/// Wide enough for factors to be smaller by far than the gradients of 512 x 512 and 128 x 512 weights.
fn state(factors: bool, arithmetic: Arithmetic, device: &Device) -> State {
    let encoder = Encoder { depth: Depth::Resnet18, width: 2, stem: Stem::Cifar };
    let projector = Projector { hidden: 512, output: 128 };
    let model = Model::init(&encoder, &projector, 3, &device.clone().autodiff()).compute_in(arithmetic);
    let model = if factors { model.leave_factors() } else { model };
    State { model, optim: Lars::new(Optimizer::default()), average: Some(Average::new(0.9)), delta: None }
}

fn views(rows: usize, seed: u64, device: &Device) -> Tensor<4> {
    let values = crate::init::uniform(seed, "views", rows * 3 * 8 * 8, 0.5);
    Tensor::from_data(TensorData::new(values, [rows, 3, 8, 8]), device).add_scalar(0.5)
}

/// Weights, momentum and average after two minibatches.
fn trained(factors: bool, arithmetic: Arithmetic, threat: &spec::Threat) -> BTreeMap<String, TensorData> {
    let device = Device::flex();
    let mut state = state(factors, arithmetic, &device);
    let loss = spec::Loss::EmpSsl { invariance_weight: 200.0, tcr_weight: 1.0, distortion: 0.2 };
    let objective = objective(loss, 2);
    for seed in 0..2 {
        let x = views(16, seed, &device);
        minibatch(&mut state, &objective, &Minibatch { x, clean: 0 }, threat, &[0.1, 0.1]);
    }
    let mut found = weights::export(&state.model, "model/");
    found.extend(state.optim.state().into_iter().map(|(name, data)| (format!("momentum/{name}"), data)));
    let average = state.average.expect("made with one").state();
    found.extend(average.into_iter().map(|(name, data)| (format!("average/{name}"), data)));
    found
}

#[test]
fn gradients_left_as_factors_train_as_whole_ones_do() {
    let (epsilon, step) = (spec::Pixels::of_255(8.0), spec::Pixels(0.01));
    let free =
        spec::Threat::Free { epsilon, step, replays: 2, project_first: true, delta_reset: spec::DeltaReset::default() };
    let pgd = spec::Threat::Pgd { epsilon, step, steps: 2, accumulate_attack_gradients: true };
    // Another order of sums, of which bf16 makes one of its last bits here and there, and so do all layers behind.
    for (arithmetic, part) in [(Arithmetic::F32, 1e-4), (Arithmetic::Bf16, 2e-2)] {
        for threat in [spec::Threat::Standard, free, pgd] {
            let [whole, left] = [false, true].map(|factors| trained(factors, arithmetic, &threat));
            assert!(whole.keys().eq(left.keys()));
            for (name, whole) in &whole {
                let (whole, left) = (whole.as_slice::<f32>().unwrap(), left[name].as_slice::<f32>().unwrap());
                // What stands before a normalisation has a bias whose gradient is rounding alone.
                let length = whole.iter().map(|x| x * x).sum::<f32>().sqrt();
                let apart = whole.iter().zip(left).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt();
                assert!(apart <= part * length + 1e-6, "{name}, {arithmetic:?}, {threat:?}: {apart} apart of {length}");
            }
        }
    }
}

#[test]
#[should_panic(expected = "was used [2.0] times")]
fn factors_of_two_uses_are_not_taken_for_a_gradient() {
    let device = Device::flex();
    let mut state = state(true, Arithmetic::F32, &device);
    let x = Tensor::from_inner(views(4, 0, &device));
    let twice = [0, 1].map(|_| state.model.forward(x.clone(), Mode::Train).projection.sum());
    let [first, second] = twice;
    state.descend(&mut (first + second).backward(), 0.1);
}
