//! Tensors by name to layers.

use super::{Affine, Architecture, Block, Conv, Linear, Network, NetworkError};
use crate::nn::BATCH_NORM_EPS;
use crate::weights::{Misfit, take};
use burn::Tensor;
use burn::tensor::{Device, TensorData};
use std::collections::BTreeMap;

const CIFAR: Statistics = Statistics { mean: [0.4914, 0.4822, 0.4465], std: [0.2471, 0.2435, 0.2616] };
const IMAGENET: Statistics = Statistics { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };
const CNN_A: Statistics = Statistics { mean: IMAGENET.mean, std: [0.225; 3] };

/// Of the pixels that a network was trained on.
struct Statistics {
    mean: [f32; 3],
    std: [f32; 3],
}

impl Network {
    /// The network that `tensors`, f32 under torch's names, are the weights of, on `device` without its autodiff.
    ///
    /// # Errors
    /// When no network has such names, or a tensor is missing, too many, of another shape or not finite.
    pub fn build(tensors: BTreeMap<String, TensorData>, device: &Device) -> Result<Self, NetworkError> {
        let architecture = Architecture::recognise(&tensors)?;
        let mut source = Source { tensors, device: device.clone().without_autodiff() };
        let (normalise, stem, blocks, linears, pool) = match architecture {
            Architecture::Crown { width, stages } => {
                let stem = source.conv_with_bias("conv1", [3, width, 3], 2, 1)?;
                let mut blocks = Vec::new();
                for stage in 1..=stages {
                    let input = if stage == 1 { width } else { 2 * width };
                    blocks.push(source.crown_block(&format!("layer{stage}.0"), [input, 2 * width], 2)?);
                    blocks.push(source.crown_block(&format!("layer{stage}.1"), [2 * width; 2], 1)?);
                }
                let side = 16 >> stages;
                let linears = vec![
                    source.linear("linear1", [2 * width * side * side, 100])?,
                    source.linear("linear2", [100, 10])?,
                ];
                (Some(source.normalise(&CIFAR)), vec![stem], blocks, linears, false)
            }
            Architecture::CnnA => {
                let stem =
                    vec![source.conv_with_bias("0", [3, 16, 4], 2, 1)?, source.conv_with_bias("2", [16, 32, 4], 2, 1)?];
                let linears = vec![source.linear("5", [2048, 100])?, source.linear("7", [100, 10])?];
                (Some(source.normalise(&CNN_A)), stem, Vec::new(), linears, false)
            }
            Architecture::Cifar { blocks } => {
                let stem = source.conv_with_norm("conv1", "bn1", [3, 16], 1)?;
                let mut made = Vec::new();
                for (stage, width) in [16, 32, 64].into_iter().enumerate() {
                    for at in 0..blocks {
                        let (input, stride) = if stage > 0 && at == 0 { (width / 2, 2) } else { (width, 1) };
                        made.push(source.cifar_block(&format!("layer{}.{at}", stage + 1), [input, width], stride)?);
                    }
                }
                (Some(source.normalise(&IMAGENET)), vec![stem], made, vec![source.linear("linear", [64, 10])?], true)
            }
            Architecture::Small { widths: [first, second], features, classes } => {
                let stem = vec![
                    source.conv_with_bias("conv1", [3, first, 3], 1, 1)?,
                    source.conv_with_bias("conv2", [first, second, 3], 2, 1)?,
                ];
                (None, stem, Vec::new(), vec![source.linear("linear", [features, classes])?], false)
            }
        };
        match source.tensors.into_keys().next() {
            Some(name) => Err(Misfit::Extra { name }.into()),
            None => Ok(Self { architecture, normalise, stem, blocks, pool, linears }),
        }
    }
}

/// What is left to be built from.
struct Source {
    tensors: BTreeMap<String, TensorData>,
    device: Device,
}

impl Source {
    fn tensor<const D: usize>(&mut self, name: String, shape: [usize; D]) -> Result<Tensor<D>, Misfit> {
        Ok(Tensor::from_data(take(&mut self.tensors, name, &shape)?, &self.device))
    }

    /// `[in, out, kernel]`; what follows is for the caller to add.
    fn conv(
        &mut self,
        name: &str,
        [input, output, kernel]: [usize; 3],
        stride: usize,
        padding: usize,
    ) -> Result<Conv, Misfit> {
        let weight = self.tensor(format!("{name}.weight"), [output, input, kernel, kernel])?;
        Ok(Conv { weight, stride, padding, affine: None })
    }

    fn conv_with_bias(
        &mut self,
        name: &str,
        shape @ [_, output, _]: [usize; 3],
        stride: usize,
        padding: usize,
    ) -> Result<Conv, Misfit> {
        let conv = self.conv(name, shape, stride, padding)?;
        let bias = self.tensor(format!("{name}.bias"), [output])?;
        let unit = Affine { bias, ..self.unit(output) };
        Ok(Conv { affine: Some(unit), ..conv })
    }

    /// A 3x3 without bias.
    fn conv_with_norm(
        &mut self,
        name: &str,
        norm: &str,
        [input, output]: [usize; 2],
        stride: usize,
    ) -> Result<Conv, Misfit> {
        let conv = self.conv(name, [input, output, 3], stride, 1)?;
        let mut of = |what: &str| self.tensor(format!("{norm}.{what}"), [output]);
        let affine =
            Affine { weight: of("weight")?, bias: of("bias")?, mean: of("running_mean")?, var: of("running_var")? };
        Ok(Conv { affine: Some(affine), ..conv })
    }

    fn crown_block(&mut self, name: &str, [input, output]: [usize; 2], stride: usize) -> Result<Block, Misfit> {
        let shortcut = if stride == 1 && input == output {
            None
        } else {
            Some(self.conv_with_bias(&format!("{name}.shortcut.0"), [input, output, 1], stride, 0)?)
        };
        Ok(Block {
            conv1: self.conv_with_bias(&format!("{name}.conv1"), [input, output, 3], stride, 1)?,
            conv2: self.conv_with_bias(&format!("{name}.conv2"), [output, output, 3], 1, 1)?,
            shortcut,
        })
    }

    fn cifar_block(&mut self, name: &str, [input, output]: [usize; 2], stride: usize) -> Result<Block, Misfit> {
        let (conv1, bn1) = (format!("{name}.conv1"), format!("{name}.bn1"));
        let (conv2, bn2) = (format!("{name}.conv2"), format!("{name}.bn2"));
        Ok(Block {
            conv1: self.conv_with_norm(&conv1, &bn1, [input, output], stride)?,
            conv2: self.conv_with_norm(&conv2, &bn2, [output, output], 1)?,
            shortcut: (input != output).then(|| self.option_a([input, output], stride)),
        })
    }

    /// Every `stride`-th pixel between channels of zeros: a 1x1 convolution with ones where channels meet.
    fn option_a(&self, [input, output]: [usize; 2], stride: usize) -> Conv {
        let mut ones = vec![0f32; output * input];
        for channel in 0..input {
            ones[((output - input) / 2 + channel) * input + channel] = 1.0;
        }
        let weight = Tensor::from_data(TensorData::new(ones, [output, input, 1, 1]), &self.device);
        Conv { weight, stride, padding: 0, affine: None }
    }

    fn linear(&mut self, name: &str, [input, output]: [usize; 2]) -> Result<Linear, Misfit> {
        let weight: Tensor<2> = self.tensor(format!("{name}.weight"), [output, input])?;
        let bias: Tensor<1> = self.tensor(format!("{name}.bias"), [output])?;
        Ok(Linear { weight: weight.transpose(), bias: bias.reshape([1, output]) })
    }

    fn normalise(&self, Statistics { mean, std }: &Statistics) -> Affine {
        let three = |values: [f32; 3]| Tensor::from_data(TensorData::new(values.to_vec(), [3]), &self.device);
        Affine { mean: three(*mean), weight: three(std.map(f32::recip)), ..self.unit(3) }
    }

    /// Changes nothing: the variance and what is added to it are 1, in f32 too.
    fn unit(&self, channels: usize) -> Affine {
        let zeros = Tensor::zeros([channels], &self.device);
        let ones = Tensor::ones([channels], &self.device);
        let var = ones.clone().sub_scalar(BATCH_NORM_EPS);
        Affine { weight: ones, bias: zeros.clone(), mean: zeros, var }
    }
}
