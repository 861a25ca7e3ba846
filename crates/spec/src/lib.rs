//! Plain data of Gabion: what can be written in a recipe or a manifest, and nothing that computes.
//!
//! `no_std` + `alloc`, depends on serde alone, does no IO and knows no tensor. Every type refuses unknown fields,
//! so that a misspelt key in a recipe is an error and never a silent default.
#![no_std]
extern crate alloc;

mod adapt;
mod attack;
mod augment;
mod encoder;
mod evaluate;
mod finetune;
mod invalid;
mod manifest;
mod misfit;
mod pixels;
mod recipe;
mod text;
mod threat;

pub use adapt::{Adapt, Budget, Descent, LocalObjective, Scope, Statistics, Tolerance};
pub use attack::{Attack, Norm, Objective, Start};
pub use augment::{Augment, Blur, BlurFilter, Crop, Draw, Jitter, JitterOp, Solarize};
pub use encoder::{Depth, Encoder, Input, Projector, Stem};
pub use evaluate::{Evaluate, Protocol};
pub use finetune::{AdversarialLoss, FineTune};
pub use invalid::Invalid;
pub use manifest::{Claim, FORMAT_VERSION, Head, HeadKind, Manifest, Precision, Weights};
pub use misfit::Misfit;
pub use pixels::{ParsePixelsError, Pixels};
pub use recipe::{Arithmetic, Guard, Loss, Optimizer, Pretrain, Probe, Schedule};
pub use text::one_line;
pub use threat::{DeltaReset, Threat};
