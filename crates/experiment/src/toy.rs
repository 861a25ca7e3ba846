//! A small set of coloured images and a small untrained bundle, for tests.

use crate::data::{Images, Split, order::Random};
use burn::tensor::Device;
use gabion_learn::Model;
use gabion_runtime::Bundle;
use gabion_spec as spec;

pub(crate) const SIDE: usize = 8;

/// `count` images of three classes that differ in their colour, with noise.
pub(crate) fn images(count: usize, seed: u64) -> Images {
    let classes = ["red", "green", "blue"].map(String::from).to_vec();
    let mut random = Random::named(&[seed]);
    let labels: Vec<u16> = (0..3).cycle().take(count).collect();
    let mut pixels = Vec::new();
    for label in &labels {
        for value in 0..SIDE * SIDE * 3 {
            let bright = if value % 3 == usize::from(*label) { 60.0 } else { 0.0 };
            pixels.push((80.0 + bright + 60.0 * random.unit()) as u8);
        }
    }
    Images { pixels, height: SIDE, width: SIDE, labels, classes }
}

pub(crate) fn split() -> Split {
    Split { train: images(96, 1), test: images(48, 2) }
}

pub(crate) fn bundle(device: &Device) -> Bundle {
    let encoder = spec::Encoder { depth: spec::Depth::Resnet18, width: 4, stem: spec::Stem::Cifar };
    let projector = spec::Projector { hidden: 32, output: 16 };
    let manifest = spec::Manifest {
        format: spec::FORMAT_VERSION,
        name: "toy".into(),
        encoder,
        projector,
        input: spec::Input { height: SIDE as u32, width: SIDE as u32 },
        classes: Vec::new(),
        head: None,
        pretrain: None,
        finetune: Vec::new(),
        adapted: Vec::new(),
        data: None,
        weights: spec::Weights {
            file: "model.safetensors".into(),
            sha256: String::new(),
            precision: spec::Precision::F32,
        },
        claims: Vec::new(),
        writer: "test".into(),
    };
    Bundle { manifest, model: Model::init(&encoder, &projector, 3, device), head: None }
}

/// The toy bundle with a linear head.
pub(crate) fn with_head(device: &Device) -> Bundle {
    let mut bundle = bundle(device);
    let recipe = spec::Probe::Linear { rate: 0.03, batch: 32, epochs: 20 };
    let probed = crate::probe::probe(&bundle, &split(), &recipe, 0, device, None, &mut |_| {}).unwrap();
    bundle.manifest.head = Some(spec::Head { kind: spec::HeadKind::Linear, recipe });
    bundle.manifest.classes = probed.classes;
    bundle.head = probed.head;
    bundle
}

/// The CPU.
pub(crate) fn device() -> Device {
    gabion_runtime::choose(gabion_runtime::Choice::Cpu).unwrap().0
}
