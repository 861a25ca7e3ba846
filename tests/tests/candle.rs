//! Candle reads an exported bundle and gives the same logits: the network is written down here once more, in Candle's
//! layers, from the names and shapes in the file alone.

use burn::Tensor as BurnTensor;
use burn::tensor::TensorData;
use candle_core::{DType, Device, Module, Result, Tensor};
use candle_nn::{BatchNorm, BatchNormConfig, Conv2d, Conv2dConfig, Linear, ModuleT, VarBuilder};
use gabion_learn::{Head, Mode, Model};
use gabion_runtime::bundle::WEIGHTS;
use gabion_runtime::{Bundle, Classify, Rgb, Session};
use gabion_spec::{Depth, Encoder, Manifest, Precision, Projector, Stem};

const WIDTH: usize = 8;
const HIDDEN: usize = 32;
const OUTPUT: usize = 16;
const CLASSES: usize = 10;
const SIDE: usize = 32;
const TOLERANCE: f32 = 1e-4;

fn convolution(from: usize, to: usize, kernel: usize, stride: usize, vb: VarBuilder) -> Result<Conv2d> {
    let config = Conv2dConfig { padding: kernel / 2, stride, ..Conv2dConfig::default() };
    candle_nn::conv2d_no_bias(from, to, kernel, config, vb)
}

fn norm(channels: usize, vb: VarBuilder) -> Result<BatchNorm> {
    candle_nn::batch_norm(channels, BatchNormConfig::default(), vb)
}

struct Block {
    conv1: Conv2d,
    bn1: BatchNorm,
    conv2: Conv2d,
    bn2: BatchNorm,
    downsample: Option<(Conv2d, BatchNorm)>,
}

impl Block {
    fn load(from: usize, to: usize, stride: usize, vb: VarBuilder) -> Result<Self> {
        let downsample = if stride != 1 || from != to {
            let vb = vb.pp("downsample");
            Some((convolution(from, to, 1, stride, vb.pp(0))?, norm(to, vb.pp(1))?))
        } else {
            None
        };
        Ok(Self {
            conv1: convolution(from, to, 3, stride, vb.pp("conv1"))?,
            bn1: norm(to, vb.pp("bn1"))?,
            conv2: convolution(to, to, 3, 1, vb.pp("conv2"))?,
            bn2: norm(to, vb.pp("bn2"))?,
            downsample,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let shortcut = match &self.downsample {
            Some((conv, norm)) => norm.forward_t(&conv.forward(x)?, false)?,
            None => x.clone(),
        };
        let x = self.bn1.forward_t(&self.conv1.forward(x)?, false)?.relu()?;
        (self.bn2.forward_t(&self.conv2.forward(&x)?, false)? + shortcut)?.relu()
    }
}

/// Encoder (CIFAR stem, BasicBlocks 2-2-2-2), the projector's first part and the head.
struct Network {
    conv1: Conv2d,
    bn1: BatchNorm,
    blocks: Vec<Block>,
    linear: Linear,
    norm: BatchNorm,
    head: Linear,
}

impl Network {
    fn load(vb: &VarBuilder) -> Result<Self> {
        let encoder = vb.pp("encoder");
        let mut blocks = Vec::new();
        let mut from = WIDTH;
        for stage in 0..4 {
            let to = WIDTH << stage;
            for block in 0..2 {
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                blocks.push(Block::load(from, to, stride, encoder.pp(format!("layer{}", stage + 1)).pp(block))?);
                from = to;
            }
        }
        let pre_feature = vb.pp("projector.pre_feature");
        Ok(Self {
            conv1: convolution(3, WIDTH, 3, 1, encoder.pp("conv1"))?,
            bn1: norm(WIDTH, encoder.pp("bn1"))?,
            blocks,
            linear: candle_nn::linear(from, HIDDEN, pre_feature.pp(0))?,
            norm: norm(HIDDEN, pre_feature.pp(1))?,
            head: candle_nn::linear(HIDDEN, CLASSES, vb.pp("head"))?,
        })
    }

    /// `[batch, 3, height, width]` to `[batch, classes]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = self.bn1.forward_t(&self.conv1.forward(x)?, false)?.relu()?;
        for block in &self.blocks {
            x = block.forward(&x)?;
        }
        let pooled = x.mean((2, 3))?;
        let feature = self.norm.forward_t(&self.linear.forward(&pooled)?, false)?.relu()?;
        self.head.forward(&feature)
    }
}

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
    let network = Network::load(&vb).unwrap();
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
