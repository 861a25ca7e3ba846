use super::*;
use crate::encoder::{Head, Model};
use crate::weights::export;
use burn::tensor::Device;
use gabion_spec::{Depth, Encoder, Projector, Stem};

const CLASSES: usize = 3;
const SIDE: usize = 8;

fn device() -> Device {
    Device::flex()
}

fn classifier() -> Classifier {
    let encoder = Encoder { depth: Depth::Resnet18, width: 4, stem: Stem::Cifar };
    let device = device();
    let model = Model::init(&encoder, &Projector { hidden: 24, output: 8 }, 3, &device);
    Classifier { model, head: Head::init(24, CLASSES, 4, &device) }
}

fn state(descent: Descent) -> State {
    State { classifier: classifier().train(), optim: Optimizer::new(descent), delta: None }
}

const SGD: Descent = Descent::Sgd { momentum: 0.9, weight_decay: 2e-4 };

/// Noise about a colour of each image's own.
fn images(rows: usize) -> Tensor<4> {
    let values: Vec<f32> = (0..rows)
        .flat_map(|row| {
            let mut stream = crate::init::Stream::new(1, &format!("{row}"));
            let colour: [f64; 3] = std::array::from_fn(|_| 0.6 * stream.uniform());
            (0..3 * SIDE * SIDE).map(move |i| (colour[i / (SIDE * SIDE)] + 0.4 * stream.uniform()) as f32)
        })
        .collect();
    Tensor::from_data(TensorData::new(values, [rows, 3, SIDE, SIDE]), &device())
}

fn labels(rows: usize) -> Tensor<1, Int> {
    let values: Vec<i64> = (0..rows).map(|row| i64::try_from(row % CLASSES).unwrap()).collect();
    Tensor::from_data(TensorData::new(values, [rows]), &device())
}

fn supervised(rows: usize) -> Minibatch {
    Minibatch { x: Input::Images(images(rows)), targets: Targets::Labels(labels(rows)), rehearsal: None }
}

fn replay_of(scope: Scope, epsilon: f32, rows: usize) -> Replay {
    Replay { ball: Ball { epsilon }, step: 0.01, rows, modes: Modes::of(scope, Statistics::Frozen) }
}

fn values(classifier: &Classifier) -> BTreeMap<String, Vec<f32>> {
    export(classifier, "").into_iter().map(|(name, data)| (name, data.try_into_vec::<f32>().unwrap())).collect()
}

#[test]
fn one_replay_without_a_perturbation_is_plain_fine_tuning() {
    let mut free = state(SGD);
    let (mut plain, mut sgd) = (classifier().train(), Sgd::new(0.9, 2e-4));
    let batch = supervised(6);
    for _ in 0..3 {
        let loss = replay(&mut free, &replay_of(Scope::All, 0.0, 6), &batch, 0.05);
        let x = Tensor::from_inner(images(6));
        let labels = labels(6).to_device(&x.device());
        let expected = cross_entropy(plain.forward(x, Mode::Eval, Mode::Eval), labels).mean();
        plain = sgd.step(0.05, plain, &mut expected.backward());
        assert_eq!(loss.into_scalar::<f32>(), expected.into_scalar::<f32>());
    }
    assert_eq!(values(&free.classifier), values(&plain));
    assert!(free.delta.is_none());
}

#[test]
fn what_is_frozen_keeps_its_bits_and_what_is_not_moves() {
    let before = values(&classifier());
    let moves = |scope: Scope, name: &str| match scope {
        Scope::Head => name.starts_with("head."),
        Scope::LastBlock => {
            name.starts_with("head.")
                || name.starts_with("model.encoder.layer4.1.")
                || name.starts_with("model.projector.pre_feature.")
        }
        // The embedding is not in the loss of labels.
        Scope::All => !name.starts_with("model.projector.projection."),
    };
    for scope in Scope::ALL {
        for statistics in [Statistics::Frozen, Statistics::Train] {
            let mut state = state(SGD);
            let recipe = Replay { modes: Modes::of(scope, statistics), ..replay_of(scope, 0.03, 6) };
            for _ in 0..2 {
                replay(&mut state, &recipe, &supervised(6), 0.05);
            }
            for (name, after) in values(&state.classifier) {
                let running = name.contains(".running_");
                let should = moves(scope, &name) && (!running || statistics == Statistics::Train);
                assert_eq!(before[&name] != after, should, "{scope:?} {statistics:?} {name}");
            }
            // The perturbation's gradient came through whatever is frozen.
            let delta = state.delta.unwrap().into_data().try_into_vec::<f32>().unwrap();
            assert!(delta.iter().filter(|value| **value != 0.0).count() > delta.len() / 2);
        }
    }
}

fn near(a: &BTreeMap<String, Vec<f32>>, b: &BTreeMap<String, Vec<f32>>, tolerance: f32) {
    for (name, a) in a {
        let most = a.iter().zip(&b[name]).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
        assert!(most <= tolerance, "{name}: {most}");
    }
}

#[test]
fn parts_of_a_minibatch_add_up_to_it() {
    let views = LocalObjective::EmpSsl { views: 2, invariance_weight: 200.0, tcr_weight: 1.0, distortion: 0.2 };
    let unlabelled = Minibatch { x: Input::Images(images(10)), targets: Targets::Views(views), rehearsal: None };
    for (batch, rate) in [(supervised(10), 0.05), (unlabelled, 0.001)] {
        let run = |rows| {
            let mut state = state(SGD);
            let losses: Vec<f32> = (0..2)
                .map(|_| replay(&mut state, &replay_of(Scope::All, 0.03, rows), &batch, rate).into_scalar::<f32>())
                .collect();
            (losses, values(&state.classifier))
        };
        let ((whole_losses, whole), before) = (run(10), values(&classifier()));
        assert_ne!(whole, before);
        for rows in [3, 4, 1] {
            let (losses, found) = run(rows);
            for (a, b) in losses.iter().zip(&whole_losses) {
                assert!((a - b).abs() <= 1e-4 * b.abs().max(1.0), "{rows}: {a} and {b}");
            }
            near(&found, &whole, 2e-4);
        }
    }
}

#[test]
fn parts_are_even_and_cover_all_rows() {
    for (rows, most) in [(10, 3), (10, 10), (1, 5), (64, 7)] {
        let parts: Vec<Range<usize>> = parts(rows, most).collect();
        assert!(parts.iter().all(|part| !part.is_empty() && part.len() <= most));
        assert_eq!(parts.iter().flat_map(Clone::clone).collect::<Vec<_>>(), (0..rows).collect::<Vec<_>>());
    }
}

#[test]
fn emp_ssl_improves_on_its_own_loss() {
    let local = LocalObjective::EMP_SSL;
    let targets = Targets::Views(local);
    // Four views of each of 8 images: the image and three brighter ones.
    let x = Tensor::cat((0..4).map(|view| images(8).mul_scalar(1.0 - 0.1 * f64::from(view))).collect(), 0);
    let batch = Minibatch { x: Input::Images(x.clone()), targets: targets.clone(), rehearsal: None };
    let lars = Descent::Lars { momentum: 0.9, weight_decay: 1e-4, trust_coefficient: 0.02 };
    // Fresh statistics leave all embeddings on one side; those of the images spread them, as training would have.
    let start = re_estimate(classifier(), [x.clone()], 1.0);
    let mut state = State { classifier: start.train(), ..state(lars) };
    let loss = |state: &State| clean_loss(&state.classifier.valid(), x.clone(), &targets).into_scalar::<f32>();
    let before = loss(&state);
    for _ in 0..40 {
        replay(&mut state, &replay_of(Scope::LastBlock, 0.01, 32), &batch, 0.1);
    }
    let after = loss(&state);
    assert!(after < before - 5.0, "{before} -> {after}");
}

#[test]
fn rehearsal_is_its_share_of_the_loss() {
    let feature = Tensor::<2>::ones([4, 24], &device());
    let rehearsal = |share| Some(Rehearsal { feature: feature.clone(), labels: labels(4), share });
    let once = |rehearsal| {
        let mut state = state(SGD);
        let batch = Minibatch { rehearsal, ..supervised(6) };
        replay(&mut state, &replay_of(Scope::Head, 0.0, 6), &batch, 0.1).into_scalar::<f32>()
    };
    let (local, mixed, source) = (once(None), once(rehearsal(0.25)), once(rehearsal(0.999_999)));
    assert!((mixed - (0.75 * local + 0.25 * source)).abs() < 1e-4, "{local} {mixed} {source}");
}

#[test]
fn features_stand_for_images_where_the_head_alone_moves() {
    let run = |x: Input| {
        let mut state = state(SGD);
        let batch = Minibatch { x, ..supervised(6) };
        replay(&mut state, &replay_of(Scope::Head, 0.0, 6), &batch, 0.1);
        values(&state.classifier)
    };
    let feature = classifier().model.feature(images(6), Mode::Eval);
    near(&run(Input::Images(images(6))), &run(Input::Features(feature)), 1e-6);
}

#[test]
fn re_estimated_statistics_are_those_of_the_batch() {
    let x = images(48);
    let moved = re_estimate(classifier(), [x.clone()], 1.0);
    // At its own statistics a batch is normalised as by the batch's, but for the unbiased variance.
    let by_batch = classifier().model.feature(x.clone(), Mode::Train).into_data().try_into_vec::<f32>().unwrap();
    let by_running = moved.model.feature(x.clone(), Mode::Eval).into_data().try_into_vec::<f32>().unwrap();
    let far = by_batch.iter().zip(&by_running).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
    assert!(far < 0.3, "{far}");
    let (before, after) = (values(&classifier()), values(&moved));
    for (name, value) in &after {
        assert_eq!(name.contains(".running_"), *value != before[name], "{name}");
    }
    let half = values(&re_estimate(classifier(), [x.clone(), x], 0.5));
    for (name, value) in &half {
        for ((value, before), after) in value.iter().zip(&before[name]).zip(&after[name]) {
            let expected = 0.5 * before + 0.5 * after;
            assert!((value - expected).abs() <= 1e-4 * expected.abs().max(1.0), "{name}: {value} {expected}");
        }
    }
    assert_eq!(values(&re_estimate(classifier(), [], 1.0)), before);
}

#[test]
fn between_two_classifiers_lies_their_mean() {
    let mut state = state(SGD);
    replay(&mut state, &replay_of(Scope::Head, 0.0, 6), &supervised(6), 0.1);
    let after = state.classifier.valid();
    let mean = values(&between(&classifier(), after.clone(), 0.25));
    let (before, after) = (values(&classifier()), values(&after));
    assert_ne!(before, after);
    for (name, mean) in &mean {
        for ((mean, before), after) in mean.iter().zip(&before[name]).zip(&after[name]) {
            let expected = 0.25 * before + 0.75 * after;
            assert!((mean - expected).abs() <= 1e-6 * expected.abs().max(1.0), "{name}: {mean} {expected}");
            // What did not move stays to the bit.
            assert!(before != after || mean == before, "{name}: {mean} {before}");
        }
    }
}
