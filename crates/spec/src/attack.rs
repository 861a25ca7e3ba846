//! Attacks on a finished classifier, as data.

use crate::Pixels;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use serde::{Deserialize, Serialize};

/// How the size of a perturbation is measured, on values in `[0, 1]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Norm {
    /// The greatest change of a value.
    #[default]
    Linf,
    /// The Euclidean length of the change.
    L2,
}

impl fmt::Display for Norm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Linf => "Linf",
            Self::L2 => "L2",
        })
    }
}

/// What an attack raises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Objective {
    /// Cross-entropy.
    #[default]
    CrossEntropy,
    /// Difference of logits ratio (Croce and Hein 2020): does not change when the logits are scaled. Fewer than three
    /// classes have none; the margin takes its place.
    Dlr,
    /// The greatest other logit less that of the label (Carlini and Wagner 2017).
    Margin,
}

/// Where an attack starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// At the image.
    #[default]
    Zero,
    /// Within the budget at random.
    Random,
}

/// One attack. Budgets and norms stand beside it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "attack", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Attack {
    /// Random perturbations of the full budget: what an attack has to beat.
    Noise {
        /// How many.
        draws: u32,
    },
    /// One step of the whole budget (Goodfellow et al. 2015).
    Fgsm {
        /// What it raises.
        objective: Objective,
    },
    /// Half of the budget at random, then one step of the other half (R+FGSM, Tramer et al. 2018).
    RandomFgsm {
        /// What it raises.
        objective: Objective,
    },
    /// Projected gradient descent (Madry et al. 2018), with momentum where it is not 0 (Dong et al. 2018).
    Pgd {
        /// What it raises.
        objective: Objective,
        /// Steps of a restart.
        steps: u32,
        /// Length of a step.
        step: Pixels,
        /// Restarts; each from a place of its own where the start is random.
        restarts: u32,
        /// Where a restart begins.
        start: Start,
        /// Decay of the accumulated gradient.
        momentum: f32,
        /// Draws that a gradient is averaged over, for classifiers that draw at random.
        eot: u32,
    },
    /// Auto-PGD (Croce and Hein 2020).
    Apgd {
        /// What it raises.
        objective: Objective,
        /// Iterations of a restart.
        iterations: u32,
        /// Random restarts.
        restarts: u32,
        /// Draws that a gradient is averaged over.
        eot: u32,
    },
    /// Auto-PGD on the targeted difference of logits ratio, one target after another.
    ApgdTargeted {
        /// Targets, from the second most probable class of the image on.
        targets: u32,
        /// Iterations for a target.
        iterations: u32,
        /// Random restarts for a target.
        restarts: u32,
        /// Draws that a gradient is averaged over.
        eot: u32,
    },
    /// Fast adaptive boundary, one target after another (Croce and Hein 2020, "Minimally distorted").
    FabTargeted {
        /// Targets, from the second most probable class of the image on.
        targets: u32,
        /// Iterations for a target.
        iterations: u32,
    },
    /// Random search that sees logits alone (Andriushchenko et al. 2020).
    Square {
        /// Forward passes.
        queries: u32,
    },
}

impl Attack {
    /// Auto-PGD on cross-entropy as AutoAttack runs it.
    pub const APGD_CE: Self = Self::Apgd { objective: Objective::CrossEntropy, iterations: 100, restarts: 1, eot: 1 };
    /// Auto-PGD on the difference of logits ratio.
    pub const APGD_DLR: Self = Self::Apgd { objective: Objective::Dlr, iterations: 100, restarts: 1, eot: 1 };
    /// Targeted Auto-PGD as AutoAttack runs it.
    pub const APGD_T: Self = Self::ApgdTargeted { targets: 9, iterations: 100, restarts: 1, eot: 1 };
    /// Targeted FAB as AutoAttack runs it.
    pub const FAB_T: Self = Self::FabTargeted { targets: 9, iterations: 100 };
    /// Square as AutoAttack runs it.
    pub const SQUARE: Self = Self::Square { queries: 5000 };

    /// The standard version of AutoAttack, in its order; each sees what the ones before it left.
    pub fn autoattack() -> Vec<Self> {
        vec![Self::APGD_CE, Self::APGD_T, Self::FAB_T, Self::SQUARE]
    }

    /// The version for classifiers that draw at random, gradients averaged over 20 draws.
    pub fn autoattack_rand() -> Vec<Self> {
        let apgd = |objective| Self::Apgd { objective, iterations: 100, restarts: 1, eot: 20 };
        vec![apgd(Objective::CrossEntropy), apgd(Objective::Dlr)]
    }

    /// The same from so many random starts, where it has restarts.
    #[must_use]
    pub fn restarted(self, times: u32) -> Self {
        match self {
            Self::Pgd { objective, steps, step, start, momentum, eot, .. } => {
                Self::Pgd { objective, steps, step, restarts: times, start, momentum, eot }
            }
            Self::Apgd { objective, iterations, eot, .. } => Self::Apgd { objective, iterations, restarts: times, eot },
            Self::ApgdTargeted { targets, iterations, eot, .. } => {
                Self::ApgdTargeted { targets, iterations, restarts: times, eot }
            }
            other => other,
        }
    }

    /// A short name, the field's own where there is one: `pgd-20`, `pgd-50x5`, `apgd-ce`, `square`.
    pub fn name(&self) -> String {
        let of = |objective: Objective| match objective {
            Objective::CrossEntropy => "",
            Objective::Dlr => "-dlr",
            Objective::Margin => "-margin",
        };
        let times = |restarts: u32| if restarts == 1 { String::new() } else { format!("x{restarts}") };
        let drawn = |eot: u32| if eot == 1 { String::new() } else { format!(" eot-{eot}") };
        // The usual length goes without saying.
        let long = |iterations: u32, restarts: u32| match (iterations, restarts) {
            (100, 1) => String::new(),
            _ => format!("-{iterations}{}", times(restarts)),
        };
        match *self {
            Self::Noise { draws } => format!("noise x{draws}"),
            Self::Fgsm { objective } => format!("fgsm{}", of(objective)),
            Self::RandomFgsm { objective } => format!("r+fgsm{}", of(objective)),
            Self::Pgd { objective, steps, restarts, momentum, eot, .. } => {
                let kind = if momentum == 0.0 { "pgd" } else { "mi-pgd" };
                format!("{kind}{}-{steps}{}{}", of(objective), times(restarts), drawn(eot))
            }
            Self::Apgd { objective, iterations, restarts, eot } => {
                let of = if objective == Objective::CrossEntropy { "-ce" } else { of(objective) };
                format!("apgd{of}{}{}", long(iterations, restarts), drawn(eot))
            }
            Self::ApgdTargeted { iterations, restarts, eot, .. } => {
                format!("apgd-t{}{}", long(iterations, restarts), drawn(eot))
            }
            Self::FabTargeted { iterations, .. } => format!("fab-t{}", long(iterations, 1)),
            Self::Square { queries: 5000 } => "square".into(),
            Self::Square { queries } => format!("square-{queries}"),
        }
    }
}
