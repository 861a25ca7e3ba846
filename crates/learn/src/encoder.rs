//! The residual encoder of torchvision (He et al. 2016, <https://github.com/pytorch/vision>), the projector of
//! CF-AMC-SSL (<https://github.com/softsys4ai/CF-AMC-SSL>) and the linear head, with their parameter names.

use crate::nn::{BatchNorm, Conv2d, Linear, Mode};
use crate::ops::{self, WeightGradient};
use burn::Tensor;
use burn::module::Module;
use burn::tensor::Device;
use burn::tensor::module::max_pool2d;
use burn::tensor::ops::MaxPoolOptions;
use gabion_spec as spec;

/// The shortcut's projection where a block changes shape.
#[derive(Module, Debug)]
pub struct Downsample {
    conv: Conv2d,
    norm: BatchNorm,
}

/// A BasicBlock (two convolutions) or, with a third one, a Bottleneck with the stride on its 3x3.
#[derive(Module, Debug)]
pub struct Block {
    conv1: Conv2d,
    bn1: BatchNorm,
    conv2: Conv2d,
    bn2: BatchNorm,
    conv3: Option<Conv2d>,
    bn3: Option<BatchNorm>,
    downsample: Option<Downsample>,
}

impl Block {
    fn init(
        depth: spec::Depth,
        channels_in: usize,
        width: usize,
        stride: usize,
        (seed, name): (u64, &str),
        device: &Device,
    ) -> Self {
        let channels_out = width * depth.expansion();
        let conv = |channels, kernel, stride, layer: &str| {
            Conv2d::init(channels, kernel, stride, (seed, &format!("{name}.{layer}.weight")), device)
        };
        let downsample = (stride != 1 || channels_in != channels_out).then(|| Downsample {
            conv: conv([channels_in, channels_out], 1, stride, "downsample.0"),
            norm: BatchNorm::init(channels_out, device),
        });
        let bottleneck = depth.expansion() > 1;
        Self {
            conv1: if bottleneck {
                conv([channels_in, width], 1, 1, "conv1")
            } else {
                conv([channels_in, width], 3, stride, "conv1")
            },
            bn1: BatchNorm::init(width, device),
            conv2: conv([width, width], 3, if bottleneck { stride } else { 1 }, "conv2"),
            bn2: BatchNorm::init(width, device),
            conv3: bottleneck.then(|| conv([width, channels_out], 1, 1, "conv3")),
            bn3: bottleneck.then(|| BatchNorm::init(channels_out, device)),
            downsample,
        }
    }

    fn compute_in(&mut self, arithmetic: spec::Arithmetic) {
        let Self { conv1, conv2, conv3, downsample, .. } = self;
        let shortcut = downsample.as_mut().map(|downsample| &mut downsample.conv);
        for conv in [conv1, conv2].into_iter().chain(conv3).chain(shortcut) {
            conv.compute_in(arithmetic);
        }
    }

    fn forward(&self, x: Tensor<4>, mode: Mode) -> Tensor<4> {
        let [x, shortcut] = ops::fork(x);
        let shortcut = match &self.downsample {
            Some(Downsample { conv, norm }) => norm.forward(conv.forward(shortcut, mode), None, false, mode),
            None => shortcut,
        };
        let x = self.bn1.forward(self.conv1.forward(x, mode), None, true, mode);
        let x = self.conv2.forward(x, mode);
        match (&self.conv3, &self.bn3) {
            (Some(conv3), Some(bn3)) => {
                let x = self.bn2.forward(x, None, true, mode);
                bn3.forward(conv3.forward(x, mode), Some(shortcut), true, mode)
            }
            _ => self.bn2.forward(x, Some(shortcut), true, mode),
        }
    }
}

/// torchvision's residual network without its last layer.
#[derive(Module, Debug)]
pub struct ResNet {
    conv1: Conv2d,
    bn1: BatchNorm,
    layer1: Vec<Block>,
    layer2: Vec<Block>,
    layer3: Vec<Block>,
    layer4: Vec<Block>,
    #[module(skip)]
    max_pool: bool,
}

impl ResNet {
    /// Random weights as torchvision starts them.
    pub fn init(shape: &spec::Encoder, seed: u64, device: &Device) -> Self {
        let width = shape.width as usize;
        let (kernel, stride) = match shape.stem {
            spec::Stem::Cifar => (3, 1),
            spec::Stem::Imagenet => (7, 2),
        };
        let mut channels_in = width;
        let mut stage = |index: usize| -> Vec<Block> {
            (0..shape.depth.blocks()[index])
                .map(|block| {
                    let name = format!("encoder.layer{}.{block}", index + 1);
                    let stride = if index > 0 && block == 0 { 2 } else { 1 };
                    let made = Block::init(shape.depth, channels_in, width << index, stride, (seed, &name), device);
                    channels_in = (width << index) * shape.depth.expansion();
                    made
                })
                .collect()
        };
        Self {
            conv1: Conv2d::init([3, width], kernel, stride, (seed, "encoder.conv1.weight"), device),
            bn1: BatchNorm::init(width, device),
            layer1: stage(0),
            layer2: stage(1),
            layer3: stage(2),
            layer4: stage(3),
            max_pool: shape.stem == spec::Stem::Imagenet,
        }
    }

    /// # Shapes
    /// - `x`: `[batch, 3, height, width]` in `[0, 1]`
    /// - output: `[batch, 8 * width * expansion]`
    pub fn forward(&self, x: Tensor<4>, mode: Mode) -> Tensor<2> {
        self.top(self.trunk(x, mode), mode)
    }

    /// Everything below the last block.
    ///
    /// # Shapes
    /// - `x`: `[batch, 3, height, width]` in `[0, 1]`
    /// - output: `[batch, 8 * width * expansion, rows, columns]`
    fn trunk(&self, x: Tensor<4>, mode: Mode) -> Tensor<4> {
        let mut x = self.bn1.forward(self.conv1.forward(x, mode), None, true, mode);
        if self.max_pool {
            x = max_pool2d(x, MaxPoolOptions::new([3, 3]).with_stride([2, 2]).with_padding([1, 1]));
        }
        let below = self.layer4.len() - 1;
        for block in [&self.layer1, &self.layer2, &self.layer3].into_iter().flatten().chain(&self.layer4[..below]) {
            x = block.forward(x, mode);
        }
        x
    }

    /// The last block and the pooling.
    fn top(&self, x: Tensor<4>, mode: Mode) -> Tensor<2> {
        ops::global_average_pool(self.layer4[self.layer4.len() - 1].forward(x, mode))
    }
}

/// Linear, batch normalisation, ReLU: its output is the feature that every evaluation uses.
#[derive(Module, Debug)]
pub struct PreFeature {
    linear: Linear,
    norm: BatchNorm,
}

/// Linear, batch normalisation, ReLU, linear: from the feature to the embedding.
#[derive(Module, Debug)]
pub struct Projection {
    linear1: Linear,
    norm: BatchNorm,
    linear2: Linear,
}

/// The two-part projector of EMP-SSL.
#[derive(Module, Debug)]
pub struct Projector {
    pre_feature: PreFeature,
    projection: Projection,
}

impl Projector {
    fn linears(&mut self) -> impl Iterator<Item = &mut Linear> {
        [&mut self.pre_feature.linear, &mut self.projection.linear1, &mut self.projection.linear2].into_iter()
    }
}

/// What a forward pass of [`Model`] gives.
pub struct Embedding {
    /// `[batch, hidden]`, not negative.
    pub feature: Tensor<2>,
    /// `[batch, output]`, rows of length 1.
    pub projection: Tensor<2>,
}

/// Encoder and projector: all that pretraining trains.
#[derive(Module, Debug)]
pub struct Model {
    encoder: ResNet,
    projector: Projector,
}

impl Model {
    /// Random weights from a seed, the same on every device.
    pub fn init(encoder: &spec::Encoder, projector: &spec::Projector, seed: u64, device: &Device) -> Self {
        let (hidden, output) = (projector.hidden as usize, projector.output as usize);
        let linear = |from, to, name: &str| Linear::init(from, to, (seed, name), device);
        Self {
            encoder: ResNet::init(encoder, seed, device),
            projector: Projector {
                pre_feature: PreFeature {
                    linear: linear(encoder.features(), hidden, "projector.pre_feature.0"),
                    norm: BatchNorm::init(hidden, device),
                },
                projection: Projection {
                    linear1: linear(hidden, hidden, "projector.projection.0"),
                    norm: BatchNorm::init(hidden, device),
                    linear2: linear(hidden, output, "projector.projection.3"),
                },
            },
        }
    }

    /// The same weights, whose convolutions and linear layers compute in an arithmetic from now on.
    #[must_use]
    pub fn compute_in(mut self, arithmetic: spec::Arithmetic) -> Self {
        let ResNet { conv1, layer1, layer2, layer3, layer4, .. } = &mut self.encoder;
        conv1.compute_in(arithmetic);
        for block in [layer1, layer2, layer3, layer4].into_iter().flatten() {
            block.compute_in(arithmetic);
        }
        self.projector.linears().for_each(|linear| linear.compute_in(arithmetic));
        self
    }

    /// The same weights, whose linear layers leave the gradients of their weights to [`crate::optim`] as factors, where
    /// those take less memory: what one asks Burn for such a gradient is then not of the weight's shape.
    #[must_use]
    pub fn leave_factors(mut self) -> Self {
        self.projector.linears().for_each(|linear| linear.hand_over(WeightGradient::Factors));
        self
    }

    /// The feature that classifiers and evaluations use.
    ///
    /// # Shapes
    /// - `x`: `[batch, 3, height, width]` in `[0, 1]`
    /// - output: `[batch, hidden]`
    pub fn feature(&self, x: Tensor<4>, mode: Mode) -> Tensor<2> {
        self.feature_of(self.trunk(x, mode), mode)
    }

    /// The encoder below its last block, for training that moves what lies above it alone.
    ///
    /// # Shapes
    /// - `x`: `[batch, 3, height, width]` in `[0, 1]`
    /// - output: `[batch, 8 * width * expansion, rows, columns]`
    pub fn trunk(&self, x: Tensor<4>, mode: Mode) -> Tensor<4> {
        self.encoder.trunk(x, mode)
    }

    /// The feature of what [`Model::trunk`] gave.
    pub fn feature_of(&self, trunk: Tensor<4>, mode: Mode) -> Tensor<2> {
        let PreFeature { linear, norm } = &self.projector.pre_feature;
        norm.forward_rows(linear.forward(self.encoder.top(trunk, mode), mode), true, mode)
    }

    /// Feature and unit-length embedding.
    ///
    /// # Shapes
    /// - `x`: `[batch, 3, height, width]` in `[0, 1]`
    pub fn forward(&self, x: Tensor<4>, mode: Mode) -> Embedding {
        let feature = self.feature(x, mode);
        Embedding { projection: self.project(feature.clone(), mode), feature }
    }

    /// The unit-length embedding of a feature.
    ///
    /// # Shapes
    /// - `feature`: `[batch, hidden]`, output: `[batch, output]`
    pub fn project(&self, feature: Tensor<2>, mode: Mode) -> Tensor<2> {
        let Projection { linear1, norm, linear2 } = &self.projector.projection;
        let hidden = norm.forward_rows(linear1.forward(feature, mode), true, mode);
        normalise(linear2.forward(hidden, mode))
    }
}

/// Rows scaled to length 1 (torch's `F.normalize`: a length under 1e-12 counts as that).
pub fn normalise(rows: Tensor<2>) -> Tensor<2> {
    // Clamped before the root, whose gradient at 0 is infinite.
    let length = rows.clone().square().sum_dim(1).clamp_min(1e-24).sqrt();
    rows / length
}

/// A linear classifier on the feature; `weight` `[classes, hidden]`.
#[derive(Module, Debug)]
pub struct Head {
    linear: Linear,
}

impl Head {
    /// torch's default start.
    pub fn init(features: usize, classes: usize, seed: u64, device: &Device) -> Self {
        Self { linear: Linear::init(features, classes, (seed, "head"), device) }
    }

    /// Zero weights: every class is as probable as any other.
    pub fn zero(features: usize, classes: usize, device: &Device) -> Self {
        Self::from_parts(Tensor::zeros([classes, features], device), Tensor::zeros([classes], device))
    }

    /// # Shapes
    /// - `feature`: `[batch, hidden]`
    /// - output: logits `[batch, classes]`
    pub fn forward(&self, feature: Tensor<2>, mode: Mode) -> Tensor<2> {
        self.linear.forward(feature, mode)
    }

    pub(crate) fn from_parts(weight: Tensor<2>, bias: Tensor<1>) -> Self {
        use burn::module::Param;
        Self { linear: Linear::of(Param::from_tensor(weight), Param::from_tensor(bias)) }
    }
}
