//! The smallest whole bundle.

use gabion_runtime::{Stored, Tensor};
use gabion_spec::{Depth, Encoder, Head, HeadKind, Input, Manifest, Precision, Probe, Projector, Stem, Weights};
use std::collections::BTreeMap;

/// A bundle of 23 kB whose every value is `value`.
pub fn stored(value: f32) -> Stored {
    let manifest = Manifest {
        format: gabion_spec::FORMAT_VERSION,
        name: "test".into(),
        encoder: Encoder { depth: Depth::Resnet18, width: 1, stem: Stem::Cifar },
        projector: Projector { hidden: 1, output: 1 },
        input: Input { height: 4, width: 4 },
        classes: vec!["ant".into(), "bee".into()],
        head: Some(Head { kind: HeadKind::Linear, recipe: Probe::Linear { rate: 1e-3, batch: 8, epochs: 1 } }),
        pretrain: None,
        finetune: Vec::new(),
        adapted: Vec::new(),
        data: None,
        weights: Weights { file: String::new(), sha256: String::new(), precision: Precision::F32 },
        claims: Vec::new(),
        writer: "test".into(),
    };
    let mut tensors = BTreeMap::new();
    let mut put = |name: String, shape: &[usize]| {
        let values = vec![value; shape.iter().product()];
        tensors.insert(name, Tensor { shape: shape.to_vec(), values });
    };
    put("encoder.conv1.weight".into(), &[1, 3, 3, 3]);
    let mut norms = vec![
        ("encoder.bn1".to_string(), 1),
        ("projector.pre_feature.1".into(), 1),
        ("projector.projection.1".into(), 1),
    ];
    let mut from = 1;
    for (stage, channels) in [1, 2, 4, 8].into_iter().enumerate() {
        for block in 0..2 {
            let name = format!("encoder.layer{}.{block}", stage + 1);
            put(format!("{name}.conv1.weight"), &[channels, from, 3, 3]);
            put(format!("{name}.conv2.weight"), &[channels, channels, 3, 3]);
            norms.extend([(format!("{name}.bn1"), channels), (format!("{name}.bn2"), channels)]);
            if from != channels {
                put(format!("{name}.downsample.0.weight"), &[channels, from, 1, 1]);
                norms.push((format!("{name}.downsample.1"), channels));
            }
            from = channels;
        }
    }
    for (name, channels) in norms {
        for part in ["weight", "bias", "running_mean", "running_var"] {
            put(format!("{name}.{part}"), &[channels]);
        }
    }
    for (name, to, from) in [
        ("projector.pre_feature.0", 1, 8),
        ("projector.projection.0", 1, 1),
        ("projector.projection.3", 1, 1),
        ("head", 2, 1),
    ] {
        put(format!("{name}.weight"), &[to, from]);
        put(format!("{name}.bias"), &[to]);
    }
    Stored { manifest, tensors }
}
