//! What is measured on: a bundle of any width with random weights, and views of an image.

use burn::tensor::Device;
use gabion_augment::cpu::{Source, apply_batch};
use gabion_learn::{Head, Model};
use gabion_runtime::{Bundle, BundleError, Rgb, Session};
use gabion_spec::{
    Depth, Encoder, FORMAT_VERSION, HeadKind, Input, Manifest, Precision, Probe, Projector, Stem, Weights,
};
use std::io::Write;
use std::path::Path;

/// Writes a ResNet-18 for images of 32x32 and ten classes with random weights: as fast and as large as a trained one.
///
/// # Errors
/// When the system refuses.
pub fn random_bundle(dir: &Path, width: u32, device: &Device) -> Result<(), BundleError> {
    let encoder = Encoder { depth: Depth::Resnet18, width, stem: Stem::Cifar };
    let projector = Projector { hidden: 4096, output: 1024 };
    let model = Model::init(&encoder, &projector, 0, device);
    let head = Head::init(projector.hidden as usize, 10, 1, device);
    let manifest = Manifest {
        format: FORMAT_VERSION,
        name: format!("random, width {width}"),
        encoder,
        projector,
        input: Input { height: 32, width: 32 },
        classes: (0..10).map(|class| format!("class {class}")).collect(),
        head: Some(gabion_spec::Head {
            kind: HeadKind::Linear,
            recipe: Probe::Linear { rate: 1e-3, batch: 1, epochs: 1 },
        }),
        pretrain: None,
        finetune: Vec::new(),
        adapted: Vec::new(),
        data: None,
        weights: Weights { file: String::new(), sha256: String::new(), precision: Precision::F32 },
        claims: Vec::new(),
        writer: concat!("gabion ", env!("CARGO_PKG_VERSION")).into(),
    };
    Bundle::write(dir, manifest, &model, Some(&head), Precision::F32).map(|_| ())
}

/// Writes the image itself and then crops of it, so many views in all, as `[n, 3, height, width]` of little-endian f32.
///
/// # Errors
/// When the file cannot be written.
pub fn views(file: &Path, session: &Session, count: u32) -> std::io::Result<()> {
    let Input { height, width } = session.manifest().input;
    let plane = height as usize * width as usize;
    // Waves of several lengths, and no pixel like the next.
    let byte = |at: usize| ((at * 37 + at / 96 * 11 + (at * at) % 101) % 256) as u8;
    let image = Rgb { height: height as usize, width: width as usize, pixels: (0..3 * plane).map(byte).collect() };
    let draws = session.crops([height, width], 0, count.saturating_sub(1));
    let mut values = vec![0.0; count.max(1) as usize * 3 * plane];
    let (whole, crops) = values.split_at_mut(3 * plane);
    for (at, value) in whole.iter_mut().enumerate() {
        *value = f32::from(image.pixels[at % plane * 3 + at / plane]) / 255.0;
    }
    if !draws.is_empty() {
        apply_batch(&[Source::bytes(&image.pixels, [height, width])], &draws, [height, width], crops);
    }
    let bytes: Vec<u8> = values.iter().flat_map(|value: &f32| value.to_le_bytes()).collect();
    std::fs::File::create(file)?.write_all(&bytes)
}
