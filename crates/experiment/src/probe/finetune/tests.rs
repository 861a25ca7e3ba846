use super::*;
use crate::evaluate::{Options, Subject, evaluate};
use crate::measure::pixels;
use crate::probe::{Probed, probe, write_into, write_new};
use crate::toy;
use gabion_learn::loss::cross_entropy;
use gabion_learn::{Mode, weights};
use gabion_runtime::Bundle;
use gabion_spec::{self as spec, AdversarialLoss, HeadKind, Pixels, Probe};

/// Small enough for the toy, which has 96 images of 8x8 pixels.
const SMALL: FineTune = FineTune {
    rate: 0.05,
    batch: 32,
    epochs: 15,
    padding: 1,
    epsilon: Pixels::of_255(8.0),
    steps: 3,
    step: Pixels::of_255(4.0),
    ..FineTune::AFF
};

fn run(bundle: &Bundle, recipe: Probe) -> Probed {
    probe(bundle, &toy::split(), &recipe, 5, &toy::device(), None, &mut |_| {}).unwrap()
}

#[test]
fn images_are_windows_of_their_padded_selves() {
    let images = toy::images(12, 4);
    let all: Vec<usize> = (0..images.len()).collect();
    let still = FineTune { padding: 0, flip: 0.0, ..FineTune::AFF };
    assert_eq!(shifted(&images, &all, &still, (1, 0)), pixels(&images, &all));

    let recipe = FineTune { padding: 2, ..FineTune::AFF };
    let (area, side) = (toy::SIDE * toy::SIDE, i64::try_from(toy::SIDE).unwrap());
    let whole = pixels(&images, &all);
    let whole = whole.as_slice::<f32>().unwrap();
    let at = |image: usize, channel: usize, row: i64, column: i64| {
        let inside = (0..side).contains(&row) && (0..side).contains(&column);
        if inside { whole[(3 * image + channel) * area + (row * side + column) as usize] } else { 0.0 }
    };
    let found = shifted(&images, &all, &recipe, (1, 0));
    let found = found.as_slice::<f32>().unwrap();
    let mut windows = Vec::new();
    for &image in &all {
        let is_window = |&(down, right, flip): &(i64, i64, bool)| {
            (0..3 * side * side).all(|place| {
                let (channel, row, column) = (place / (side * side), place / side % side, place % side);
                let from = if flip { side - 1 - column } else { column };
                found[3 * image * area + place as usize] == at(image, channel as usize, row + down, from + right)
            })
        };
        let shifts =
            (-2..=2).flat_map(|down| (-2..=2).flat_map(move |right| [(down, right, false), (down, right, true)]));
        windows.push(shifts.clone().find(is_window).unwrap_or_else(|| panic!("image {image} is no window")));
    }
    assert!(windows.iter().any(|window| window.2) && windows.iter().any(|window| !window.2), "{windows:?}");
    windows.sort_unstable();
    windows.dedup();
    assert!(windows.len() > 8, "{windows:?}");

    // An image's window is its own, whatever the batch, and another in another epoch.
    let one = shifted(&images, &[7], &recipe, (1, 0));
    assert_eq!(one.as_slice::<f32>().unwrap(), &found[7 * 3 * area..8 * 3 * area]);
    assert_ne!(shifted(&images, &all, &recipe, (1, 1)).as_slice::<f32>().unwrap(), found);
}

#[test]
fn without_a_budget_it_is_supervised_training() {
    let (data, device) = (toy::split(), toy::device());
    let bundle = toy::bundle(&device);
    let recipe =
        FineTune { objective: AdversarialLoss::Plain, epsilon: Pixels(0.0), epochs: 3, padding: 0, flip: 0.0, ..SMALL };
    let tuned = run(&bundle, Probe::Aff(recipe));

    let head = Head::zero(32, 3, &device);
    let mut classifier = Classifier { model: bundle.model.valid(), head }.train();
    let mut optim = Sgd::new(recipe.momentum, recipe.weight_decay);
    for epoch in 0..3 {
        let order: Vec<usize> = permutation(5, epoch, 96).into_iter().map(|index| index as usize).collect();
        for (place, indices) in order.chunks(32).enumerate() {
            let x = Tensor::<4>::from_data(pixels(&data.train, indices), &device.clone().autodiff());
            let logits = classifier.forward(x, Mode::Train, Mode::Train);
            let loss = cross_entropy(logits, labels(&data.train, indices, &device.clone().autodiff())).mean();
            let rate = recipe.rate_at(3 * epoch + place as u64, 9);
            classifier = optim.step(rate, classifier, &mut loss.backward());
        }
    }
    assert_eq!(weights::export(&tuned.tuned.unwrap(), ""), weights::export(&classifier.model, ""));
    assert_eq!(weights::export(&tuned.head.unwrap(), ""), weights::export(&classifier.head, ""));
}

#[test]
fn a_moved_encoder_withstands_more_than_a_linear_head() {
    let (data, device) = (toy::split(), toy::device());
    let bundle = toy::with_head(&device);
    let measure = |bundle: &Bundle| {
        let recipe = spec::Evaluate { epsilons: vec![Pixels::of_255(8.0)], ..spec::Evaluate::default() };
        let subject = Subject::bundle(bundle, &device).unwrap();
        let found = evaluate(&subject, &data.test, &recipe, &Options::default(), &mut |_| {}).unwrap();
        (found.clean.right, found.attacks[0].rate.right)
    };
    let linear = measure(&bundle);
    for objective in [AdversarialLoss::TRADES, AdversarialLoss::Plain] {
        let probed = run(&bundle, Probe::Aff(FineTune { objective, ..SMALL }));
        let [first, .., last] = probed.train_loss[..] else { panic!("{:?}", probed.train_loss) };
        assert!(last < first, "{:?}", probed.train_loss);
        let mut manifest = bundle.manifest.clone();
        manifest.head = Some(spec::Head { kind: HeadKind::Aff, recipe: probed.recipe });
        let tuned = Bundle { manifest, model: probed.tuned.unwrap(), head: probed.head };
        let robust = measure(&tuned);
        assert_eq!(robust.0, probed.test_right, "what was measured is what was made");
        assert!(
            robust.1 > linear.1 + 5,
            "{objective:?}: {robust:?} of 48 clean and attacked, a linear head {linear:?}"
        );
    }
}

#[test]
fn a_moved_encoder_goes_into_a_bundle_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new, device) = (folder.path().join("old"), folder.path().join("new"), toy::device());
    let made = toy::with_head(&device);
    Bundle::write(&old, made.manifest.clone(), &made.model, made.head.as_ref(), spec::Precision::F16).unwrap();
    let knn = run(&Bundle::open(&old, &device).unwrap(), Probe::Knn { k: 5, temperature: 0.07 });
    write_into(&old, &knn, "toy test", "gabion probe", &device).unwrap();
    let before = std::fs::read(old.join("manifest.json")).unwrap();
    let bundle = Bundle::open(&old, &device).unwrap();
    assert_eq!(bundle.manifest.claims.len(), 1);

    let recipe = FineTune { epochs: 1, ..SMALL };
    let probed = run(&bundle, Probe::Aff(recipe));
    write_new(&new, &bundle.manifest, &probed, "toy test", "gabion probe").unwrap();
    let tuned = Bundle::open(&new, &device).unwrap();
    assert_eq!(tuned.manifest.head, Some(spec::Head { kind: HeadKind::Aff, recipe: Probe::Aff(recipe) }));
    assert_eq!((&tuned.manifest.finetune, &*tuned.manifest.name), (&vec![recipe], "toy-aff"));
    assert_eq!(tuned.manifest.weights.precision, spec::Precision::F16);
    let claims: Vec<_> = tuned.manifest.claims.iter().map(|claim| (claim.what.as_str(), claim.right)).collect();
    assert_eq!(claims, [("clean", probed.test_right)]);
    let (was, is) = (weights::export(&bundle.model, ""), weights::export(&tuned.model, ""));
    let stays = |name: &str| name.starts_with("projector.projection.");
    assert!(was.iter().all(|(name, value)| !stays(name) || value == &is[name]));
    // Half precision hides what moved little.
    let moved = was.iter().filter(|(name, value)| *value != &is[*name]).count();
    let all = was.keys().filter(|name| !stays(name)).count();
    assert!(2 * moved > all, "{moved} of {all} tensors moved");

    // The earlier bundle is as it was, and takes no head of another encoder.
    let error = write_into(&old, &probed, "toy test", "gabion probe", &device).unwrap_err();
    assert!(matches!(error, Error::OtherEncoder { .. }), "{error}");
    assert_eq!(std::fs::read(old.join("manifest.json")).unwrap(), before);
    let error = write_new(&new, &bundle.manifest, &probed, "toy test", "gabion probe").unwrap_err();
    assert!(matches!(error, Error::Exists { .. }), "{error}");
    let error = write_new(&folder.path().join("third"), &bundle.manifest, &knn, "", "").unwrap_err();
    assert!(matches!(error, Error::NotTuned), "{error}");

    // A head that is trained on it later leaves what was done to the encoder in the manifest.
    let linear = run(&tuned, Probe::Linear { rate: 0.03, batch: 32, epochs: 1 });
    let manifest = write_into(&new, &linear, "toy test", "gabion probe", &device).unwrap();
    assert_eq!((manifest.finetune, manifest.head.unwrap().kind), (vec![recipe], HeadKind::Linear));
}

#[test]
fn a_frozen_encoder_takes_its_head() {
    let folder = tempfile::tempdir().unwrap();
    let (dir, device) = (folder.path().join("bundle"), toy::device());
    let made = toy::bundle(&device);
    Bundle::write(&dir, made.manifest.clone(), &made.model, None, spec::Precision::F32).unwrap();
    for objective in [AdversarialLoss::Plain, AdversarialLoss::TRADES] {
        let recipe = Probe::Alf(FineTune { objective, epochs: 2, ..SMALL });
        let probed = run(&made, recipe);
        assert!(probed.tuned.is_none());
        let manifest = write_into(&dir, &probed, "toy test", "gabion probe", &device).unwrap();
        assert_eq!(manifest.head, Some(spec::Head { kind: HeadKind::Alf, recipe }));
        assert!(manifest.finetune.is_empty());
    }
}
