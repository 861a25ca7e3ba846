use super::*;
use crate::measure::pixels;
use crate::toy;
use gabion_learn::attack::{Pass, Region, first_of_greatest};
use gabion_runtime::Bundle;
use safetensors::SafeTensors;

fn run(bundle: &Bundle, recipe: &spec::Evaluate, options: Options) -> Evaluation {
    let subject = Subject::bundle(bundle, &toy::device()).unwrap();
    evaluate(&subject, &toy::images(48, 2), recipe, &options, &mut |_| {}).unwrap()
}

fn recipe(protocol: Protocol, levels: &[f32]) -> spec::Evaluate {
    let epsilons = levels.iter().map(|&levels| Pixels::of_255(levels)).collect();
    spec::Evaluate { protocol, images: Some(20), seed: 4, epsilons, ..spec::Evaluate::default() }
}

#[test]
fn a_budget_of_0_changes_no_prediction() {
    let bundle = toy::with_head(&toy::device());
    for protocol in [Protocol::Paper2Step, Protocol::Strong] {
        let evaluation = run(&bundle, &recipe(protocol, &[0.0]), Options { keep: Keep::All, ..Options::default() });
        assert_eq!(evaluation.attacks[0].rate, evaluation.clean);
        let right = |verdict: &Verdict| verdict.robust == [verdict.predicted == verdict.label];
        assert!(evaluation.verdicts.iter().all(right));
    }
}

#[test]
fn a_verdict_does_not_depend_on_its_batch() {
    // On the graph too: a bundle may have been opened there.
    let bundle = toy::with_head(&toy::device().autodiff());
    for protocol in [Protocol::Paper, Protocol::Strong] {
        let recipe = recipe(protocol, &[8.0, 2.0]);
        let mut heard = Vec::new();
        let options = Options { batch: 7, ..Options::default() };
        let images = toy::images(48, 2);
        let subject = Subject::bundle(&bundle, &toy::device()).unwrap();
        let seven = evaluate(&subject, &images, &recipe, &options, &mut |p| heard.push(p)).unwrap();
        let many = run(&bundle, &recipe, Options { batch: 32, ..Options::default() });
        assert_eq!(seven.verdicts, many.verdicts);
        assert_eq!((seven.images, seven.clean.images), (20, 20));
        let name = stages(&recipe, Pixels::of_255(2.0))[0].attacks[0].name();
        assert_eq!(seven.attacks[0].what(), format!("{name} 2/255"));
        let last = heard.last().unwrap();
        assert_eq!((&last.what, last.right as u64), (&seven.attacks[1].what(), seven.attacks[1].rate.right));
        assert!(heard.iter().all(|progress| progress.done <= progress.total && progress.images == 20));
        for (place, attack) in seven.attacks.iter().enumerate() {
            let robust = seven.verdicts.iter().filter(|verdict| verdict.robust[place]).count();
            assert_eq!(attack.rate, Rate::new(robust as u64, 20));
            assert!(attack.rate.right <= seven.clean.right);
        }
    }
}

#[test]
fn a_large_budget_fools_a_standard_classifier() {
    let bundle = toy::with_head(&toy::device());
    let evaluation = run(&bundle, &recipe(Protocol::Strong, &[64.0]), Options::default());
    assert!(evaluation.clean.accuracy > 0.5, "{:?}", evaluation.clean);
    assert!(evaluation.attacks[0].rate.accuracy < 0.2, "{:?}", evaluation.attacks);
    assert!(matches!(evaluation.attacks[0].attack, Some(Attack::Pgd { step, .. }) if step == Pixels::of_255(16.0)));
    let short = run(&bundle, &recipe(Protocol::Paper2Step, &[8.0]), Options::default());
    assert!(short.warnings.iter().any(|warning| warning.contains("reach only 0.02")), "{:?}", short.warnings);
}

#[test]
fn files_hold_what_was_measured() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = toy::with_head(&toy::device());
    let recipe = recipe(Protocol::Paper, &[4.0, 8.0]);
    let evaluation = run(&bundle, &recipe, Options { batch: 9, keep: Keep::All, journal: None });

    let table = folder.path().join("images.csv");
    evaluation.write_csv(&table).unwrap();
    let mut reader = csv::Reader::from_path(&table).unwrap();
    let header: Vec<String> = reader.headers().unwrap().iter().map(String::from).collect();
    assert_eq!(header, ["index", "label", "predicted", "clean", "pgd-20 4/255", "pgd-20 8/255"]);
    let rows: Vec<Vec<usize>> = reader.deserialize().map(|row| row.unwrap()).collect();
    assert_eq!(rows.len(), 20);
    for (row, verdict) in rows.iter().zip(&evaluation.verdicts) {
        let clean = usize::from(verdict.predicted == verdict.label);
        let robust = verdict.robust.iter().map(|&robust| usize::from(robust));
        let expected: Vec<usize> =
            [verdict.index, verdict.label.into(), verdict.predicted.into(), clean].into_iter().chain(robust).collect();
        assert_eq!(row, &expected);
    }

    let file = folder.path().join("adversarial.safetensors");
    evaluation.write_adversarial(&file).unwrap();
    let bytes = std::fs::read(&file).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let index: Vec<i64> = bytemuck::pod_collect_to_vec(tensors.tensor("index").unwrap().data());
    let indices: Vec<usize> = index.iter().map(|&index| usize::try_from(index).unwrap()).collect();
    assert_eq!(indices, evaluation.verdicts.iter().map(|verdict| verdict.index).collect::<Vec<_>>());
    assert_eq!(tensors.tensor("label").unwrap().shape(), [20]);
    let images = toy::images(48, 2);
    let clean = pixels(&images, &indices).try_into_vec::<f32>().unwrap();
    for (place, name) in ["adversarial_4_255", "adversarial_8_255"].into_iter().enumerate() {
        let view = tensors.tensor(name).unwrap();
        assert_eq!(view.shape(), [20, 3, toy::SIDE, toy::SIDE]);
        let values: Vec<f32> = bytemuck::pod_collect_to_vec(view.data());
        let far = Region::linf(0.0).distance(&clean, &values);
        assert!(far > 0.0 && far <= recipe.epsilons[place].0 + 1e-6, "{far}");
        // What was written fools the model where it says so, and only there.
        let subject = Subject::bundle(&bundle, &toy::device()).unwrap();
        let logits = subject.victim().logits(&values, Pass { images: &[0; 20], draw: 0 });
        for (verdict, logits) in evaluation.verdicts.iter().zip(logits.chunks_exact(3)) {
            assert_eq!(verdict.robust[place], first_of_greatest(logits) == usize::from(verdict.label));
        }
    }
    let unkept = run(&bundle, &recipe, Options::default());
    assert!(matches!(unkept.write_adversarial(&file), Err(Error::NotKept)));
    let json = serde_json::to_value(&evaluation).unwrap();
    assert_eq!(json["attacks"][1]["epsilon"], "8/255");
    assert_eq!(evaluation.claims("toy test", "gabion evaluate")[2].what, "pgd-20 8/255");
}

#[test]
fn what_cannot_be_measured_is_named() {
    let device = toy::device();
    let fail = |bundle: &Bundle, test: &Images, recipe: &spec::Evaluate| {
        let done = Subject::bundle(bundle, &device)
            .and_then(|subject| evaluate(&subject, test, recipe, &Options::default(), &mut |_| {}));
        let error = done.unwrap_err().to_string();
        assert!(!error.contains('\n') && !error.contains("  "), "{error}");
        error
    };
    let (images, paper) = (toy::images(12, 2), recipe(Protocol::Paper, &[8.0]));
    let headless = fail(&toy::bundle(&device), &images, &paper);
    assert!(headless.contains("`toy` has no head"), "{headless}");

    let bundle = toy::with_head(&device);
    let mut renamed = images.clone();
    renamed.classes[1] = "lime".into();
    let error = fail(&bundle, &renamed, &paper);
    assert!(error.contains("class 1 is `green`") && error.contains("`lime`"), "{error}");
    renamed.classes = ["red", "green", "blue", "grey"].map(String::from).to_vec();
    let error = fail(&bundle, &renamed, &paper);
    assert!(error.contains("no class 3") && error.contains("`grey`"), "{error}");

    let none = spec::Evaluate { images: Some(0), ..paper.clone() };
    assert!(fail(&bundle, &images, &none).contains("`images`"));
    let large = spec::Evaluate { epsilons: vec![Pixels(f32::NAN)], ..paper.clone() };
    assert!(fail(&bundle, &images, &large).contains("`epsilons`"));

    // A head of infinities.
    let head = gabion_learn::weights::export(bundle.head.as_ref().unwrap(), "");
    let shape = head["weight"].shape().to_vec();
    let infinite = burn::tensor::TensorData::new(vec![f32::MAX; shape.iter().product()], shape);
    let mut broken = bundle;
    let mut tensors =
        [("weight".to_string(), infinite), ("bias".to_string(), head["bias"].clone())].into_iter().collect();
    broken.head = Some(gabion_learn::weights::import(broken.head.unwrap(), "", &mut tensors).unwrap());
    let error = fail(&broken, &images, &paper);
    assert!(error.contains("not finite for test image 0"), "{error}");
}

#[test]
fn a_cascade_is_more_than_its_parts() {
    let bundle = toy::with_head(&toy::device());
    let recipe = spec::Evaluate { images: Some(6), ..recipe(Protocol::Autoattack, &[8.0]) };
    let evaluation = run(&bundle, &recipe, Options::default());
    let names: Vec<&str> = evaluation.attacks.iter().map(|row| row.name.as_str()).collect();
    assert_eq!(names, ["apgd-ce", "apgd-t", "fab-t", "square", "autoattack"]);
    let right: Vec<u64> = evaluation.attacks.iter().map(|row| row.rate.right).collect();
    assert!(right.windows(2).all(|pair| pair[0] >= pair[1]) && right[3] == right[4], "{right:?}");
    // Three classes have neither nine targets nor a targeted ratio.
    assert!(evaluation.warnings.iter().any(|warning| warning.contains("3 classes")), "{:?}", evaluation.warnings);
    let headlines: Vec<String> = evaluation.headlines().map(Row::what).collect();
    assert_eq!(headlines, ["autoattack 8/255"]);
}

#[test]
fn what_was_stopped_goes_on_and_ends_the_same() {
    let bundle = toy::with_head(&toy::device());
    let folder = tempfile::tempdir().unwrap();
    let recipe = recipe(Protocol::Strong, &[4.0, 16.0]);
    let options = Options { batch: 4, journal: Some(folder.path().join("evaluation")), ..Options::default() };
    let numbers = |evaluation: Evaluation| {
        let mut value = serde_json::to_value(&evaluation).unwrap();
        value["seconds"] = 0.into();
        value["attacks"].as_array_mut().unwrap().iter_mut().for_each(|row| row["seconds"] = 0.into());
        value
    };
    let whole = numbers(run(&bundle, &recipe, Options { batch: 4, ..Options::default() }));
    // Stopped in the middle of the work, as a panic in the observer does; whatever it is, only whole chunks are there.
    let stopped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let subject = Subject::bundle(&bundle, &toy::device()).unwrap();
        let mut heard = 0;
        let _ = evaluate(&subject, &toy::images(48, 2), &recipe, &options, &mut |progress| {
            heard += usize::from(progress.what != CLEAN);
            assert!(heard < 4, "stopped");
        });
    }));
    assert!(stopped.is_err());
    assert_eq!(numbers(run(&bundle, &recipe, options.clone())), whole);
    assert_eq!(numbers(run(&bundle, &recipe, options.clone())), whole);
    // Another seed is another evaluation.
    let other = spec::Evaluate { seed: 5, ..recipe };
    let subject = Subject::bundle(&bundle, &toy::device()).unwrap();
    let error = evaluate(&subject, &toy::images(48, 2), &other, &options, &mut |_| {}).unwrap_err();
    assert!(matches!(error, Error::OtherEvaluation { .. }), "{error}");
}

#[test]
fn a_trust_report_sees_its_twins_and_believes_a_plain_model() {
    let bundle = toy::with_head(&toy::device());
    let subject = Subject::bundle(&bundle, &toy::device()).unwrap();
    let recipe = spec::Evaluate { images: Some(24), ..recipe(Protocol::Trust, &[4.0]) };
    let beyond = Beyond { source: Some(&subject), patches: vec![3], views: 4 };
    let found = assess(&subject, &toy::images(48, 2), &recipe, &beyond, &Options::default(), &mut |_| {}).unwrap();
    let trust = &found.trust[0];
    for check in &trust.checks {
        println!("{:?} {}: {}", check.grade, check.name, check.figure);
    }
    let failed: Vec<_> = trust.checks.iter().filter(|check| check.grade == Grade::Fail).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(trust.checks.iter().any(|check| check.name.contains("hidden gradients") && check.grade == Grade::Pass));
    assert_eq!(trust.sweep.len(), 9);
    assert!(trust.checks.iter().any(|check| check.name.contains("transfer")));
    assert_eq!(found.wide[0].name, "transfer from toy");
}

#[test]
fn patches_corruptions_and_crops_are_measured() {
    let bundle = toy::with_head(&toy::device());
    let subject = Subject::bundle(&bundle, &toy::device()).unwrap();
    let images = toy::images(48, 2);
    let recipe = spec::Evaluate { images: Some(9), ..recipe(Protocol::Corruptions, &[8.0]) };
    let beyond = Beyond { source: None, patches: vec![2, 8], views: 3 };
    let folder = tempfile::tempdir().unwrap();
    let options = Options { journal: Some(folder.path().join("e")), ..Options::default() };
    let found = assess(&subject, &images, &recipe, &beyond, &options, &mut |_| {}).unwrap();
    let corruptions = found.corruptions.as_ref().unwrap();
    assert_eq!(corruptions.rows.len(), 75);
    assert!(corruptions.mean > 0.2 && corruptions.mean <= 1.0);
    assert_eq!(found.wide.iter().map(|row| row.name.as_str()).collect::<Vec<_>>(), ["patch 2x2", "patch 8x8"]);
    // A patch over the whole image leaves nothing of it.
    assert!(found.wide[1].rate.right <= found.wide[0].rate.right && found.wide[1].rate.right <= 1);
    let again = assess(&subject, &images, &recipe, &beyond, &options, &mut |_| {}).unwrap();
    assert_eq!(again.corruptions, found.corruptions);
    let views = spec::Evaluate { protocol: Protocol::Views, ..recipe };
    let over = assess(&subject, &images, &views, &beyond, &Options::default(), &mut |_| {}).unwrap().views.unwrap();
    let names: Vec<&str> = over.rows.iter().map(|row| row.name.as_str()).collect();
    assert_eq!(names.len(), 4, "{names:?}");
    // Who may change every crop by itself does at least as much as who owns the image, up to the luck of draws.
    assert!(over.rows.iter().all(|row| row.rate.right <= over.clean.right));
}

#[test]
fn adversarial_images_are_verified_out_of_their_file() {
    let bundle = toy::with_head(&toy::device());
    let recipe = recipe(Protocol::Paper, &[8.0, 32.0]);
    let evaluation = run(&bundle, &recipe, Options { keep: Keep::Fooling, ..Options::default() });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("images.safetensors");
    evaluation.write_adversarial(&file).unwrap();
    let subject = Subject::bundle(&bundle, &toy::device()).unwrap();
    let images = toy::images(48, 2);
    let verified = verify(&subject, &images, &file).unwrap();
    assert_eq!(verified.len(), 2);
    for (verified, row) in verified.iter().zip(&evaluation.attacks) {
        assert!(verified.holds(), "{verified:?}");
        assert_eq!((verified.right as u64, verified.epsilon), (row.rate.right, row.epsilon));
    }
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() - 5]).unwrap();
    assert!(matches!(verify(&subject, &images, &file), Err(Error::Adversarial { .. })));
    std::fs::write(&file, &bytes).unwrap();
    let error = verify(&subject, &toy::images(3, 2), &file).unwrap_err().to_string();
    assert!(error.contains("another label"), "{error}");
}

#[test]
fn a_classifier_over_crops_is_attacked_as_it_draws() {
    let bundle = toy::with_head(&toy::device());
    let subject = || Subject::bundle(&bundle, &toy::device()).unwrap();
    let over = subject().over_crops(3, 4).unwrap();
    assert!(over.victim().random());
    let images = toy::images(48, 2);
    let recipe = spec::Evaluate { images: Some(4), ..recipe(Protocol::AutoattackRand, &[8.0]) };
    let folder = tempfile::tempdir().unwrap();
    let journal = Some(folder.path().join("e"));
    let options = Options { keep: Keep::Fooling, journal, ..Options::default() };
    let measure = |subject: &Subject| evaluate(subject, &images, &recipe, &options, &mut |_| {});
    let found = measure(&over).unwrap();
    assert!(found.attacks[2].rate.right <= found.clean.right);
    // 100 iterations, the start, 20 draws of each.
    assert!(found.attacks[0].passes.gradients >= 2000 * found.clean.right);
    assert!(found.warnings.iter().any(|warning| warning.contains("3 crops")), "{:?}", found.warnings);
    let claims: Vec<String> = found.claims("toy", "").into_iter().map(|claim| claim.what).collect();
    assert_eq!(claims, ["clean, 3 views", "autoattack rand 8/255, 3 views"]);
    // What fooled the crops is verified by the same crops, whatever the whole image says.
    let file = folder.path().join("images.safetensors");
    found.write_adversarial(&file).unwrap();
    let verified = verify(&subject(), &images, &file).unwrap();
    assert!(verified[0].holds() && verified[0].right as u64 == found.attacks[2].rate.right, "{verified:?}");
    // The classifier of whole images is another, and has a folder of its own.
    assert!(matches!(measure(&subject()), Err(Error::OtherEvaluation { .. })));
}

#[test]
fn restarts_are_asked_for_by_number() {
    let bundle = toy::with_head(&toy::device());
    let more = spec::Evaluate { images: Some(6), restarts: Some(2), ..recipe(Protocol::Apgd, &[8.0]) };
    let names: Vec<String> = run(&bundle, &more, Options::default()).attacks.iter().map(Row::what).collect();
    assert_eq!(names, ["apgd-ce-100x2 8/255", "apgd-t-100x2 8/255", "apgd 8/255"]);
    let subject = Subject::bundle(&bundle, &toy::device()).unwrap();
    let fail = |recipe: &spec::Evaluate| {
        evaluate(&subject, &toy::images(48, 2), recipe, &Options::default(), &mut |_| {}).unwrap_err().to_string()
    };
    assert!(fail(&spec::Evaluate { restarts: Some(0), ..more.clone() }).contains("`restarts`"));
    assert!(fail(&spec::Evaluate { protocol: Protocol::Paper, ..more.clone() }).contains("only the protocols"));
    // A Euclidean budget may be longer than 1.
    let l2 = spec::Evaluate { norm: Norm::L2, epsilons: vec![Pixels(2.5)], restarts: None, ..more };
    assert_eq!(run(&bundle, &l2, Options::default()).attacks[0].what(), "apgd-ce L2 2.5");
    assert!(fail(&spec::Evaluate { epsilons: vec![Pixels(f32::INFINITY)], ..l2 }).contains("a length from 0 on"));
}
