//! CF-AMC-SSL in Burn: the encoder, the losses, the attacks, the optimizer and the training steps.
//!
//! Reads like the paper ("An Empirical Study of Accuracy-Robustness Tradeoff and Training Efficiency in
//! Self-Supervised Learning", Ghofrani and Jamshidi 2025, arXiv 2501.03507). No IO, no clock, no choice of device, no
//! augmentation randomness: images come in as tensors in `[0, 1]`, numbers go out.

pub mod adapt;
pub mod attack;
pub mod encoder;
pub mod finetune;
mod init;
pub mod loss;
pub mod networks;
pub mod nn;
mod ops;
pub mod optim;
pub mod probe;
pub mod train;
pub mod weights;

pub use encoder::{Head, Model};
pub use nn::Mode;
