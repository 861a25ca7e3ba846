//! Which attacks an evaluation runs, on what.

use crate::invalid::{Invalid, ensure};
use crate::{Norm, Objective, Pixels};
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// An evaluation under attack.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluate {
    /// Which attacks.
    pub protocol: Protocol,
    /// How budgets are measured.
    #[serde(default)]
    pub norm: Norm,
    /// What PGD climbs in the protocols that are PGD alone.
    #[serde(default)]
    pub objective: Objective,
    /// Random restarts in the protocols [`Protocol::Strong`] and [`Protocol::Apgd`], for each target where there are
    /// targets; 5 and 1 when absent.
    #[serde(default)]
    pub restarts: Option<u32>,
    /// Test images, the same number of each class as far as that goes; all when absent.
    pub images: Option<u32>,
    /// Seeds the choice of images and whatever an attack draws.
    pub seed: u64,
    /// Budgets.
    pub epsilons: Vec<Pixels>,
}

/// A named attack protocol (METHOD section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// PGD-20, step 0.01, zero start, no restarts.
    Paper,
    /// The reference script's default: 2 steps of 0.01, which cannot reach 8/255. For comparison only.
    #[serde(rename = "paper-2step")]
    Paper2Step,
    /// PGD-50, step epsilon/4, 5 random restarts.
    Strong,
    /// APGD on cross-entropy, then on targets: the two attacks of AutoAttack that leave the others next to nothing.
    Apgd,
    /// AutoAttack, standard version (Croce and Hein 2020).
    Autoattack,
    /// AutoAttack's version for classifiers that draw at random: gradients averaged over 20 draws.
    AutoattackRand,
    /// The classifier over many crops: its crops attacked as they lie, and the whole image through fresh ones.
    Views,
    /// Common corruptions, patches, and what transfers.
    Corruptions,
    /// AutoAttack, and what speaks for and against believing it.
    Trust,
    /// [`Protocol::Trust`], [`Protocol::Views`] and [`Protocol::Corruptions`].
    All,
}

impl Default for Evaluate {
    fn default() -> Self {
        Self {
            protocol: Protocol::Paper,
            norm: Norm::Linf,
            objective: Objective::CrossEntropy,
            restarts: None,
            images: None,
            seed: 0,
            epsilons: vec![Pixels::of_255(4.0), Pixels::of_255(8.0)],
        }
    }
}

impl Evaluate {
    /// Checks what can be checked without images.
    ///
    /// # Errors
    /// The first key that makes no sense.
    pub fn validate(&self) -> Result<(), Invalid> {
        ensure(self.images != Some(0), "images", || "0 images measure nothing; leave the key out to use all".into())?;
        // Of L2 there are points of the box farther than 1.
        let (most, bound) = match self.norm {
            Norm::Linf => (1.0, "between 0 and 1"),
            Norm::L2 => (f32::MAX, "of L2, a length from 0 on"),
        };
        for epsilon in &self.epsilons {
            ensure((0.0..=most).contains(&epsilon.0), "epsilons", || {
                format!("`{epsilon}` is not a pixel budget {bound}; write it as 8/255 or 0.01")
            })?;
        }
        let Some(restarts) = self.restarts else { return Ok(()) };
        ensure((1..=1000).contains(&restarts), "restarts", || format!("{restarts} is outside 1..=1000"))?;
        ensure(matches!(self.protocol, Protocol::Strong | Protocol::Apgd), "restarts", || {
            "only the protocols `strong` and `apgd` restart; leave the key out".into()
        })
    }
}
