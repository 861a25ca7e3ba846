//! Adversarial fine-tuning: what robust self-supervised encoders are measured by beside a linear head.
//!
//! Constants are those of three public protocols, read at these commits: ACL (Jiang et al. 2020,
//! <https://github.com/VITA-Group/Adversarial-Contrastive-Learning>, 399eabd, `train_trades.py`), DynACL (Luo et al. 2023,
//! <https://github.com/PKU-ML/DYNACL>, 7d143db, `test_LF.py` and `test_AFF.py`), DeACL (Zhang et al. 2022,
//! <https://github.com/pantheon5100/DeACL>, 3fb81e3, `adv_finetune.py`).
//!
//! | | ALF, DynACL | ALF, DeACL | AFF, ACL and DynACL | AFF, DeACL |
//! |---|---|---|---|---|
//! | loss | cross-entropy | TRADES, beta 6 | TRADES, beta 6 | TRADES, beta 6 |
//! | rate, a tenth at | 0.01, epochs 10, 20 | 0.01, 15, 20 | 0.1, 15, 20 | 0.01, 15, 20 |
//! | batch, epochs | 512, 25 | 512, 25 | 128, 25 | 512, 25 |
//! | batch normalisation | running statistics | of the batch | of the batch | of the batch |
//! | head's start | zero | torch's | zero | torch's |
//!
//! DynACL keeps batch statistics of clean and of attacked images apart, which a bundle cannot hold; ACL shares them, as here.
//! Alike in all: SGD with momentum 0.9 and weight decay 2e-4 of every parameter, no Nesterov; 10 steps of 2/255 within
//! 8/255, made at running statistics, the last iterate taken; random crops after padding by 4, flips.
//!
//! [`FineTune::ALF`] is DynACL's, whose encoder stays as it was: statistics of the batch, as DeACL's ALF has them, change
//! what is called frozen. [`FineTune::AFF`] is ACL's and DynACL's, which agree, but for DynACL's start of the attack at
//! the image itself: with one set of statistics the divergence has no gradient there. Its rate is DeACL's: at 0.1 the loss
//! first rises here, perhaps because the feature is 1,024 or 4,096 values out of a batch normalisation and not 512 out of
//! a pooling. ACL's README asks for 100 epochs on CIFAR-10, with a tenth at 40 and 60. Both heads start at zero.

use crate::Pixels;
use crate::invalid::{Invalid, ensure, not_negative, ordered, positive, probability};
use alloc::format;
use serde::{Deserialize, Serialize};

/// Training on adversarial examples that are made anew for every minibatch against the weights as they are.
///
/// Whether the encoder moves is not said here: [`crate::Probe::Alf`] leaves it frozen, [`crate::Probe::Aff`] trains it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FineTune {
    /// What is minimised, and what the attack ascends.
    pub objective: AdversarialLoss,
    /// Learning rate at the start.
    pub rate: f64,
    /// Shares of the training after each of which the rate is a tenth of what it was.
    pub decay: [f64; 2],
    /// Momentum of SGD.
    pub momentum: f64,
    /// Weight decay of every parameter that moves, biases and norms among them.
    pub weight_decay: f64,
    /// Images in a minibatch; what does not fill one is left out of an epoch.
    pub batch: u32,
    /// Passes over the training images.
    pub epochs: u32,
    /// Use only so many training images, the same number of each class as far as that goes; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<u32>,
    /// Black pixels on each side before a crop of the image's own size; 0 shows the whole image.
    pub padding: u32,
    /// Probability of a horizontal flip.
    pub flip: f64,
    /// Budget of the attack.
    pub epsilon: Pixels,
    /// Step of the attack.
    pub step: Pixels,
    /// Steps of the attack.
    pub steps: u32,
}

/// The loss of fine-tuning.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum AdversarialLoss {
    /// Cross-entropy of attacked images, whose attack starts anywhere in the ball (Madry et al. 2018).
    Plain,
    /// `cross-entropy(f(x)) + beta KL(f(x) || f(x'))`, where the attack ascends the divergence from a start of normal
    /// noise with deviation 0.001 (Zhang et al. 2019).
    Trades {
        /// Weight of the divergence; 6 in the paper.
        #[serde(default = "six")]
        beta: f64,
    },
}

impl AdversarialLoss {
    /// TRADES with the paper's weight.
    pub const TRADES: Self = Self::Trades { beta: 6.0 };
}

fn six() -> f64 {
    6.0
}

impl FineTune {
    /// Adversarial linear fine-tuning as DynACL's code has it.
    pub const ALF: Self = Self {
        objective: AdversarialLoss::Plain,
        rate: 0.01,
        decay: [0.4, 0.8],
        momentum: 0.9,
        weight_decay: 2e-4,
        batch: 512,
        epochs: 25,
        images: None,
        padding: 4,
        flip: 0.5,
        epsilon: Pixels::of_255(8.0),
        step: Pixels::of_255(2.0),
        steps: 10,
    };

    /// Adversarial full fine-tuning as ACL's and DynACL's code has it, at DeACL's rate.
    pub const AFF: Self =
        Self { objective: AdversarialLoss::TRADES, rate: 0.01, decay: [0.6, 0.8], batch: 128, ..Self::ALF };

    /// The rate of the 0-based optimizer step `step` of `steps`.
    #[allow(clippy::cast_precision_loss)] // steps are far below 2^52
    pub fn rate_at(&self, step: u64, steps: u64) -> f64 {
        // Half a step of slack: 0.6 of 10 steps are 6, whatever the rounding of 0.6.
        let passed = self.decay.iter().filter(|&&share| step as f64 + 0.5 >= share * steps as f64).count();
        self.rate * [1.0, 0.1, 0.01][passed]
    }

    /// Checks that the keys make sense.
    ///
    /// # Errors
    /// The first key that does not.
    pub fn validate(&self) -> Result<(), Invalid> {
        positive(self.rate, "rate")?;
        ordered(self.decay, 0.0, 1.0, "decay")?;
        ensure((0.0..1.0).contains(&self.momentum), "momentum", || "must be at least 0 and below 1".into())?;
        not_negative(self.weight_decay, "weight_decay")?;
        ensure(self.batch > 1, "batch", || "batch normalisation needs at least 2 images".into())?;
        ensure(self.epochs > 0, "epochs", || "0 epochs train nothing".into())?;
        ensure(self.padding <= 256, "padding", || format!("{} pixels are more than 256", self.padding))?;
        probability(self.flip, "flip")?;
        let budget = |pixels: Pixels, key| {
            ensure((0.0..=1.0).contains(&pixels.0), key, || "must be within 0 and 1, such as \"8/255\"".into())
        };
        budget(self.epsilon, "epsilon")?;
        budget(self.step, "step")?;
        ensure(self.steps > 0, "steps", || "0 steps attack nothing".into())?;
        match self.objective {
            AdversarialLoss::Plain => Ok(()),
            AdversarialLoss::Trades { beta } => not_negative(beta, "objective.beta"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_falls_where_the_published_schedules_do() {
        // 25 epochs of 391 minibatches.
        for (recipe, epochs) in [(FineTune::ALF, [10, 20]), (FineTune::AFF, [15, 20])] {
            let at = |step: u64| recipe.rate_at(step, 25 * 391) / recipe.rate;
            let [first, second] = epochs.map(|epoch| epoch * 391);
            let rates = [0, first - 1, first, second - 1, second, 25 * 391 - 1].map(at);
            for (found, expected) in rates.into_iter().zip([1.0, 1.0, 0.1, 0.1, 0.01, 0.01]) {
                assert!((found - expected).abs() < 1e-12, "{rates:?}");
            }
        }
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        assert_eq!((FineTune::ALF.validate(), FineTune::AFF.validate()), (Ok(()), Ok(())));
        for (key, recipe) in [
            ("rate", FineTune { rate: f64::NAN, ..FineTune::AFF }),
            ("decay", FineTune { decay: [0.8, 0.4], ..FineTune::AFF }),
            ("batch", FineTune { batch: 1, ..FineTune::AFF }),
            ("flip", FineTune { flip: 1.5, ..FineTune::AFF }),
            ("epsilon", FineTune { epsilon: Pixels(1.5), ..FineTune::AFF }),
            ("steps", FineTune { steps: 0, ..FineTune::AFF }),
            ("objective.beta", FineTune { objective: AdversarialLoss::Trades { beta: -1.0 }, ..FineTune::AFF }),
        ] {
            assert_eq!(recipe.validate().unwrap_err().key, key);
        }
    }
}
