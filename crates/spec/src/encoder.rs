//! Shapes of the network.

use serde::{Deserialize, Serialize};

/// A residual network as torchvision defines it, with a width multiplier and a choice of stem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Encoder {
    /// Which residual network.
    pub depth: Depth,
    /// Channels of the first stage; 64 is torchvision's and the paper's.
    pub width: u32,
    /// The first layers.
    pub stem: Stem,
}

/// Depth of the residual network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Depth {
    /// BasicBlock 2-2-2-2.
    Resnet18,
    /// BasicBlock 3-4-6-3.
    Resnet34,
    /// Bottleneck 3-4-6-3, stride on the 3x3 (torchvision's v1.5).
    Resnet50,
}

impl Depth {
    /// Blocks in each of the four stages.
    pub const fn blocks(self) -> [usize; 4] {
        match self {
            Self::Resnet18 => [2, 2, 2, 2],
            Self::Resnet34 | Self::Resnet50 => [3, 4, 6, 3],
        }
    }

    /// Channels out of a block over the stage's width.
    pub const fn expansion(self) -> usize {
        match self {
            Self::Resnet18 | Self::Resnet34 => 1,
            Self::Resnet50 => 4,
        }
    }
}

/// The first layers of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stem {
    /// 3x3 convolution of stride 1, no pooling: for 32x32 images.
    Cifar,
    /// 7x7 convolution of stride 2 and a 3x3 max-pool of stride 2: for photographs.
    Imagenet,
}

impl Encoder {
    /// Length of the pooled output, `8 * width * expansion`.
    pub const fn features(&self) -> usize {
        self.width as usize * 8 * self.depth.expansion()
    }
}

/// The two-part projector after the encoder. The output of its first part is the feature that evaluations use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Projector {
    /// Length of the feature (4096 in the paper).
    pub hidden: u32,
    /// Length of the embedding that the loss sees (1024 in the paper).
    pub output: u32,
}

/// What the network takes: RGB in `[0, 1]`, `[batch, 3, height, width]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Rows.
    pub height: u32,
    /// Columns.
    pub width: u32,
}
