//! Threat models of pretraining.

use crate::Pixels;
use serde::{Deserialize, Serialize};

/// How pretraining perturbs its views; L-infinity, within `[0, 1]`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Threat {
    /// No perturbation.
    Standard,
    /// PGD adversarial training (Madry et al. 2018): attack the loss, then descend on the attacked views.
    Pgd {
        /// Budget.
        epsilon: Pixels,
        /// Step of the attack.
        step: Pixels,
        /// Steps of the attack, from a zero start.
        steps: u32,
        /// The reference code's quirk: the attack's weight gradients are summed into the update.
        #[serde(default)]
        accumulate_attack_gradients: bool,
    },
    /// Free adversarial training (Shafahi et al. 2019): one backward pass serves the weights and the perturbation.
    Free {
        /// Budget.
        epsilon: Pixels,
        /// Ascent step.
        step: Pixels,
        /// How often a minibatch is replayed (the paper's m).
        replays: u32,
        /// Bring the carried perturbation into the new minibatch's box before its first replay. The reference code
        /// does not, and its first replay may leave `[0, 1]`.
        #[serde(default = "yes")]
        project_first: bool,
        /// When the perturbation goes back to zero.
        #[serde(default)]
        delta_reset: DeltaReset,
    },
}

fn yes() -> bool {
    true
}

/// When a carried perturbation goes back to zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeltaReset {
    /// Carried by position across minibatches and epochs, as in the paper.
    #[default]
    Never,
    /// With every minibatch.
    PerBatch,
}

impl Threat {
    /// Optimizer steps that one minibatch makes.
    pub const fn replays(&self) -> u32 {
        match self {
            Self::Free { replays, .. } => *replays,
            Self::Standard | Self::Pgd { .. } => 1,
        }
    }

    /// Forward and backward passes that one minibatch costs.
    pub const fn passes(&self) -> u32 {
        match self {
            Self::Standard => 1,
            Self::Pgd { steps, .. } => *steps + 1,
            Self::Free { replays, .. } => *replays,
        }
    }
}
