use super::*;
use crate::toy::device;

/// A demo in miniature.
fn plan() -> Plan {
    let settings = ["epochs=1", "batch=16", "views=2", "images=32", "encoder.width=2", "projector.hidden=16"];
    Plan {
        synth: Synth { seed: 0, train: 60, test: 20 },
        settings: settings.map(String::from).to_vec(),
        probe: spec::Probe::Linear { rate: 0.01, batch: 20, epochs: 2 },
        images: 10,
        epsilons: [2.0, 8.0].map(Pixels::of_255).to_vec(),
        examples: 2,
    }
}

fn run(out: &Path, stop: &AtomicBool, observe: &mut dyn FnMut(DemoEvent)) -> Result<Demo, DemoError> {
    make(
        &plan(),
        &Options {
            out,
            device: device(),
            offered: gabion_runtime::choose(gabion_runtime::Choice::Cpu).unwrap().1,
            seed: 1,
            stop,
        },
        observe,
    )
}

#[test]
fn a_demo_leaves_what_it_says_and_replaces_a_former_one() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("a demo");
    let (stop, mut stages) = (AtomicBool::new(false), Vec::new());
    let made = run(&out, &stop, &mut |event| {
        if let DemoEvent::Stage { stage, .. } = event {
            stages.push(stage);
        }
        if let DemoEvent::Progress { done, total } = event {
            assert!(done <= total && total > 0);
        }
    });
    let demo = made.unwrap();
    assert_eq!(stages, (1..=STAGES).collect::<Vec<_>>());
    assert_eq!(demo.models.len(), 2);
    for model in &demo.models {
        assert_eq!((model.clean.images, model.attacks.len()), (10, 2));
    }
    // One of the two models replays what the other sees anew.
    assert_eq!(demo.models[0].crop_passes * 3, demo.models[1].crop_passes);
    let page = std::fs::read_to_string(&demo.report).unwrap();
    assert!(page.contains("free-AT") && page.contains("PGD 8&#x2f;255"));
    let bundle = Bundle::open(&demo.bundle, &device()).unwrap();
    assert_eq!(bundle.manifest.weights.precision, Precision::F16);
    assert_eq!(bundle.manifest.claims.len(), 3);
    // The files give what was said of them.
    for classified in &demo.classified {
        assert!(classified.command.contains("a demo/") && classified.command.ends_with(".png'"));
        let image = gabion_runtime::Rgb::open(&classified.image).unwrap();
        let model = demo.models.iter().find(|model| model.name == classified.model).unwrap();
        let session = Session::new(Bundle::open(&model.bundle, &device()).unwrap()).unwrap();
        let said = session.classify(&image, &gabion_runtime::Classify::default()).unwrap();
        assert_eq!(said.ranked(session.classes())[0].0, classified.predicted);
    }
    let budget = |name: &str| gabion_runtime::Rgb::open(&out.join(name)).unwrap().pixels;
    let clean = budget("clean.png");
    for kind in &KINDS {
        let most = clean.iter().zip(budget(kind.attacked)).map(|(&a, b)| a.abs_diff(b)).max();
        assert!(most.unwrap() <= 8, "{most:?}");
    }

    // A former demo is replaced, what is not its own stays; a stopped one is a former one.
    std::fs::write(out.join("notes.txt"), "mine").unwrap();
    std::fs::write(out.join("free/notes.txt"), "mine").unwrap();
    stop.store(true, Ordering::Relaxed);
    assert!(matches!(run(&out, &stop, &mut |_| {}), Err(DemoError::Stopped)));
    for gone in ["report.html", "clean.png", "bundle", "free/run.json", "standard/bundle"] {
        assert!(!out.join(gone).exists(), "{gone}");
    }
    assert!(out.join("notes.txt").exists() && out.join("free/notes.txt").exists());
    stop.store(false, Ordering::Relaxed);
    let again = run(&out, &stop, &mut |_| {}).unwrap();
    // All but the time that they took.
    let rates = |demo: &Demo| demo.models[1].attacks.iter().map(|row| (row.what(), row.rate)).collect::<Vec<_>>();
    assert_eq!(rates(&again), rates(&demo));
}

#[test]
fn a_folder_with_anything_else_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("demo.json"), "{}").unwrap();
    let error = run(folder.path(), &AtomicBool::new(false), &mut |_| {}).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("demo.json") && message.contains("--out") && !message.contains('\n'), "{message}");
    assert_eq!(std::fs::read_to_string(folder.path().join("demo.json")).unwrap(), "{}");
}
