//! Adaptation on a device: short free adversarial training of a finished classifier, or of a part of it, on local images.

use crate::invalid::{Invalid, ensure, not_negative, positive, probability};
use crate::{Augment, Pixels};
use alloc::format;
use serde::{Deserialize, Serialize};

/// Free adversarial training (Shafahi et al. 2019) of an opened bundle on local images: each minibatch is replayed, and
/// every replay's one backward pass moves the weights down and the perturbation up.
///
/// The rate falls to 0 along a cosine over the budget. [`Adapt::new`] has the defaults of each scope and objective, which
/// were chosen by experiment (`gabion bench adapt`); a recipe that leaves a key out gets that of the default recipe,
/// supervised and of the last block.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Adapt {
    /// Seeds the order of the images, their views, the choice of the guard set and its attack.
    pub seed: u64,
    /// What moves.
    pub scope: Scope,
    /// What is minimised, and what the perturbation ascends.
    pub objective: LocalObjective,
    /// How long it goes on.
    pub budget: Budget,
    /// Images in a minibatch; all where there are fewer.
    pub batch: u32,
    /// How often a minibatch is replayed (the paper's m).
    pub replays: u32,
    /// Budget of the perturbation; 0 trains on the images as they are.
    pub epsilon: Pixels,
    /// Ascent step of the perturbation.
    pub step: Pixels,
    /// Share of the budget over which epsilon rises from 0 in a straight line.
    pub ramp: f64,
    /// How the weights move.
    pub optimizer: Descent,
    /// Learning rate at the start; under LARS a cap.
    pub rate: f64,
    /// What becomes of batch normalisation's running statistics.
    pub statistics: Statistics,
    /// How the images vary. When absent, supervised training crops and flips them, and EMP-SSL draws the views that the
    /// encoder was pretrained with. [`Augment::identity`] shows them as they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub augment: Option<Augment>,
    /// Share of source features in the head's loss, against forgetting; without any at hand it must be 0. The head is
    /// shown as many of them in a step as there are images.
    pub rehearsal: f64,
    /// Share of the weights from before in the result, which is the weighted mean of both (WiSE-FT, Wortsman et al. 2022):
    /// against forgetting, at the cost of some of what was learned.
    pub keep: f64,
    /// When the result is refused.
    pub guard: Tolerance,
}

/// What of a classifier moves. The rest keeps its weights to the bit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// The linear head.
    Head,
    /// The encoder's last residual block, the projector and the head.
    #[default]
    LastBlock,
    /// Everything.
    All,
}

impl Scope {
    /// All of them, rising.
    pub const ALL: [Self; 3] = [Self::Head, Self::LastBlock, Self::All];

    /// The name as it is written in recipes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::LastBlock => "last-block",
            Self::All => "all",
        }
    }
}

/// What adaptation minimises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum LocalObjective {
    /// Cross-entropy of the labels.
    #[default]
    Supervised,
    /// EMP-SSL, as in pretraining: needs no labels, and leaves the head as it is.
    EmpSsl {
        /// Views of each image.
        views: u32,
        /// Weight of the invariance.
        invariance_weight: f64,
        /// Weight of the coding rate.
        tcr_weight: f64,
        /// The coding-rate constant.
        distortion: f64,
    },
}

impl LocalObjective {
    /// EMP-SSL with the paper's weights over four views.
    pub const EMP_SSL: Self = Self::EmpSsl { views: 4, invariance_weight: 200.0, tcr_weight: 1.0, distortion: 0.2 };

    /// Rows that an image takes in a minibatch.
    pub const fn views(&self) -> u32 {
        match self {
            Self::Supervised => 1,
            Self::EmpSsl { views, .. } => *views,
        }
    }

    /// The name as it is written in recipes.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Supervised => "supervised",
            Self::EmpSsl { .. } => "emp-ssl",
        }
    }
}

/// How long adaptation goes on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Budget {
    /// So many seconds of training, the guard's attacks beside it not counted: the last step ends before them. How many
    /// steps that makes depends on the machine.
    Seconds {
        /// Seconds.
        seconds: f64,
    },
    /// So many optimizer steps, one a replay. Equal recipes and images then give equal weights on one device.
    Steps {
        /// Optimizer steps.
        steps: u64,
    },
}

/// How the weights move.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Descent {
    /// SGD with momentum, torch's form.
    Sgd {
        /// Momentum.
        momentum: f64,
        /// Weight decay of every parameter that moves.
        weight_decay: f64,
    },
    /// Pretraining's: Nesterov momentum under LARS in clip mode.
    Lars {
        /// Momentum.
        momentum: f64,
        /// Weight decay of parameters with more than one dimension.
        weight_decay: f64,
        /// Trust coefficient.
        trust_coefficient: f64,
    },
}

/// What becomes of batch normalisation's running statistics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Statistics {
    /// They stay and are normalised by, so that what comes of an image depends on no other.
    #[default]
    Frozen,
    /// Those of every layer, of frozen ones too, move towards the local images' before the first step, then stay
    /// (Schneider et al. 2020, <https://arxiv.org/abs/2006.16971>).
    ReEstimate {
        /// Weight of the local images' against the bundle's.
        share: f64,
    },
    /// Layers that move are normalised by the batch and keep running averages, as in pretraining. A minibatch has to fit
    /// into memory whole.
    Train,
}

/// What an adapted classifier may lose on the guard set, which is held out of training, against the one it came from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tolerance {
    /// Share of the labelled images that is held out where no guard set is given.
    pub share: f64,
    /// Points of clean accuracy that may be lost.
    pub clean_points: f64,
    /// Points of accuracy under attack that may be lost.
    pub robust_points: f64,
    /// Budget of the attack, projected gradient descent in steps of a quarter of it.
    pub epsilon: Pixels,
    /// Steps of the attack.
    pub steps: u32,
}

impl Default for Tolerance {
    fn default() -> Self {
        Self { share: 0.2, clean_points: 1.0, robust_points: 1.0, epsilon: Pixels::of_255(8.0), steps: 10 }
    }
}

impl Default for Adapt {
    fn default() -> Self {
        Self::new(Scope::LastBlock, LocalObjective::Supervised)
    }
}

impl Adapt {
    /// The defaults of a scope and an objective.
    pub fn new(scope: Scope, objective: LocalObjective) -> Self {
        let supervised = matches!(objective, LocalObjective::Supervised);
        Self {
            seed: 0,
            scope,
            objective,
            budget: Budget::Seconds { seconds: 30.0 },
            batch: 64,
            // Replays of small steps: with pretraining's 3 of 8/255 the perturbation was too weak for the weights' pace, and
            // accuracy under attack fell.
            replays: if supervised { 8 } else { 3 },
            epsilon: Pixels::of_255(8.0),
            step: Pixels::of_255(if supervised { 4.0 } else { 8.0 }),
            ramp: 0.0,
            optimizer: if supervised {
                Descent::Sgd { momentum: 0.9, weight_decay: 2e-4 }
            } else {
                Descent::Lars { momentum: 0.9, weight_decay: 1e-4, trust_coefficient: 0.005 }
            },
            rate: if supervised && scope != Scope::Head { 0.003 } else { 0.01 },
            statistics: if supervised { Statistics::Frozen } else { Statistics::ReEstimate { share: 0.5 } },
            augment: None,
            rehearsal: 0.0,
            // Half way most of the gain is there and about half of what is forgotten, or none of it.
            keep: if supervised { 0.5 } else { 0.0 },
            guard: Tolerance::default(),
        }
    }

    /// Checks that the keys make sense together.
    ///
    /// # Errors
    /// The first key that does not.
    pub fn validate(&self) -> Result<(), Invalid> {
        match self.objective {
            LocalObjective::Supervised => {
                ensure(self.batch > 0, "batch", || "a minibatch has at least one image".into())?;
            }
            LocalObjective::EmpSsl { views, invariance_weight, tcr_weight, distortion } => {
                ensure(self.scope != Scope::Head, "scope", || {
                    "EMP-SSL does not see the head: use last-block or all".into()
                })?;
                ensure((2..=256).contains(&views), "objective.views", || format!("{views} is outside 2..=256"))?;
                ensure(self.batch > 1, "batch", || "the coding rate of one image is 0: use 2 or more".into())?;
                not_negative(invariance_weight, "objective.invariance_weight")?;
                not_negative(tcr_weight, "objective.tcr_weight")?;
                positive(distortion, "objective.distortion")?;
                ensure(self.rehearsal == 0.0, "rehearsal", || "EMP-SSL does not see the head: leave it at 0".into())?;
            }
        }
        match self.budget {
            Budget::Seconds { seconds } => {
                positive(seconds, "budget.seconds")?;
            }
            Budget::Steps { steps } => {
                ensure(steps > 0, "budget.steps", || "0 steps train nothing".into())?;
            }
        }
        ensure((1..=64).contains(&self.replays), "replays", || format!("{} is outside 1..=64", self.replays))?;
        let pixels = |pixels: Pixels, key| {
            ensure((0.0..=1.0).contains(&pixels.0), key, || "must be within 0 and 1, such as \"8/255\"".into())
        };
        pixels(self.epsilon, "epsilon")?;
        pixels(self.step, "step")?;
        pixels(self.guard.epsilon, "guard.epsilon")?;
        ensure(self.step.0 > 0.0 || self.epsilon.0 == 0.0, "step", || "a step of 0 attacks nothing".into())?;
        probability(self.ramp, "ramp")?;
        let momentum = match self.optimizer {
            Descent::Sgd { momentum, weight_decay } => {
                not_negative(weight_decay, "optimizer.weight_decay")?;
                momentum
            }
            Descent::Lars { momentum, weight_decay, trust_coefficient } => {
                not_negative(weight_decay, "optimizer.weight_decay")?;
                positive(trust_coefficient, "optimizer.trust_coefficient")?;
                momentum
            }
        };
        ensure((0.0..1.0).contains(&momentum), "optimizer.momentum", || "must be at least 0 and below 1".into())?;
        positive(self.rate, "rate")?;
        if let Statistics::ReEstimate { share } = self.statistics {
            probability(share, "statistics.share")?;
        }
        ensure(self.statistics != Statistics::Train || self.batch > 1, "batch", || {
            "statistics of the batch need at least 2 images".into()
        })?;
        self.augment.as_ref().map_or(Ok(()), Augment::validate)?;
        ensure((0.0..1.0).contains(&self.rehearsal), "rehearsal", || "must be at least 0 and below 1".into())?;
        ensure((0.0..1.0).contains(&self.keep), "keep", || "must be at least 0 and below 1".into())?;
        let Tolerance { share, clean_points, robust_points, steps, .. } = self.guard;
        ensure(share > 0.0 && share < 1.0, "guard.share", || "must be above 0 and below 1".into())?;
        ensure((0.0..=100.0).contains(&clean_points), "guard.clean_points", || "must be within 0 and 100".into())?;
        ensure((0.0..=100.0).contains(&robust_points), "guard.robust_points", || "must be within 0 and 100".into())?;
        ensure(steps > 0, "guard.steps", || "0 steps attack nothing".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_named() {
        for objective in [LocalObjective::Supervised, LocalObjective::EMP_SSL] {
            for scope in [Scope::LastBlock, Scope::All] {
                assert_eq!(Adapt::new(scope, objective).validate(), Ok(()));
            }
        }
        let good = Adapt::new(Scope::Head, LocalObjective::Supervised);
        assert_eq!(good.validate(), Ok(()));
        for (key, recipe) in [
            ("scope", Adapt::new(Scope::Head, LocalObjective::EMP_SSL)),
            ("batch", Adapt { batch: 0, ..good.clone() }),
            ("batch", Adapt { batch: 1, statistics: Statistics::Train, ..good.clone() }),
            ("replays", Adapt { replays: 0, ..good.clone() }),
            ("epsilon", Adapt { epsilon: Pixels(1.5), ..good.clone() }),
            ("step", Adapt { step: Pixels(0.0), ..good.clone() }),
            ("ramp", Adapt { ramp: -0.1, ..good.clone() }),
            ("rate", Adapt { rate: f64::NAN, ..good.clone() }),
            ("budget.seconds", Adapt { budget: Budget::Seconds { seconds: 0.0 }, ..good.clone() }),
            ("budget.steps", Adapt { budget: Budget::Steps { steps: 0 }, ..good.clone() }),
            ("rehearsal", Adapt { rehearsal: 1.0, ..good.clone() }),
            ("keep", Adapt { keep: 1.0, ..good.clone() }),
            ("rehearsal", Adapt { rehearsal: 0.5, ..Adapt::new(Scope::All, LocalObjective::EMP_SSL) }),
            (
                "optimizer.momentum",
                Adapt { optimizer: Descent::Sgd { momentum: 1.0, weight_decay: 0.0 }, ..good.clone() },
            ),
            ("statistics.share", Adapt { statistics: Statistics::ReEstimate { share: 2.0 }, ..good.clone() }),
            ("guard.share", Adapt { guard: Tolerance { share: 1.0, ..Tolerance::default() }, ..good.clone() }),
            ("guard.steps", Adapt { guard: Tolerance { steps: 0, ..Tolerance::default() }, ..good.clone() }),
        ] {
            assert_eq!(recipe.validate().unwrap_err().key, key);
        }
    }
}
