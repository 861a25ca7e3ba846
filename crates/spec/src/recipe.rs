//! Recipes: everything that decides a result, so that a result can be made again.

use crate::invalid::{Invalid, ensure, not_negative, positive};
use crate::{Augment, Encoder, FineTune, Pixels, Projector, Threat};
use alloc::format;
use alloc::string::String;
use core::fmt;
use core::str::FromStr;
use serde::{Deserialize, Serialize};

/// Self-supervised pretraining.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pretrain {
    /// Seeds the weights, the order of the images and the views.
    #[serde(default)]
    pub seed: u64,
    /// Passes over the training images.
    pub epochs: u32,
    /// Images in a minibatch; a step sees `views * batch` crops.
    pub batch: u32,
    /// Views of each image.
    pub views: u32,
    /// Use only the first so many training images of a fixed shuffle; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<u32>,
    /// Decay of the running average of the weights that the bundle is made from; the last weights when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub average: Option<f64>,
    /// What convolutions and linear layers compute in.
    #[serde(default, skip_serializing_if = "Arithmetic::is_f32")]
    pub arithmetic: Arithmetic,
    /// The network.
    pub encoder: Encoder,
    /// Its projector.
    pub projector: Projector,
    /// What the views look like.
    #[serde(default)]
    pub augment: Augment,
    /// What is minimised.
    pub loss: Loss,
    /// How the views are perturbed.
    pub threat: Threat,
    /// How the weights move.
    #[serde(default)]
    pub optimizer: Optimizer,
    /// What stops a run that has gone wrong.
    #[serde(default)]
    pub guard: Guard,
}

/// What convolutions and linear layers compute in while a network is trained. Sums, weights, gradients and everything
/// between these layers are f32 either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arithmetic {
    /// IEEE single.
    #[default]
    F32,
    /// Products of numbers rounded to bf16 (8 bits of mantissa), and what convolutions put out kept so for the way back: less
    /// memory, and on a CPU with instructions for it less time. The CPU device alone knows it.
    Bf16,
}

impl fmt::Display for Arithmetic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        })
    }
}

impl FromStr for Arithmetic {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = [Self::F32, Self::Bf16].into_iter().zip(Self::NAMES).find(|(_, known)| *known == name);
        found.map(|(arithmetic, _)| arithmetic).ok_or_else(|| format!("`{name}` is not f32 or bf16"))
    }
}

impl Arithmetic {
    /// Their names, in order.
    pub const NAMES: [&str; 2] = ["f32", "bf16"];

    /// Whether it is the default.
    #[allow(clippy::trivially_copy_pass_by_ref)] // serde's calling convention
    pub fn is_f32(&self) -> bool {
        *self == Self::F32
    }
}

/// The self-supervised objective.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Loss {
    /// EMP-SSL: `invariance_weight * invariance + tcr_weight * (-total coding rate)` (Tong et al. 2023).
    EmpSsl {
        /// Weight of the invariance; 200 in the paper.
        #[serde(default = "two_hundred")]
        invariance_weight: f64,
        /// Weight of the coding rate; 1 in the paper.
        #[serde(default = "one")]
        tcr_weight: f64,
        /// The coding-rate constant, called eps in the reference code; 0.2 there.
        #[serde(default = "fifth")]
        distortion: f64,
    },
    /// SimCLR's NT-Xent over two views (Chen et al. 2020).
    SimClr {
        /// Softmax temperature; 0.07 in the reference code.
        #[serde(default = "supcon_temperature")]
        temperature: f64,
        /// Scale by `temperature / 0.07`, as SupCon's code and the reference do.
        #[serde(default = "yes")]
        supcon_scale: bool,
    },
}

fn two_hundred() -> f64 {
    200.0
}
fn one() -> f64 {
    1.0
}
fn fifth() -> f64 {
    0.2
}
fn supcon_temperature() -> f64 {
    0.07
}
fn yes() -> bool {
    true
}

/// SGD with Nesterov momentum under LARS in clip mode, and a cosine rate (METHOD section 4).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Optimizer {
    /// Peak learning rate; under LARS in clip mode a cap.
    pub rate: f64,
    /// Nesterov momentum.
    pub momentum: f64,
    /// Weight decay of parameters with more than one dimension.
    pub weight_decay: f64,
    /// LARS trust coefficient.
    pub trust_coefficient: f64,
    /// How the cosine is counted.
    pub schedule: Schedule,
}

impl Default for Optimizer {
    fn default() -> Self {
        Self {
            rate: 0.3,
            momentum: 0.9,
            weight_decay: 1e-4,
            trust_coefficient: 0.005,
            schedule: Schedule::PerStepLength,
        }
    }
}

/// How the cosine schedule is counted when a minibatch is replayed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// The length counts optimizer steps: from the peak to 0 once.
    #[default]
    PerStepLength,
    /// The reference code's quirk: the length counts minibatches while every replay steps, so that with m = 3 the
    /// rate runs from the peak to 0, back, and to 0 again.
    PerBatchLength,
}

/// A PGD probe on a fixed batch that runs through training and catches catastrophic overfitting.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Guard {
    /// Minibatches between probes; 0 switches the probe off.
    pub every: u32,
    /// Images in the probe's held-out batch (as many again train its classifier).
    pub images: u32,
    /// Budget of the probe's attack.
    pub epsilon: Pixels,
    /// Steps of the probe's attack.
    pub steps: u32,
    /// A fall by more than so many points of robust accuracy under the best seen stops the run.
    pub drop_points: f64,
}

impl Default for Guard {
    fn default() -> Self {
        Self { every: 0, images: 256, epsilon: Pixels::of_255(8.0), steps: 5, drop_points: 20.0 }
    }
}

/// Training of a classifier on the encoder's feature, which stays as it is but under [`Probe::Aff`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "head", rename_all = "lowercase", deny_unknown_fields)]
pub enum Probe {
    /// Linear on the whole image: Adam (METHOD section 5, SLF).
    Linear {
        /// Learning rate.
        rate: f64,
        /// Images in a minibatch.
        batch: u32,
        /// Passes.
        epochs: u32,
    },
    /// Linear, trained on PGD examples made through the frozen encoder.
    Robust {
        /// Learning rate.
        rate: f64,
        /// Images in a minibatch.
        batch: u32,
        /// Passes.
        epochs: u32,
        /// Budget of the attack.
        epsilon: Pixels,
        /// Step of the attack.
        step: Pixels,
        /// Steps of the attack.
        steps: u32,
    },
    /// Linear on the mean feature over views: SGD with momentum and a cosine rate.
    Patches {
        /// Learning rate.
        rate: f64,
        /// Momentum.
        momentum: f64,
        /// Weight decay.
        weight_decay: f64,
        /// Images in a minibatch.
        batch: u32,
        /// Passes.
        epochs: u32,
        /// Views of each image.
        views: u32,
    },
    /// Adversarial linear fine-tuning: a linear head on attacked images, the encoder frozen.
    Alf(FineTune),
    /// Adversarial full fine-tuning: head and encoder on attacked images.
    Aff(FineTune),
    /// Weighted k nearest neighbours by cosine (Wu et al. 2018).
    Knn {
        /// Neighbours.
        k: u32,
        /// Temperature of the weights.
        temperature: f64,
    },
}

impl Pretrain {
    /// Checks that the keys make sense together.
    ///
    /// # Errors
    /// The first key that does not.
    pub fn validate(&self) -> Result<(), Invalid> {
        self.augment.validate()?;
        ensure(self.epochs > 0, "epochs", || "0 epochs train nothing".into())?;
        ensure(self.views > 0, "views", || "a step needs at least one view of each image".into())?;
        ensure(self.batch > 1, "batch", || "batch normalisation needs at least 2 images".into())?;
        ensure(self.images != Some(0), "images", || "0 images train nothing; leave the key out to use all".into())?;
        ensure(self.images.is_none_or(|images| images >= self.batch), "images", || {
            format!("{} images do not fill one batch of {}", self.images.unwrap_or(0), self.batch)
        })?;
        ensure(self.average.is_none_or(|decay| (0.0..1.0).contains(&decay)), "average", || {
            "the decay of the weight average must be at least 0 and below 1".into()
        })?;
        ensure((1..=1024).contains(&self.encoder.width), "encoder.width", || "must be within 1..=1024".into())?;
        ensure((1..=65_536).contains(&self.projector.hidden), "projector.hidden", || {
            "must be within 1..=65536".into()
        })?;
        ensure((1..=65_536).contains(&self.projector.output), "projector.output", || {
            "must be within 1..=65536".into()
        })?;
        match self.loss {
            Loss::EmpSsl { distortion, invariance_weight, tcr_weight } => {
                positive(distortion, "loss.distortion")?;
                not_negative(invariance_weight, "loss.invariance_weight")?;
                not_negative(tcr_weight, "loss.tcr_weight")?;
            }
            Loss::SimClr { temperature, .. } => {
                positive(temperature, "loss.temperature")?;
                ensure(self.views == 2, "views", || {
                    format!("loss.kind = \"sim-clr\" compares exactly 2 views, not {}", self.views)
                })?;
            }
        }
        match self.threat {
            Threat::Standard => {}
            Threat::Pgd { steps, step, epsilon, .. } => {
                ensure(steps > 0, "threat.steps", || "0 steps attack nothing; use threat.kind = \"standard\"".into())?;
                ensure(step.0 > 0.0 || epsilon.0 == 0.0, "threat.step", || "a step of 0 attacks nothing".into())?;
            }
            Threat::Free { replays, step, epsilon, .. } => {
                ensure(replays > 0, "threat.replays", || "a minibatch is replayed at least once".into())?;
                ensure(step.0 > 0.0 || epsilon.0 == 0.0, "threat.step", || "a step of 0 attacks nothing".into())?;
            }
        }
        let Optimizer { rate, momentum, weight_decay, trust_coefficient, .. } = self.optimizer;
        positive(rate, "optimizer.rate")?;
        ensure((0.0..1.0).contains(&momentum), "optimizer.momentum", || "must be at least 0 and below 1".into())?;
        not_negative(weight_decay, "optimizer.weight_decay")?;
        positive(trust_coefficient, "optimizer.trust_coefficient")?;
        ensure(self.guard.every == 0 || self.guard.images >= 16, "guard.images", || {
            "the probe needs at least 16 images".into()
        })?;
        let points = self.guard.drop_points;
        ensure((0.0..=100.0).contains(&points), "guard.drop_points", || {
            format!("{points} is not within 0..=100 points")
        })
    }
}
