//! The network once more, in Candle's layers, from the names and shapes in the file alone.

use candle_core::{Module, Result, Tensor};
use candle_nn::{BatchNorm, BatchNormConfig, Conv2d, Conv2dConfig, Linear, ModuleT, VarBuilder};
use gabion_spec::Manifest;

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

/// Encoder (CIFAR stem, BasicBlocks), the projector's first part and the head.
pub struct Network {
    conv1: Conv2d,
    bn1: BatchNorm,
    blocks: Vec<Block>,
    linear: Linear,
    norm: BatchNorm,
    head: Linear,
}

impl Network {
    /// Of a ResNet-18 or 34 with the CIFAR stem.
    pub fn load(vb: &VarBuilder, manifest: &Manifest) -> Result<Self> {
        let Manifest { encoder, projector, classes, .. } = manifest;
        let (width, hidden) = (encoder.width as usize, projector.hidden as usize);
        let depths = encoder.depth.blocks();
        let encoder = vb.pp("encoder");
        let mut blocks = Vec::new();
        let mut from = width;
        for (stage, blocks_of_stage) in depths.into_iter().enumerate() {
            let to = width << stage;
            for block in 0..blocks_of_stage {
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                blocks.push(Block::load(from, to, stride, encoder.pp(format!("layer{}", stage + 1)).pp(block))?);
                from = to;
            }
        }
        let pre_feature = vb.pp("projector.pre_feature");
        Ok(Self {
            conv1: convolution(3, width, 3, 1, encoder.pp("conv1"))?,
            bn1: norm(width, encoder.pp("bn1"))?,
            blocks,
            linear: candle_nn::linear(from, hidden, pre_feature.pp(0))?,
            norm: norm(hidden, pre_feature.pp(1))?,
            head: candle_nn::linear(hidden, classes.len(), vb.pp("head"))?,
        })
    }

    /// `[batch, 3, height, width]` to `[batch, classes]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = self.bn1.forward_t(&self.conv1.forward(x)?, false)?.relu()?;
        for block in &self.blocks {
            x = block.forward(&x)?;
        }
        let pooled = x.mean((2, 3))?;
        let feature = self.norm.forward_t(&self.linear.forward(&pooled)?, false)?.relu()?;
        self.head.forward(&feature)
    }
}
