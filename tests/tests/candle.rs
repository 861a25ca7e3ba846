//! Candle reads an exported bundle and gives the same logits.

use burn::Tensor as BurnTensor;
use burn::tensor::TensorData;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use gabion_learn::{Head, Mode, Model};
use gabion_runtime::bundle::WEIGHTS;
use gabion_runtime::{Bundle, Classify, Rgb, Session};
use gabion_spec::{Depth, Encoder, Manifest, Precision, Projector, Stem};

#[path = "../shared/candle_network.rs"]
mod candle_network;

use candle_network::Network;

const WIDTH: usize = 8;
const HIDDEN: usize = 32;
const OUTPUT: usize = 16;
const CLASSES: usize = 10;
const SIDE: usize = 32;
const TOLERANCE: f32 = 1e-4;

/// Uniform in `[0, 1)`.
fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    (0..count).map(|_| next()).collect()
}

fn relative_error(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let greatest = expected.iter().fold(0f32, |most, value| most.max(value.abs()));
    found.iter().zip(expected).fold(0f32, |most, (a, b)| most.max((a - b).abs())) / greatest
}

fn manifest() -> Manifest {
    let encoder = Encoder { depth: Depth::Resnet18, width: WIDTH as u32, stem: Stem::Cifar };
    let projector = Projector { hidden: HIDDEN as u32, output: OUTPUT as u32 };
    let classes = (0..CLASSES).map(|class| format!("class {class}")).collect();
    gabion_tests::manifest(encoder, projector, SIDE as u32, classes)
}

#[test]
fn candle_gives_the_same_logits() {
    let device = burn::tensor::Device::flex();
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("bundle");
    let model = Model::init(&manifest().encoder, &manifest().projector, 3, &device);
    let shape = [4, 3, SIDE, SIDE];
    let count = shape.iter().product();
    // Running statistics that are neither 0 nor 1.
    for seed in 0..5 {
        let x = BurnTensor::<4>::from_data(TensorData::new(noise(count, seed), shape), &device);
        let _ = model.forward(x, Mode::Train);
    }
    let head = Head::init(HIDDEN, CLASSES, 4, &device);
    Bundle::write(&dir, manifest(), &model, Some(&head), Precision::F32).unwrap();

    let bytes = std::fs::read(dir.join(WEIGHTS)).unwrap();
    let vb = VarBuilder::from_buffered_safetensors(bytes, DType::F32, &Device::Cpu).unwrap();
    let network = Network::load(&vb, &manifest()).unwrap();
    let values = noise(count, 99);
    let x = Tensor::from_vec(values.clone(), &shape, &Device::Cpu).unwrap();
    let found: Vec<f32> = network.forward(&x).unwrap().flatten_all().unwrap().to_vec1().unwrap();

    let opened = Bundle::open(&dir, &device).unwrap();
    let x = BurnTensor::<4>::from_data(TensorData::new(values, shape), &device);
    let feature = opened.model.feature(x, Mode::Eval);
    let expected = opened.head.as_ref().unwrap().forward(feature, Mode::Eval).to_data_as::<f32>();
    let error = relative_error(&found, expected.as_slice::<f32>().unwrap());
    println!("Candle's logits: relative error {error:.2e}");
    assert!(error < TOLERANCE, "relative error {error:.2e}");

    // And a session's probabilities for an image of the input's size.
    let pixels: Vec<u8> = noise(SIDE * SIDE * 3, 7).into_iter().map(|value| (value * 255.0) as u8).collect();
    let planes = Tensor::from_vec(pixels.clone(), (SIDE, SIDE, 3), &Device::Cpu).unwrap();
    let x = (planes.permute((2, 0, 1)).unwrap().unsqueeze(0).unwrap().to_dtype(DType::F32).unwrap() / 255.0).unwrap();
    let logits = network.forward(&x.contiguous().unwrap()).unwrap();
    let expected: Vec<f32> = candle_nn::ops::softmax(&logits, 1).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    let session = Session::new(opened).unwrap();
    let image = Rgb { height: SIDE, width: SIDE, pixels };
    let prediction = session.classify(&image, &Classify::default()).unwrap();
    let error = relative_error(&prediction.probabilities, &expected);
    println!("a session's probabilities: relative error {error:.2e}");
    assert!(error < TOLERANCE, "relative error {error:.2e}");
}
