//! Networks whose weights others trained, for inference and for gradients of the input: what attacks are compared on.
//!
//! | [`Architecture`] | network | from |
//! |---|---|---|
//! | `Crown` | a 3x3 of stride 2, one or two stages of two blocks (`resnet2b`, `resnet4b`), biases instead of batch norm | <https://github.com/Verified-Intelligence/alpha-beta-CROWN>, `complete_verifier/model_defs.py` |
//! | `CnnA` | two 4x4 convolutions of stride 2, two linear layers | the same repository |
//! | `Cifar` | He et al. 2016 with shortcuts of option A (`resnet20`, `resnet56`) | <https://github.com/akamaster/pytorch_resnet_cifar10> |
//! | `Small` | two 3x3 convolutions and a linear layer | `tests/golden/autoattack.py` |
//!
//! All of them are some convolutions, some residual blocks and some linear layers, so there is one [`Network`]. Its
//! weights are frozen. `bench/peers/networks.py` has the same networks in PyTorch.

mod build;
mod freeze;

use crate::ops;
use burn::Tensor;
use burn::tensor::TensorData;
use burn::tensor::activation::relu;
use gabion_spec::Arithmetic;
use std::collections::BTreeMap;
use std::fmt;

pub use crate::weights::Misfit;

/// The networks that there are, told apart by names and shapes of tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// `stages` of two blocks, twice `width` wide; `resnet2b` has 1 and 8, `resnet4b` 2 and 16.
    #[allow(missing_docs)]
    Crown { width: usize, stages: usize },
    /// Two 4x4 convolutions, two linear layers.
    CnnA,
    /// Three stages of `blocks` blocks; `resnet20` has 3, `resnet56` has 9.
    #[allow(missing_docs)]
    Cifar { blocks: usize },
    /// Two 3x3 convolutions of these widths, then `features` inputs of a linear layer.
    #[allow(missing_docs)]
    Small { widths: [usize; 2], features: usize, classes: usize },
}

impl Architecture {
    /// Which network has such tensors, if one has.
    ///
    /// # Errors
    /// When the names are those of no network here.
    pub fn recognise(tensors: &BTreeMap<String, TensorData>) -> Result<Self, NetworkError> {
        let size = |name: &str, axis: usize| tensors.get(name).and_then(|data| data.shape().get(axis).copied());
        let has = |name: &str| tensors.contains_key(name);
        if let (Some(width), true, true) = (size("conv1.weight", 0), has("layer1.0.conv1.bias"), has("linear2.weight"))
        {
            return Ok(Self::Crown { width, stages: if has("layer2.0.conv1.weight") { 2 } else { 1 } });
        }
        if has("layer3.0.bn1.running_var") {
            let blocks = (0..).take_while(|at| has(&format!("layer1.{at}.conv1.weight"))).count();
            return Ok(Self::Cifar { blocks });
        }
        if has("0.weight") && has("7.weight") {
            return Ok(Self::CnnA);
        }
        let widths = (size("conv1.weight", 0), size("conv2.weight", 0));
        if let ((Some(first), Some(second)), Some(features), Some(classes)) =
            (widths, size("linear.weight", 1), size("linear.weight", 0))
        {
            return Ok(Self::Small { widths: [first, second], features, classes });
        }
        Err(NetworkError::Unknown { names: tensors.keys().take(4).cloned().collect() })
    }
}

/// Tensors that are not a network's.
#[derive(Clone, Debug, PartialEq)]
pub enum NetworkError {
    /// The names fit no network.
    Unknown {
        /// The first few of them.
        names: Vec<String>,
    },
    /// One tensor does not fit the network that the names say.
    Misfit(Misfit),
}

impl fmt::Display for NetworkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { names } if names.is_empty() => write!(f, "there is no tensor: name a file with weights"),
            Self::Unknown { names } => {
                let names = names.join("`, `");
                write!(
                    f,
                    "no network known here has tensors `{names}`: resnet2b, resnet4b, cnn_a, resnet20, resnet56 are"
                )
            }
            Self::Misfit(misfit) => misfit.fmt(f),
        }
    }
}

impl std::error::Error for NetworkError {}

impl From<Misfit> for NetworkError {
    fn from(misfit: Misfit) -> Self {
        Self::Misfit(misfit)
    }
}

/// A frozen network.
#[derive(Clone, Debug)]
pub struct Network {
    architecture: Architecture,
    normalise: Option<Affine>,
    stem: Vec<Conv>,
    blocks: Vec<Block>,
    /// Whether the last activations are averaged over their pixels; if not, every pixel is a feature.
    pool: bool,
    linears: Vec<Linear>,
}

impl Network {
    /// Which one it is.
    pub fn architecture(&self) -> Architecture {
        self.architecture
    }

    /// Logits; gradients reach `x` where it has a graph, and nothing else. An image's logits depend on no other image.
    ///
    /// # Shapes
    /// - `x`: `[batch, 3, height, width]` in `[0, 1]`, 32 by 32 but for [`Architecture::Small`]
    /// - output: `[batch, classes]`
    ///
    /// # Panics
    /// When an image is not of the size that the first linear layer was made for.
    pub fn logits(&self, x: Tensor<4>) -> Tensor<2> {
        let mut x = match &self.normalise {
            Some(normalise) => normalise.forward(x, None, false),
            None => x,
        };
        for conv in &self.stem {
            x = conv.forward(x, None, true);
        }
        for block in &self.blocks {
            x = block.forward(x);
        }
        let mut x = if self.pool { ops::global_average_pool(x) } else { x.flatten(1, 3) };
        for (at, linear) in self.linears.iter().enumerate() {
            x = linear.forward(if at == 0 { x } else { relu(x) });
        }
        x
    }
}

/// `(x - mean) / sqrt(var + eps) * weight + bias` of each channel: a frozen batch normalisation, a bias or the
/// normalisation of the input. One pass with the sum and the ReLU behind it.
#[derive(Clone, Debug)]
struct Affine {
    weight: Tensor<1>,
    bias: Tensor<1>,
    mean: Tensor<1>,
    var: Tensor<1>,
}

impl Affine {
    fn forward(&self, x: Tensor<4>, residual: Option<Tensor<4>>, relu: bool) -> Tensor<4> {
        let Self { weight, bias, mean, var } = self.clone();
        ops::batch_norm_frozen(x, weight, bias, [mean, var], residual, relu)
    }
}

/// A convolution and what follows it.
#[derive(Clone, Debug)]
struct Conv {
    /// `[out, in, kernel, kernel]`.
    weight: Tensor<4>,
    stride: usize,
    padding: usize,
    /// Its bias or its batch normalisation.
    affine: Option<Affine>,
}

impl Conv {
    fn forward(&self, x: Tensor<4>, residual: Option<Tensor<4>>, relu: bool) -> Tensor<4> {
        let y = ops::conv2d(x, self.weight.clone(), self.stride, self.padding, Arithmetic::F32);
        match &self.affine {
            Some(affine) => affine.forward(y, residual, relu),
            None => y,
        }
    }
}

/// Two convolutions and a way around them.
#[derive(Clone, Debug)]
struct Block {
    conv1: Conv,
    conv2: Conv,
    /// None where the input itself is added.
    shortcut: Option<Conv>,
}

impl Block {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [x, around] = ops::fork(x);
        let around = match &self.shortcut {
            Some(shortcut) => shortcut.forward(around, None, false),
            None => around,
        };
        self.conv2.forward(self.conv1.forward(x, None, true), Some(around), true)
    }
}

#[derive(Clone, Debug)]
struct Linear {
    /// `[in, out]`, torch's turned around.
    weight: Tensor<2>,
    /// `[1, out]`.
    bias: Tensor<2>,
}

impl Linear {
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let (found, expected) = (x.dims()[1], self.weight.dims()[0]);
        assert_eq!(found, expected, "features of the images (left), inputs of the linear layer (right)");
        x.matmul(self.weight.clone()) + self.bias.clone()
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests;
