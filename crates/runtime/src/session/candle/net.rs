//! A bundle's network in Candle's layers.

use crate::Stored;
use candle_core::{Device, Module, Result, Tensor};
use candle_nn::{BatchNorm, Conv2d, Conv2dConfig, Linear, ModuleT};
use gabion_spec::Stem;

/// torch's and torchvision's.
const BATCH_NORM_EPS: f64 = 1e-5;

/// From pixels to logits.
#[derive(Debug)]
pub(super) struct Net {
    stem: Normalised,
    pools: bool,
    blocks: Vec<Block>,
    linear: Linear,
    norm: BatchNorm,
    head: Linear,
}

/// A convolution without bias and its batch normalisation by running statistics.
#[derive(Debug)]
struct Normalised {
    conv: Conv2d,
    norm: BatchNorm,
}

/// A BasicBlock of two convolutions or a Bottleneck of three, with ReLUs between them.
#[derive(Debug)]
struct Block {
    layers: Vec<Normalised>,
    around: Option<Normalised>,
}

impl Net {
    /// # Panics
    /// When a tensor is missing or has another shape, which [`Stored::read`] excludes.
    pub(super) fn of(stored: &Stored, device: &Device) -> Result<Self> {
        let encoder = &stored.manifest.encoder;
        let layers = Layers { stored, device };
        let (stem, pools) = match encoder.stem {
            Stem::Cifar => (1, false),
            Stem::Imagenet => (2, true),
        };
        let mut blocks = Vec::new();
        for (stage, count) in encoder.depth.blocks().into_iter().enumerate() {
            for block in 0..count {
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                blocks.push(layers.block(&format!("encoder.layer{}.{block}", stage + 1), stride)?);
            }
        }
        Ok(Self {
            stem: layers.normalised("encoder.conv1", "encoder.bn1", stem)?,
            pools,
            blocks,
            linear: layers.linear("projector.pre_feature.0")?,
            norm: layers.norm("projector.pre_feature.1")?,
            head: layers.linear("head")?,
        })
    }

    /// # Shapes
    /// `[batch, 3, height, width]` to `[batch, classes]`.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = self.stem.forward(x)?.relu()?;
        if self.pools {
            // After a ReLU a border of zeros is never the greatest of what it is not alone in.
            x = x.pad_with_zeros(2, 1, 1)?.pad_with_zeros(3, 1, 1)?.max_pool2d_with_stride(3, 2)?;
        }
        for block in &self.blocks {
            x = block.forward(&x)?;
        }
        let pooled = x.mean((2, 3))?;
        let feature = self.norm.forward_t(&self.linear.forward(&pooled)?, false)?.relu()?;
        self.head.forward(&feature)
    }
}

impl Normalised {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.norm.forward_t(&self.conv.forward(x)?, false)
    }
}

impl Block {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let around = match &self.around {
            Some(layer) => layer.forward(x)?,
            None => x.clone(),
        };
        let (last, first) = self.layers.split_last().expect("a block has layers");
        let mut x = x.clone();
        for layer in first {
            x = layer.forward(&x)?.relu()?;
        }
        (last.forward(&x)? + around)?.relu()
    }
}

struct Layers<'a> {
    stored: &'a Stored,
    device: &'a Device,
}

impl Layers<'_> {
    fn has(&self, name: &str) -> bool {
        self.stored.tensors.contains_key(name)
    }

    fn tensor(&self, name: &str) -> Result<Tensor> {
        let tensor = self.stored.tensors.get(name).unwrap_or_else(|| panic!("tensor `{name}` is missing"));
        Tensor::from_slice(&tensor.values, tensor.shape.as_slice(), self.device)
    }

    /// The stride of a Bottleneck is on its 3x3.
    fn block(&self, name: &str, stride: usize) -> Result<Block> {
        let bottleneck = self.has(&format!("{name}.conv3.weight"));
        let strides: &[usize] = if bottleneck { &[1, stride, 1] } else { &[stride, 1] };
        let layer = |(place, &stride): (usize, &usize)| {
            self.normalised(&format!("{name}.conv{}", place + 1), &format!("{name}.bn{}", place + 1), stride)
        };
        let (conv, norm) = (format!("{name}.downsample.0"), format!("{name}.downsample.1"));
        let around = self.has(&format!("{conv}.weight")).then(|| self.normalised(&conv, &norm, stride)).transpose()?;
        Ok(Block { layers: strides.iter().enumerate().map(layer).collect::<Result<_>>()?, around })
    }

    /// Padded so that a stride of 1 keeps the size.
    fn normalised(&self, conv: &str, norm: &str, stride: usize) -> Result<Normalised> {
        let weight = self.tensor(&format!("{conv}.weight"))?;
        let config = Conv2dConfig { padding: weight.dim(2)? / 2, stride, ..Conv2dConfig::default() };
        Ok(Normalised { conv: Conv2d::new(weight, None, config), norm: self.norm(norm)? })
    }

    fn norm(&self, name: &str) -> Result<BatchNorm> {
        let part = |what: &str| self.tensor(&format!("{name}.{what}"));
        let (mean, var) = (part("running_mean")?, part("running_var")?);
        BatchNorm::new(mean.dim(0)?, mean, var, part("weight")?, part("bias")?, BATCH_NORM_EPS)
    }

    fn linear(&self, name: &str) -> Result<Linear> {
        Ok(Linear::new(self.tensor(&format!("{name}.weight"))?, Some(self.tensor(&format!("{name}.bias"))?)))
    }
}
