//! A budget of memory is a promise: the peak of resident memory while a bundle adapts stays within what was resident
//! before and the budget. Measured in a process of its own, which has nothing else to forget.
#![cfg(target_os = "linux")]

use burn::tensor::Device;
use gabion_learn::{Head, Model};
use gabion_runtime::{AdaptError, Bundle, Local, Rgb, Samples, adapt};
use gabion_spec::{
    Adapt, Budget, Depth, Encoder, FORMAT_VERSION, HeadKind, Input, LocalObjective, Manifest, Pixels, Precision, Probe,
    Projector, Scope, Statistics, Stem, Tolerance, Weights,
};
use std::ops::ControlFlow;
use std::process::Command;

/// MiB and the number of a recipe.
const CHILD: &str = "GABION_TEST_MEMORY";

/// The network of models/cifar10-small with random weights.
fn bundle() -> Bundle {
    let manifest = Manifest {
        format: FORMAT_VERSION,
        name: "small".into(),
        encoder: Encoder { depth: Depth::Resnet18, width: 16, stem: Stem::Cifar },
        projector: Projector { hidden: 1024, output: 256 },
        input: Input { height: 32, width: 32 },
        classes: (0..10).map(|class| class.to_string()).collect(),
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
    };
    let device = Device::flex();
    let model = Model::init(&manifest.encoder, &manifest.projector, 3, &device);
    Bundle { manifest, model, head: Some(Head::init(1024, 10, 4, &device)) }
}

/// A field of /proc/self/status in bytes.
fn status(field: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() << 10
}

/// What a child does: adapts by one recipe, and tells by how much memory grew at most.
fn adapt_within(budget: u64, recipe: &Adapt) {
    let bundle = bundle();
    let images: Vec<Rgb> = (0..200)
        .map(|image| {
            let pixels = (0..3072usize).map(|i| ((i * 7919 + image * 31 + i * image % 13) % 256) as u8).collect();
            Rgb { height: 32, width: 32, pixels }
        })
        .collect();
    let labels: Vec<u16> = (0..200).map(|image| image % 10).collect();
    let samples = Samples { images: &images, labels: Some(&labels) };
    let local = Local { samples, guard: None, source: None, memory: Some(budget) };
    let before = status("VmRSS");
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let adapted = adapt(&bundle, &local, recipe, &mut |_| ControlFlow::Continue(())).unwrap();
    let grown = status("VmHWM").saturating_sub(before);
    let told = format!(
        "{} {} epsilon {}: {} rows of {}, {} MiB expected, grown by {} of {} MiB",
        recipe.scope.name(),
        recipe.objective.name(),
        recipe.epsilon,
        adapted.report.rows,
        adapted.report.batch * recipe.objective.views() as usize,
        adapted.report.expected_bytes >> 20,
        grown >> 20,
        budget >> 20
    );
    println!("{told}");
    assert!(grown <= budget, "{told}");
}

fn recipes() -> Vec<Adapt> {
    let short = |scope, objective| Adapt {
        budget: Budget::Steps { steps: 2 },
        batch: 160,
        guard: Tolerance { share: 0.1, steps: 1, ..Tolerance::default() },
        rehearsal: 0.0,
        statistics: Statistics::Frozen,
        ..Adapt::new(scope, objective)
    };
    let mut all: Vec<Adapt> = Scope::ALL.map(|scope| short(scope, LocalObjective::Supervised)).into();
    all.push(short(Scope::All, LocalObjective::EMP_SSL));
    all.push(Adapt { epsilon: Pixels(0.0), ..short(Scope::LastBlock, LocalObjective::Supervised) });
    all.push(Adapt {
        statistics: Statistics::ReEstimate { share: 0.5 },
        ..short(Scope::LastBlock, LocalObjective::EMP_SSL)
    });
    all
}

#[test]
fn memory_stays_within_its_budget() {
    if let Ok(child) = std::env::var(CHILD) {
        let (mib, recipe) = child.split_once(':').unwrap();
        adapt_within(mib.parse::<u64>().unwrap() << 20, &recipes()[recipe.parse::<usize>().unwrap()]);
        return;
    }
    let mut broken = Vec::new();
    for mib in [256, 512, 1024] {
        for recipe in 0..recipes().len() {
            let child = Command::new(std::env::current_exe().unwrap())
                .args(["memory_stays_within_its_budget", "--exact", "--nocapture"])
                .env(CHILD, format!("{mib}:{recipe}"))
                .output()
                .unwrap();
            let told = String::from_utf8_lossy(&child.stdout).into_owned();
            println!("{}", told.lines().find(|line| line.contains("MiB")).unwrap_or("nothing was told"));
            if !child.status.success() {
                broken.push(String::from_utf8_lossy(&child.stderr).into_owned());
            }
        }
    }
    assert!(broken.is_empty(), "{broken:?}");
}

#[test]
fn what_cannot_fit_is_refused_with_what_it_takes() {
    let image = Rgb { height: 32, width: 32, pixels: vec![9; 3072] };
    let images = vec![image; 20];
    let labels: Vec<u16> = (0..20).map(|image| image % 10).collect();
    let samples = Samples { images: &images, labels: Some(&labels) };
    let local = Local { samples, guard: None, source: None, memory: Some(16 << 20) };
    for recipe in recipes() {
        let error = adapt(&bundle(), &local, &recipe, &mut |_| ControlFlow::Continue(())).unwrap_err();
        assert!(matches!(error, AdaptError::Memory { .. }), "{error}");
    }
}

#[test]
#[ignore = "minutes: cargo test --release -p gabion -p gabion-runtime --test memory -- --ignored --nocapture"]
fn fifty_adaptations_leave_memory_flat() {
    let bundle = bundle();
    let images: Vec<Rgb> = (0..60usize)
        .map(|image| {
            let pixels = (0..3072usize).map(|i| ((i * 7919 + image * 31 + i * image % 13) % 256) as u8).collect();
            Rgb { height: 32, width: 32, pixels }
        })
        .collect();
    let labels: Vec<u16> = (0..60).map(|image| image % 10).collect();
    let samples = Samples { images: &images, labels: Some(&labels) };
    let mut resident = Vec::new();
    for round in 0..50 {
        // Every kind of recipe in turn.
        let recipes = recipes();
        let recipe = Adapt { batch: 32, seed: round, ..recipes[round as usize % recipes.len()].clone() };
        let local = Local { samples, guard: None, source: None, memory: Some(512 << 20) };
        adapt(&bundle, &local, &recipe, &mut |_| ControlFlow::Continue(())).unwrap();
        resident.push(status("VmRSS") >> 20);
    }
    println!("resident MiB after each: {resident:?}");
    // An allocator gives a recipe's activations back or holds on to them for a while: what leaks would raise the floor
    // and the ceiling alike.
    let (first, second) = resident.split_at(25);
    let floor = |part: &[u64]| *part.iter().min().expect("25 rounds");
    let ceiling = |part: &[u64]| *part.iter().max().expect("25 rounds");
    assert!(floor(&second[10..]) <= floor(&first[10..]) + 8, "{resident:?}");
    assert!(ceiling(second) <= ceiling(first) + 8, "{resident:?}");
}
