//! What several of the tests in tests/tests build on.

use gabion_spec::{self as spec, Encoder, Input, Manifest, Precision, Projector};

/// The manifest of a classifier of square images with a linear head; the writer fills in the weights' file and hash.
pub fn manifest(encoder: Encoder, projector: Projector, side: u32, classes: Vec<String>) -> Manifest {
    Manifest {
        format: spec::FORMAT_VERSION,
        name: "test".into(),
        encoder,
        projector,
        input: Input { height: side, width: side },
        classes,
        head: Some(spec::Head {
            kind: spec::HeadKind::Linear,
            recipe: spec::Probe::Linear { rate: 1e-3, batch: 8, epochs: 1 },
        }),
        pretrain: None,
        finetune: Vec::new(),
        adapted: Vec::new(),
        data: None,
        weights: spec::Weights { file: String::new(), sha256: String::new(), precision: Precision::F32 },
        claims: Vec::new(),
        writer: "test".into(),
    }
}
