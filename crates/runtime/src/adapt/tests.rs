use super::*;
use gabion_learn::weights::export;
use gabion_learn::{Head, Model};
use gabion_spec::{
    Budget, Descent, Encoder, FORMAT_VERSION, HeadKind, Input as Size, Manifest, Pixels, Precision, Probe, Projector,
    Stem, Tolerance, Weights,
};
use std::collections::BTreeMap;
use std::ops::ControlFlow::{Break, Continue};
use std::time::Instant;

const SIDE: usize = 8;

/// Of a residual network of 18 layers with three classes.
pub(crate) fn manifest(width: u32, hidden: u32, side: u32) -> Manifest {
    Manifest {
        format: FORMAT_VERSION,
        name: "toy".into(),
        encoder: Encoder { depth: gabion_spec::Depth::Resnet18, width, stem: Stem::Cifar },
        projector: Projector { hidden, output: 16 },
        input: Size { height: side, width: side },
        classes: ["red", "green", "blue"].map(String::from).to_vec(),
        head: Some(gabion_spec::Head {
            kind: HeadKind::Linear,
            recipe: Probe::Linear { rate: 0.01, batch: 8, epochs: 1 },
        }),
        pretrain: None,
        finetune: Vec::new(),
        adapted: Vec::new(),
        data: None,
        weights: Weights { file: "model.safetensors".into(), sha256: String::new(), precision: Precision::F32 },
        claims: Vec::new(),
        writer: "test".into(),
    }
}

fn bundle() -> Bundle {
    let manifest = manifest(4, 32, SIDE as u32);
    let device = Device::flex();
    let model = Model::init(&manifest.encoder, &manifest.projector, 3, &device);
    Bundle { manifest, model, head: Some(Head::init(32, 3, 4, &device)) }
}

/// Images of three classes that differ in their colour, with noise.
fn images(count: usize, seed: u64) -> (Vec<Rgb>, Vec<u16>) {
    let labels: Vec<u16> = (0..3).cycle().take(count).collect();
    let image = |(index, &label): (usize, &u16)| {
        let value = |at: usize| {
            let bright = if at % 3 == usize::from(label) { 60 } else { 0 };
            (80 + bright + minibatches::bits(&[seed, index as u64, at as u64]) % 60) as u8
        };
        Rgb { height: SIDE, width: SIDE, pixels: (0..SIDE * SIDE * 3).map(value).collect() }
    };
    (labels.iter().enumerate().map(image).collect(), labels)
}

fn steps(steps: u64, scope: Scope) -> Adapt {
    Adapt {
        budget: Budget::Steps { steps },
        batch: 24,
        rate: 0.02,
        epsilon: Pixels::of_255(4.0),
        step: Pixels::of_255(4.0),
        statistics: Statistics::Frozen,
        rehearsal: 0.0,
        keep: 0.0,
        guard: Tolerance { epsilon: Pixels::of_255(4.0), steps: 4, ..Tolerance::default() },
        ..Adapt::new(scope, LocalObjective::Supervised)
    }
}

struct Data {
    images: Vec<Rgb>,
    labels: Vec<u16>,
}

impl Data {
    fn of(count: usize, seed: u64) -> Self {
        let (images, labels) = images(count, seed);
        Self { images, labels }
    }

    fn samples(&self) -> Samples<'_> {
        Samples { images: &self.images, labels: Some(&self.labels) }
    }

    fn local(&self) -> Local<'_> {
        Local { samples: self.samples(), guard: None, source: None, memory: None }
    }
}

fn go(bundle: &Bundle, local: &Local<'_>, recipe: &Adapt) -> Result<Adapted, AdaptError> {
    adapt(bundle, local, recipe, &mut |_| Continue(()))
}

fn values(bundle: &Bundle) -> BTreeMap<String, Vec<f32>> {
    let mut tensors = export(&bundle.model, "");
    tensors.extend(export(bundle.head.as_ref().unwrap(), "head."));
    tensors.into_iter().map(|(name, data)| (name, data.try_into_vec::<f32>().unwrap())).collect()
}

/// A bundle that tells the colours, by adaptation from random weights.
fn trained() -> Adapted {
    let recipe = Adapt { statistics: Statistics::Train, ..steps(60, Scope::All) };
    go(&bundle(), &Data::of(96, 1).local(), &recipe).unwrap()
}

#[test]
fn a_bundle_learns_from_local_images_and_is_promoted() {
    let adapted = trained();
    let Report { before, after, ref losses, steps, images, .. } = adapted.report;
    assert_eq!((steps, losses.len(), images, before.images), (60, 60, 77, 19));
    assert_eq!(adapted.verdict, Verdict::Promoted);
    assert!(after.clean >= 18 && after.robust >= 15 && before.clean < 12, "{before:?} {after:?}");
    assert!(losses[59] < 0.5 * losses[0], "{losses:?}");
    assert_eq!(adapted.candidate.manifest.adapted.len(), 1);
    // What was written can be opened: the candidate is a bundle like any other.
    let folder = tempfile::tempdir().unwrap();
    let Bundle { manifest, model, head } = &adapted.candidate;
    Bundle::write(folder.path(), manifest.clone(), model, head.as_ref(), Precision::F32).unwrap();
    let opened = Bundle::open(folder.path(), &Device::flex()).unwrap();
    assert_eq!(values(&opened), values(&adapted.candidate));
    assert_eq!(opened.manifest.adapted, [adapted.report.recipe]);
}

#[test]
fn a_harmful_recipe_is_refused_and_the_original_stays() {
    let good = trained().candidate;
    let before = values(&good);
    let data = Data::of(96, 2);
    // Rate times decay is 1: the encoder's weights go, and every image looks the same.
    let harmful =
        Adapt { rate: 10.0, optimizer: Descent::Sgd { momentum: 0.0, weight_decay: 0.1 }, ..steps(3, Scope::All) };
    let adapted = go(&good, &data.local(), &harmful).unwrap();
    let Verdict::Refused { lost } = &adapted.verdict else {
        panic!("{:?} {:?} {:?}", adapted.report.before, adapted.report.after, adapted.report.losses)
    };
    assert!(lost.iter().all(|lost| lost.before - lost.after > lost.allowed), "{lost:?}");
    assert_eq!(values(&good), before);
    assert_ne!(values(&adapted.candidate), before);
    // And what is no number at all never becomes a candidate.
    let absurd = Adapt { rate: 1e30, ..steps(6, Scope::All) };
    let error = go(&good, &data.local(), &absurd).unwrap_err();
    assert!(matches!(error, AdaptError::Diverged { .. } | AdaptError::NotFinite { .. }), "{error}");
    assert_eq!(values(&good), before);
}

#[test]
fn equal_seeds_and_steps_give_equal_weights() {
    let (bundle, data) = (bundle(), Data::of(40, 1));
    let run =
        |seed| values(&go(&bundle, &data.local(), &Adapt { seed, ..steps(5, Scope::LastBlock) }).unwrap().candidate);
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn frozen_tensors_keep_their_bits() {
    let (bundle, data) = (bundle(), Data::of(40, 1));
    let before = values(&bundle);
    let after = |scope| values(&go(&bundle, &data.local(), &steps(4, scope)).unwrap().candidate);
    let (head, last_block) = (after(Scope::Head), after(Scope::LastBlock));
    for (name, value) in &before {
        assert_eq!(head[name] != *value, name.starts_with("head."), "{name}");
        let moves = ["head.", "encoder.layer4.1.", "projector.pre_feature."].iter().any(|part| name.starts_with(part));
        assert_eq!(last_block[name] != *value, moves && !name.contains("running"), "{name}");
    }
}

#[test]
fn cached_features_change_nothing() {
    let (bundle, data) = (bundle(), Data::of(40, 1));
    let fixed =
        Adapt { epsilon: Pixels(0.0), augment: Some(Augment::identity([SIDE as u32; 2])), ..steps(5, Scope::Head) };
    // A perturbation too small to matter takes the other way, through the pixels.
    let tiny = Adapt { epsilon: Pixels(1e-9), step: Pixels(1e-9), ..fixed.clone() };
    let [a, b] = [fixed, tiny].map(|recipe| values(&go(&bundle, &data.local(), &recipe).unwrap().candidate));
    for (name, a) in &a {
        let far = a.iter().zip(&b[name]).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
        assert!(far < 1e-4, "{name}: {far}");
    }
}

#[test]
fn an_observer_breaks_off_between_steps() {
    let (bundle, data) = (bundle(), Data::of(40, 1));
    let before = values(&bundle);
    let mut seen = Vec::new();
    let error = adapt(&bundle, &data.local(), &steps(50, Scope::All), &mut |progress| {
        if let Progress::Step { done, share, .. } = progress {
            seen.push((done, share));
            if done == 3 {
                return Break(());
            }
        }
        Continue(())
    })
    .unwrap_err();
    assert!(matches!(error, AdaptError::Cancelled { steps: 3 }), "{error}");
    assert_eq!(seen, [(1, 0.02), (2, 0.04), (3, 0.06)]);
    assert_eq!(values(&bundle), before);
    let error = adapt(&bundle, &data.local(), &steps(1, Scope::All), &mut |_| Break(())).unwrap_err();
    assert!(matches!(error, AdaptError::Cancelled { steps: 0 }), "{error}");
}

#[test]
fn a_budget_of_seconds_is_kept_within_a_step() {
    let (bundle, data) = (bundle(), Data::of(40, 1));
    let recipe = Adapt { budget: Budget::Seconds { seconds: 0.4 }, ..steps(1, Scope::All) };
    let mut ends = Vec::new();
    let start = Instant::now();
    let adapted = adapt(&bundle, &data.local(), &recipe, &mut |progress| {
        if let Progress::Step { seconds, .. } = progress {
            ends.push(seconds);
        }
        Continue(())
    })
    .unwrap();
    assert!(adapted.report.steps >= 2, "{}", adapted.report.steps);
    let longest = ends.windows(2).fold(ends[0], |most, pair| most.max(pair[1] - pair[0]));
    let seconds = adapted.report.seconds;
    assert!(seconds <= 0.4 + longest, "{seconds} with steps of {longest}");
    assert!(start.elapsed().as_secs_f64() >= seconds);
    // Less than a step: one is made.
    let recipe = Adapt { budget: Budget::Seconds { seconds: 1e-6 }, ..recipe };
    assert_eq!(go(&bundle, &data.local(), &recipe).unwrap().report.steps, 1);
}

#[test]
fn emp_ssl_needs_no_labels_and_leaves_the_head() {
    let (bundle, data, guard) = (bundle(), Data::of(40, 1), Data::of(12, 2));
    let recipe = Adapt {
        objective: LocalObjective::EMP_SSL,
        optimizer: Descent::Lars { momentum: 0.9, weight_decay: 1e-4, trust_coefficient: 0.02 },
        rate: 0.1,
        ..steps(30, Scope::LastBlock)
    };
    // Statistics of the images spread their embeddings, as training would have.
    let recipe = Adapt { statistics: Statistics::ReEstimate { share: 1.0 }, ..recipe };
    let unlabelled = Samples { images: &data.images, labels: None };
    let error = go(&bundle, &Local { samples: unlabelled, ..data.local() }, &recipe).unwrap_err();
    assert!(matches!(error, AdaptError::NoLabels { what: "local", .. }), "{error}");
    let local = Local { samples: unlabelled, guard: Some(guard.samples()), source: None, memory: None };
    let adapted = go(&bundle, &local, &recipe).unwrap();
    let losses = &adapted.report.losses;
    let mean = |part: &[f32]| part.iter().sum::<f32>() / part.len() as f32;
    assert!(mean(&losses[25..]) < mean(&losses[..5]) - 1.0, "{losses:?}");
    let (before, after) = (values(&bundle), values(&adapted.candidate));
    assert!(before.keys().filter(|name| name.starts_with("head.")).all(|name| before[name] == after[name]));
    assert_ne!(before["projector.projection.0.weight"], after["projector.projection.0.weight"]);
    assert_eq!(before["encoder.conv1.weight"], after["encoder.conv1.weight"]);
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_computed() {
    let (bundle, data) = (bundle(), Data::of(12, 1));
    let recipe = steps(1, Scope::Head);
    let error = |local: &Local<'_>, recipe: &Adapt| {
        let error = go(&bundle, local, recipe).unwrap_err();
        let text = error.to_string();
        assert!(!text.contains('\n') && text.contains(':'), "{text}");
        error
    };
    let local = data.local();
    fn with<'a>(images: &'a [Rgb], labels: Option<&'a [u16]>) -> Local<'a> {
        Local { samples: Samples { images, labels }, guard: None, source: None, memory: None }
    }
    let none = error(&with(&[], Some(&[])), &recipe);
    assert!(matches!(none, AdaptError::FewImages { what: "local", images: 0, .. }), "{none}");
    let one_class = error(&with(&data.images, Some(&[1; 12])), &recipe);
    assert!(matches!(one_class, AdaptError::OneClass { label: 1 }), "{one_class}");
    let mut labels = data.labels.clone();
    labels[5] = 3;
    let beyond = error(&with(&data.images, Some(&labels)), &recipe);
    assert!(matches!(beyond, AdaptError::Label { image: 5, label: 3, classes: 3, .. }), "{beyond}");
    let fewer = error(&with(&data.images, Some(&labels[..4])), &recipe);
    assert!(matches!(fewer, AdaptError::Labels { labels: 4, images: 12, .. }), "{fewer}");
    let unlabelled = error(&with(&data.images, None), &recipe);
    assert!(matches!(unlabelled, AdaptError::NoLabels { .. }), "{unlabelled}");
    for (height, width, bytes) in [(0, 8, 0), (8, 0, 0), (8, 8, 191), (usize::MAX, 2, 6)] {
        let mut images = data.images.clone();
        images[7] = Rgb { height, width, pixels: vec![0; bytes] };
        let empty = error(&with(&images, Some(&data.labels)), &recipe);
        assert!(matches!(empty, AdaptError::Image { image: 7, .. }), "{empty}");
    }
    let guard = Some(Samples { images: &data.images, labels: None });
    let unlabelled = error(&Local { guard, ..local }, &recipe);
    assert!(matches!(unlabelled, AdaptError::NoLabels { what: "guard", .. }), "{unlabelled}");
    let source = error(&local, &Adapt { rehearsal: 0.5, ..recipe.clone() });
    assert!(matches!(source, AdaptError::NoSource { .. }), "{source}");
    let invalid = error(&local, &Adapt { replays: 0, ..recipe.clone() });
    assert!(matches!(invalid, AdaptError::Recipe(_)), "{invalid}");
    let memory = error(&Local { memory: Some(1 << 20), ..local }, &recipe);
    assert!(matches!(memory, AdaptError::Memory { given: 1_048_576, .. }), "{memory}");
    let headless = Bundle { head: None, ..self::bundle() };
    assert!(matches!(go(&headless, &local, &recipe).unwrap_err(), AdaptError::NoHead { .. }));
}

#[test]
fn source_features_survive_their_file_and_hold_the_head() {
    let good = trained().candidate;
    let (source_data, local) = (Data::of(30, 5), Data::of(60, 6));
    let source = Source::gather(&good, source_data.samples(), Some(Pixels::of_255(4.0))).unwrap();
    assert_eq!(source.len(), 60);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(source::SOURCE);
    source.write(&path).unwrap();
    assert_eq!(Source::read(&path, &good.manifest).unwrap(), source);
    // Local labels are all wrong; the source holds against them.
    let wrong: Vec<u16> = local.labels.iter().map(|label| (label + 1) % 3).collect();
    let samples = Samples { images: &local.images, labels: Some(&wrong) };
    let task = Local { samples, guard: Some(source_data.samples()), source: Some(&source), memory: None };
    let right = |rehearsal| {
        let recipe = Adapt { rate: 0.05, rehearsal, ..steps(40, Scope::Head) };
        go(&good, &task, &recipe).unwrap().report.after.clean
    };
    assert!(right(0.9) > right(0.0), "{} and {}", right(0.9), right(0.0));

    let bytes = std::fs::read(&path).unwrap();
    for (broken, of) in
        [(&bytes[..bytes.len() - 1], &good.manifest), (b"", &good.manifest), (&bytes, &manifest(4, 33, 8))]
    {
        std::fs::write(&path, broken).unwrap();
        let error = Source::read(&path, of).unwrap_err();
        assert!(matches!(error, AdaptError::Source { .. }), "{error}");
    }
    let two = Manifest { classes: good.manifest.classes[..2].to_vec(), ..good.manifest.clone() };
    std::fs::write(&path, &bytes).unwrap();
    assert!(Source::read(&path, &two).unwrap_err().to_string().contains("label 2"));
    // A file of others: no link is followed and no device read without end.
    #[cfg(unix)]
    for target in ["/dev/zero", "other"] {
        std::fs::rename(&path, folder.path().join("other")).unwrap();
        std::os::unix::fs::symlink(target, &path).unwrap();
        assert!(Source::read(&path, &good.manifest).unwrap_err().to_string().contains("link"));
        source.write(&path).unwrap();
        assert_eq!(Source::read(&path, &good.manifest).unwrap(), source);
    }
}

#[test]
fn little_memory_gives_the_same_result() {
    let (bundle, data) = (bundle(), Data::of(60, 1));
    let recipe = steps(3, Scope::All);
    let free = go(&bundle, &data.local(), &recipe).unwrap();
    let least = match go(&bundle, &Local { memory: Some(1), ..data.local() }, &recipe).unwrap_err() {
        AdaptError::Memory { needed, .. } => needed,
        error => panic!("{error}"),
    };
    let tight = go(&bundle, &Local { memory: Some(least), ..data.local() }, &recipe).unwrap();
    assert!(tight.report.rows < 24 && free.report.rows == 24, "{}", tight.report.rows);
    assert!(tight.report.expected_bytes <= least);
    let (a, b) = (values(&free.candidate), values(&tight.candidate));
    for (name, a) in &a {
        let far = a.iter().zip(&b[name]).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
        assert!(far < 1e-3, "{name}: {far}");
    }
}

#[test]
fn the_prepared_network_and_the_modules_measure_the_same() {
    let adapted = trained();
    let bundle = adapted.candidate;
    let classifier = Classifier { model: bundle.model.clone(), head: bundle.head.clone().unwrap() };
    let Data { images, labels } = Data::of(60, 5);
    let held = guard::Held { images: images.iter().collect(), labels };
    let device = Device::flex();
    for epsilon in [2.0, 8.0, 24.0] {
        let tolerance = Tolerance { epsilon: Pixels::of_255(epsilon), steps: 10, ..Tolerance::default() };
        let by = |by| {
            let guard = Guard { manifest: &bundle.manifest, tolerance, seed: 3, rows: 25, device: &device, by };
            guard.measure(&classifier, &held, &mut |_, _| Continue(())).unwrap().0
        };
        let [prepared, modules] = [By::Prepared, By::Modules].map(by);
        println!("{epsilon}/255: {prepared:?}, {modules:?}");
        assert_eq!(prepared.clean, modules.clean);
        assert!(prepared.robust.abs_diff(modules.robust) <= 1, "{epsilon}/255: {prepared:?}, {modules:?}");
    }
}

#[test]
fn what_is_kept_lies_between_before_and_after() {
    let (bundle, data) = (bundle(), Data::of(96, 1));
    let with =
        |keep| values(&go(&bundle, &data.local(), &Adapt { keep, ..steps(4, Scope::LastBlock) }).unwrap().candidate);
    let (before, after, half) = (values(&bundle), with(0.0), with(0.5));
    for (name, half) in &half {
        for ((half, before), after) in half.iter().zip(&before[name]).zip(&after[name]) {
            let mean = 0.5 * (before + after);
            assert!((half - mean).abs() <= 1e-6 * mean.abs().max(1.0), "{name}: {half}, {mean}");
            assert!(before != after || half == before, "{name}: what does not move stays to the bit");
        }
    }
}
