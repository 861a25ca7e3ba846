//! The manifest of a bundle: a folder with `model.safetensors` and `manifest.json`.

use crate::{Adapt, Encoder, FineTune, Input, Pretrain, Probe, Projector};
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// The bundle format that this version writes, and the newest that it reads.
pub const FORMAT_VERSION: u32 = 1;

/// What a bundle is, where its numbers come from and what was measured of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT_VERSION`] of the writer.
    pub format: u32,
    /// A name for people.
    pub name: String,
    /// The network.
    pub encoder: Encoder,
    /// Its projector.
    pub projector: Projector,
    /// What it takes.
    pub input: Input,
    /// Names of the classes, in the order of the logits; empty before a head is there.
    pub classes: Vec<String>,
    /// The classifier, when there is one.
    pub head: Option<Head>,
    /// How the encoder was pretrained.
    pub pretrain: Option<Pretrain>,
    /// How the encoder was fine-tuned after that, the last one last; empty when it was not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub finetune: Vec<FineTune>,
    /// How encoder and head were adapted to local images after that, the last one last; empty when they were not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adapted: Vec<Adapt>,
    /// The data set that it was pretrained on.
    pub data: Option<String>,
    /// The weights file.
    pub weights: Weights,
    /// Measured results.
    #[serde(default)]
    pub claims: Vec<Claim>,
    /// Version of the program that wrote the bundle.
    pub writer: String,
}

impl Manifest {
    /// Adds a claim, in place of an older one of the same measurement on the same data.
    pub fn claim(&mut self, claim: Claim) {
        self.claims.retain(|old| old.what != claim.what || old.data != claim.data);
        self.claims.push(claim);
    }
}

/// The classifier on the feature.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// What its input is.
    pub kind: HeadKind,
    /// How it was trained.
    pub recipe: Probe,
}

/// What a head was trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeadKind {
    /// The feature of the whole image.
    Linear,
    /// The feature of attacked whole images.
    Robust,
    /// The same by adversarial linear fine-tuning.
    Alf,
    /// The same by adversarial full fine-tuning, with the encoder of this bundle.
    Aff,
    /// The mean feature over views.
    Patches,
}

/// The weights file of a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weights {
    /// File name inside the bundle; no path.
    pub file: String,
    /// SHA-256 of the file, lowercase hexadecimal.
    pub sha256: String,
    /// Stored precision.
    pub precision: Precision,
}

/// Stored precision of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// IEEE half.
    F16,
    /// IEEE single.
    F32,
}

/// A measured accuracy, with what is needed to measure it again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// What was measured, such as `clean` or `pgd-20 8/255`.
    pub what: String,
    /// The data set and split.
    pub data: String,
    /// Images.
    pub images: u64,
    /// Images classified right.
    pub right: u64,
    /// The command.
    pub command: String,
}
