use super::*;
use crate::toy;
use gabion_spec::Pixels;

fn run(bundle: &Bundle, recipe: &spec::Probe, cache: Option<&Path>) -> (Probed, Vec<Progress>) {
    let mut heard = Vec::new();
    let observer: &mut dyn FnMut(Progress) = &mut |progress| heard.push(progress);
    let probed = probe(bundle, &toy::split(), recipe, 5, &toy::device(), cache, observer).unwrap();
    (probed, heard)
}

const LINEAR: spec::Probe = spec::Probe::Linear { rate: 0.03, batch: 40, epochs: 20 };

#[test]
fn every_kind_learns_what_a_line_separates() {
    let bundle = toy::bundle(&toy::device());
    let epsilon = Pixels::of_255(2.0);
    for (recipe, kind) in [
        (LINEAR, Some(HeadKind::Linear)),
        (
            spec::Probe::Robust { rate: 0.03, batch: 40, epochs: 20, epsilon, step: epsilon, steps: 2 },
            Some(HeadKind::Robust),
        ),
        (
            spec::Probe::Patches { rate: 3.0, momentum: 0.9, weight_decay: 5e-5, batch: 40, epochs: 20, views: 3 },
            Some(HeadKind::Patches),
        ),
        (
            spec::Probe::Alf(spec::FineTune {
                rate: 3.0,
                batch: 40,
                steps: 2,
                padding: 1,
                epsilon,
                ..spec::FineTune::ALF
            }),
            Some(HeadKind::Alf),
        ),
        (
            spec::Probe::Aff(spec::FineTune {
                rate: 0.1,
                batch: 40,
                steps: 2,
                padding: 1,
                epochs: 10,
                ..spec::FineTune::AFF
            }),
            Some(HeadKind::Aff),
        ),
        (spec::Probe::Knn { k: 20, temperature: 0.07 }, None),
    ] {
        let (probed, heard) = run(&bundle, &recipe, None);
        // Chance is a third.
        assert!(probed.rate().low > 1.0 / 3.0, "{recipe:?}: {:?}, {:?}", probed.rate(), probed.train_loss);
        assert_eq!((probed.kind, probed.head.is_some()), (kind, kind.is_some()));
        assert_eq!(heard.last(), Some(&Progress::Test { done: 48, total: 48 }));
        if let [first, .., last] = probed.train_loss[..] {
            assert!(last < first, "{:?}", probed.train_loss);
        }
        assert_eq!(run(&bundle, &recipe, None).0.train_loss, probed.train_loss, "the seed decides a run");
    }
}

#[test]
fn a_cache_is_read_and_a_damaged_one_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let bundle = toy::bundle(&toy::device());
    let cached = |heard: &[Progress]| heard.iter().filter(|heard| matches!(heard, Progress::Cached { .. })).count();
    let (first, heard) = run(&bundle, &LINEAR, Some(&cache));
    assert_eq!(cached(&heard), 0);
    let (second, heard) = run(&bundle, &LINEAR, Some(&cache));
    assert_eq!((cached(&heard), &second.train_loss), (2, &first.train_loss));
    assert_eq!(second.test_right, first.test_right);

    // A changed byte, and a file cut short.
    let files: Vec<_> = std::fs::read_dir(&cache).unwrap().map(|file| file.unwrap().path()).collect();
    assert_eq!(files.len(), 2);
    let mut bytes = std::fs::read(&files[0]).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&files[0], &bytes).unwrap();
    std::fs::write(&files[1], &std::fs::read(&files[1]).unwrap()[..100]).unwrap();
    let (third, heard) = run(&bundle, &LINEAR, Some(&cache));
    assert_eq!((cached(&heard), &third.train_loss), (0, &first.train_loss));
    assert_eq!(cached(&run(&bundle, &LINEAR, Some(&cache)).1), 2);

    // Another seed draws other views; other weights give other features.
    let patches = spec::Probe::Patches { rate: 0.03, momentum: 0.9, weight_decay: 0.0, batch: 40, epochs: 1, views: 2 };
    assert_eq!(cached(&run(&bundle, &patches, Some(&cache)).1), 0);
    let manifest = toy::bundle(&toy::device()).manifest;
    let model = gabion_learn::Model::init(&manifest.encoder, &manifest.projector, 4, &toy::device());
    assert_eq!(cached(&run(&Bundle { model, ..bundle }, &LINEAR, Some(&cache)).1), 0);
}

#[test]
fn what_does_not_fit_is_named() {
    let device = toy::device();
    let mut bundle = toy::bundle(&device);
    let fail = |bundle: &Bundle, data: &Split, recipe: &spec::Probe| {
        let error = probe(bundle, data, recipe, 0, &device, None, &mut |_| {}).unwrap_err().to_string();
        assert!(!error.contains('\n') && !error.contains("  "), "{error}");
        error
    };
    let data = toy::split();
    let error = fail(&bundle, &data, &spec::Probe::Linear { rate: 0.1, batch: 97, epochs: 1 });
    assert!(error.contains("96") && error.contains("97"), "{error}");
    let error = fail(&bundle, &data, &spec::Probe::Knn { k: 0, temperature: 0.1 });
    assert!(error.contains("`k`"), "{error}");
    let small = spec::FineTune { batch: 40, epochs: 3, padding: 1, ..spec::FineTune::AFF };
    let error = fail(&bundle, &data, &spec::Probe::Aff(spec::FineTune { batch: 97, ..small }));
    assert!(error.contains("96") && error.contains("97"), "{error}");
    let error = fail(&bundle, &data, &spec::Probe::Alf(spec::FineTune { images: Some(39), ..small }));
    assert!(error.contains("39") && error.contains("40"), "{error}");
    let error = fail(&bundle, &data, &spec::Probe::Alf(spec::FineTune { steps: 0, ..small }));
    assert!(error.contains("`steps`"), "{error}");
    let error = fail(&bundle, &data, &spec::Probe::Aff(spec::FineTune { rate: 1e38, ..small }));
    assert!(error.contains("rate") && error.contains("epoch 1"), "{error}");
    let error = fail(&bundle, &Split::default(), &LINEAR);
    assert!(error.contains("no train image"), "{error}");
    let error = fail(&bundle, &data, &spec::Probe::Linear { rate: 1e38, batch: 40, epochs: 3 });
    assert!(error.contains("rate"), "{error}");
    let mut wrong = data.clone();
    wrong.test.labels[7] = 3;
    let error = fail(&bundle, &wrong, &LINEAR);
    assert!(error.contains("test image 7"), "{error}");
    bundle.manifest.input = spec::Input { height: 32, width: 32 };
    let error = fail(&bundle, &data, &LINEAR);
    assert!(error.contains("8x8") && error.contains("32x32"), "{error}");
}

#[test]
fn a_head_goes_into_its_own_bundle() {
    let folder = tempfile::tempdir().unwrap();
    let (dir, device) = (folder.path().join("bundle"), toy::device());
    let made = toy::bundle(&device);
    Bundle::write(&dir, made.manifest.clone(), &made.model, None, spec::Precision::F32).unwrap();
    let (neighbours, _) = run(&made, &spec::Probe::Knn { k: 5, temperature: 0.07 }, None);
    write_into(&dir, &neighbours, "toy test", "gabion probe", &device).unwrap();
    let (probed, _) = run(&Bundle::open(&dir, &device).unwrap(), &LINEAR, None);
    for _ in 0..2 {
        write_into(&dir, &probed, "toy test", "gabion probe", &device).unwrap();
    }
    let bundle = Bundle::open(&dir, &device).unwrap();
    assert_eq!(bundle.manifest.classes, ["red", "green", "blue"]);
    assert_eq!(bundle.manifest.head, Some(spec::Head { kind: HeadKind::Linear, recipe: LINEAR }));
    let claims: Vec<_> = bundle.manifest.claims.iter().map(|claim| (claim.what.as_str(), claim.right)).collect();
    assert_eq!(claims, [("knn", neighbours.test_right), ("clean", probed.test_right)]);
    let weights = |head: &Head| gabion_learn::weights::export(head, "");
    assert_eq!(weights(bundle.head.as_ref().unwrap()), weights(probed.head.as_ref().unwrap()));

    let other = gabion_learn::Model::init(&made.manifest.encoder, &made.manifest.projector, 9, &device);
    Bundle::write(&dir, made.manifest, &other, None, spec::Precision::F32).unwrap();
    let error = write_into(&dir, &probed, "toy test", "gabion probe", &device).unwrap_err();
    assert!(matches!(error, Error::OtherEncoder { .. }), "{error}");
}
