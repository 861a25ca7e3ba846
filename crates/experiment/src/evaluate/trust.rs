//! What speaks for and against believing a number: checks for gradient masking and for mistakes of the evaluation itself,
//! after Carlini et al. 2019 (<https://arxiv.org/abs/1902.06705>), Athalye et al. 2018 (<https://arxiv.org/abs/1802.00420>)
//! and Pintor et al. 2022 (<https://arxiv.org/abs/2106.09947>).
//!
//! Each check has a figure and a grade. With any `Fail` there is no headline number: the reason takes its place.

use super::battery::{Attacked, Battery, Order};
use super::course::Course;
use super::plan::pgd;
use super::{Progress, twins};
use crate::measure::{Rate, Result};
use gabion_learn::attack::{Classifier, Region};
use gabion_spec::{Attack, Norm, Objective, Pixels, Start};
use serde::Serialize;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Grade {
    /// As it should be.
    Pass,
    /// Worth a look.
    Warn,
    /// The number is not to be believed.
    Fail,
}

impl Grade {
    /// By the first of two bounds that a figure does not keep; not a number fails.
    pub(super) fn of(figure: f64, warn: f64, fail: f64) -> Self {
        if figure <= warn {
            Self::Pass
        } else if figure <= fail {
            Self::Warn
        } else {
            Self::Fail
        }
    }
}

/// One row of the report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    /// What is asked.
    pub name: &'static str,
    /// How it came out.
    pub grade: Grade,
    /// The figure, in words.
    pub figure: String,
    /// What a figure out of bounds would mean.
    pub meaning: &'static str,
}

/// What stands at the top.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Headline {
    /// The robust accuracy.
    Accuracy(Rate),
    /// Why there is none.
    Withheld(String),
}

/// A trust report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Trust {
    /// How the budget is measured.
    pub norm: Norm,
    /// The budget.
    pub epsilon: Pixels,
    /// The number, or why there is none.
    pub headline: Headline,
    /// In their order.
    pub checks: Vec<Check>,
    /// Accuracy against budget under PGD, 0 first.
    pub sweep: Vec<(Pixels, Rate)>,
}

/// Budgets of the sweep in levels of 255, up to 0.5; of L2 a multiple of the budget each.
const SWEEP: [f32; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 127.5];

/// Looks into a finished AutoAttack: the rows of `course` at `region`.
pub(super) fn examine(
    battery: &Battery<'_>,
    victim: &dyn Classifier,
    course: &Course,
    region: Region,
    transferred: Option<&Attacked>,
    observer: &mut dyn FnMut(Progress),
) -> Result<Trust> {
    let images = course.verdicts.len();
    let mut examiner = Examiner { battery, victim, course, region, images, observer, checks: Vec::new() };
    examiner.network()?;
    examiner.bounds()?;
    examiner.gradients()?;
    let sweep = examiner.strength()?;
    examiner.convergence()?;
    examiner.masking(transferred)?;
    examiner.twins()?;
    let survivors = examiner.survivors().len() as u64;
    let checks = examiner.checks;
    let failed: Vec<&Check> = checks.iter().filter(|check| check.grade == Grade::Fail).collect();
    let headline = match failed.first() {
        None => Headline::Accuracy(Rate::new(survivors, images as u64)),
        Some(check) => {
            let more = if failed.len() > 1 { format!(" (and {} more)", failed.len() - 1) } else { String::new() };
            Headline::Withheld(format!("{}: {}{more}", check.name, check.figure))
        }
    };
    Ok(Trust { norm: region.norm, epsilon: Pixels(region.epsilon), headline, checks, sweep })
}

struct Examiner<'a, 'b> {
    battery: &'a Battery<'a>,
    victim: &'a dyn Classifier,
    course: &'a Course,
    region: Region,
    images: usize,
    observer: &'b mut dyn FnMut(Progress),
    checks: Vec<Check>,
}

impl Examiner<'_, '_> {
    fn check(&mut self, name: &'static str, grade: Grade, figure: String, meaning: &'static str) {
        self.checks.push(Check { name, grade, figure, meaning });
    }

    fn share(&self, count: usize) -> f64 {
        100.0 * count as f64 / self.images as f64
    }

    fn attack(&mut self, attack: Attack, region: Region, standing: &[usize]) -> Result<Attacked> {
        self.battery.attack(self.victim, &Order::new(attack, region), standing, self.observer)
    }

    /// The row of a cascade's attack at the budget.
    fn row(&self, name: &str) -> Option<usize> {
        let here = |row: &super::Row| {
            row.name == name && row.epsilon == Pixels(self.region.epsilon) && row.norm == self.region.norm
        };
        self.course.rows.iter().position(here)
    }

    /// Places that stand all of AutoAttack.
    fn survivors(&self) -> Vec<usize> {
        let Some(row) = self.row("autoattack") else { return Vec::new() };
        (0..self.images).filter(|&place| self.course.verdicts[place].robust[row]).collect()
    }

    /// Is it a deterministic function of one image that gives logits?
    fn network(&mut self) -> Result<()> {
        let places: Vec<usize> = (0..self.images.min(32)).collect();
        let pixels = self.battery.pixels(&places);
        let together = self.battery.logits(self.victim, &pixels, &places)?;
        let again = self.battery.logits(self.victim, &pixels, &places)?;
        let mut alone = Vec::new();
        for (place, x) in places.iter().zip(pixels.chunks_exact(pixels.len() / places.len())) {
            alone.extend(self.battery.logits(self.victim, x, &[*place])?);
        }
        let spread = spread(&together);
        let apart = |other: &[Vec<f32>]| {
            let pairs = together.iter().flatten().zip(other.iter().flatten());
            f64::from(pairs.fold(0.0f32, |most, (a, b)| most.max((a - b).abs()))) / spread
        };
        let (of_batch, of_time) = (apart(&alone), apart(&again));
        self.check(
            "evaluation mode, no matter the batch",
            Grade::of(of_batch, 1e-4, 1e-2),
            format!("logits alone and in a batch differ by {of_batch:.1e} of their spread"),
            "batch statistics in use, or images that influence each other: the number is of a batch, not of the model",
        );
        self.check(
            "no randomness",
            Grade::of(of_time, 0.0, 1e-4),
            format!("two passes differ by {of_time:.1e} of the logits' spread"),
            "a classifier that draws at random has to be attacked through many draws (EOT)",
        );
        let sums: Vec<f32> = together.iter().map(|row| row.iter().sum()).collect();
        let probabilities = sums.iter().all(|sum| (sum - 1.0).abs() < 1e-3)
            && together.iter().flatten().all(|logit| (0.0..=1.0).contains(logit));
        let broken: u64 = self.course.rows.iter().map(|row| row.passes.not_finite).sum();
        let grade = match (probabilities, broken) {
            (false, 0) => Grade::Pass,
            _ => Grade::Fail,
        };
        let figure = match (probabilities, broken) {
            (true, _) => "every row adds up to 1 within [0, 1]: these are probabilities".to_string(),
            (false, 0) => "all finite, not probabilities".to_string(),
            (false, broken) => format!("{broken} passes with a value that is not finite"),
        };
        self.check("logits are finite logits", grade, figure, "a softmax inside hides the scale that losses need");
        Ok(())
    }

    /// Does the attack do what it may, and nothing else?
    fn bounds(&mut self) -> Result<()> {
        let right = self.course.right();
        let still = Attack::Apgd { objective: Objective::CrossEntropy, iterations: 3, restarts: 1, eot: 1 };
        let nothing = self.attack(still, Region { epsilon: 0.0, ..self.region }, &right)?.fallen().len();
        self.check(
            "no budget changes nothing",
            Grade::of(nothing as f64, 0.0, 0.0),
            format!("{nothing} of {} images fall to an attack without a budget", right.len()),
            "the attack or the accuracy is computed on other images than it says",
        );
        let rows = self.course.rows.iter().filter(|row| row.epsilon == Pixels(self.region.epsilon));
        let farthest = rows.fold(0.0f32, |most, row| most.max(row.farthest));
        let over = f64::from(farthest) - f64::from(self.region.epsilon);
        self.check(
            "perturbations within the budget and the box",
            Grade::of(over, 1e-6, 1e-6),
            format!("greatest distance {farthest:.7} of {:.7}", self.region.epsilon),
            "the attack had more room than it says",
        );
        Ok(())
    }

    /// Are there gradients, and are they right?
    fn gradients(&mut self) -> Result<()> {
        let right = self.course.right();
        let mut worst = (0.0, String::new());
        for (name, objective) in [("CE", Objective::CrossEntropy), ("DLR", Objective::Dlr)] {
            let attacked = self.attack(Attack::Fgsm { objective }, self.region, &right)?;
            let gone = attacked.found.iter().filter(|(_, f)| f.passes.zero_gradients + f.passes.saturated > 0).count();
            let share = 100.0 * gone as f64 / right.len().max(1) as f64;
            let text = format!("{name} {share:.1} %");
            worst = (f64::max(worst.0, share), if worst.1.is_empty() { text } else { format!("{}, {text}", worst.1) });
        }
        self.check(
            "gradients are there",
            Grade::of(worst.0, 1.0, 10.0),
            format!("zero or lost in f32 at the image: {}", worst.1),
            "attacks that follow gradients see nothing: masking",
        );
        let error = twins::difference_error(self.battery, self.victim, &right)?;
        self.check(
            "gradients are those of finite differences",
            Grade::of(error, 0.05, 0.25),
            format!("median relative error {error:.1e}"),
            "the gradient is of another function: shattered, straight-through or wrong",
        );
        Ok(())
    }

    /// Is a stronger attack stronger?
    fn strength(&mut self) -> Result<Vec<(Pixels, Rate)>> {
        let right = self.course.right();
        let step = Pixels(self.region.epsilon / 4.0);
        let iterative = self.attack(pgd(50, step, 1, Start::Zero), self.region, &right)?.fallen();
        let fgsm = Attack::Fgsm { objective: Objective::CrossEntropy };
        let weaker = [(fgsm, "one step"), (Attack::Noise { draws: 10 }, "noise")];
        for (attack, name) in weaker {
            let fallen = self.attack(attack, self.region, &right)?.fallen();
            let only = fallen.iter().filter(|place| iterative.binary_search(place).is_err()).count();
            let share = self.share(only);
            let (check, meaning) = if name == "noise" {
                ("iterations are at least as strong as noise", "gradients lead away from what noise finds: masking")
            } else {
                (
                    "iterations are at least as strong as one step",
                    "the loss surface is not what its gradient says: masking",
                )
            };
            self.check(
                check,
                Grade::of(share, 0.5, 2.0),
                format!("{only} images ({share:.2} %) fall to {name} and not to PGD-50; {} to PGD-50", iterative.len()),
                meaning,
            );
        }
        let scale = match self.region.norm {
            Norm::Linf => 1.0 / 255.0,
            Norm::L2 => self.region.epsilon / 8.0,
        };
        let mut sweep = vec![(Pixels(0.0), Rate::new(right.len() as u64, self.images as u64))];
        for levels in SWEEP {
            let epsilon = levels * scale;
            let attack = pgd(40, Pixels(epsilon / 4.0), 1, Start::Zero);
            let fallen = self.attack(attack, Region { epsilon, ..self.region }, &right)?.fallen().len();
            sweep.push((Pixels(epsilon), Rate::new((right.len() - fallen) as u64, self.images as u64)));
        }
        let rises = sweep.windows(2).map(|pair| pair[1].1.accuracy - pair[0].1.accuracy).fold(0.0, f64::max);
        let last = sweep.last().expect("there is one");
        let rest = 100.0 * last.1.accuracy;
        self.check(
            "more budget, less accuracy",
            Grade::of(100.0 * rises, 0.5, 2.0),
            format!("greatest rise {:.2} points", 100.0 * rises),
            "a larger ball holds the smaller one: an attack that does worse in it has lost its way",
        );
        self.check(
            "a boundless attack always succeeds",
            Grade::of(rest, 0.5, 2.0),
            format!("{rest:.2} % stand PGD-40 at {}", last.0),
            "at half of the pixel range an image can be made gray: what stands there hides its gradient",
        );
        Ok(sweep)
    }

    /// Was the attack at its end?
    fn convergence(&mut self) -> Result<()> {
        let survivors = self.survivors();
        let apgd =
            |iterations, restarts| Attack::Apgd { objective: Objective::CrossEntropy, iterations, restarts, eot: 1 };
        let twice = self.attack(apgd(200, 1), self.region, &survivors)?.fallen().len();
        let restarts = self.attack(apgd(100, 5), self.region, &survivors)?.fallen().len();
        let share = self.share(twice.max(restarts));
        self.check(
            "more iterations and restarts change nothing",
            Grade::of(share, 0.5, 2.0),
            format!(
                "of what stands AutoAttack, {twice} images fall to twice the iterations, {restarts} to five restarts"
            ),
            "the attack was stopped before its end",
        );
        let losses: Vec<[f32; 2]> = self.row("apgd-ce").map_or_else(Vec::new, |row| {
            survivors.iter().filter_map(|&place| self.course.losses[row][place]).collect()
        });
        let rise = |[last, earlier]: &[f32; 2]| f64::from((last - earlier) / last.abs().max(1e-6));
        let mut rises: Vec<f64> = losses.iter().map(rise).collect();
        rises.sort_by(f64::total_cmp);
        let median = rises.get(rises.len() / 2).copied().unwrap_or(0.0);
        self.check(
            "the loss has come to rest",
            Grade::of(100.0 * median, 1.0, 10.0),
            format!("in the last quarter of APGD the loss of what stands rose by {:.3} % (median)", 100.0 * median),
            "with more steps the accuracy would go on falling",
        );
        Ok(())
    }

    /// Does something fall only to attacks that see no gradient?
    fn masking(&mut self, transferred: Option<&Attacked>) -> Result<()> {
        let of_square = self
            .row("square")
            .map_or(0, |row| self.course.verdicts.iter().filter(|verdict| verdict.fooled_at[row].is_some()).count());
        let share = self.share(of_square);
        self.check(
            "nothing falls to queries alone",
            Grade::of(share, 0.5, 2.0),
            format!("{of_square} images ({share:.2} %) stand APGD and FAB and fall to Square"),
            "an attack without gradients does better: masking",
        );
        if let Some(transferred) = transferred {
            let survivors = self.survivors();
            let only = transferred.fallen().iter().filter(|place| survivors.binary_search(place).is_ok()).count();
            let share = self.share(only);
            self.check(
                "nothing falls to transfer alone",
                Grade::of(share, 0.5, 2.0),
                format!("{only} images ({share:.2} %) stand AutoAttack and fall to images made for another model"),
                "another model's gradients lead further than its own: masking",
            );
        }
        Ok(())
    }

    /// Do the checks see what is known to be broken?
    fn twins(&mut self) -> Result<()> {
        let right = self.course.right();
        let twins::Seen { hidden, undefended } =
            twins::look(self.battery, self.victim, self.region, &right, self.observer)?;
        self.check(
            "a twin with hidden gradients is found out",
            if hidden.iter().any(|found| found.1) { Grade::Pass } else { Grade::Fail },
            hidden
                .iter()
                .map(|(what, found)| format!("{what}: {}", if *found { "flagged" } else { "not flagged" }))
                .collect::<Vec<_>>()
                .join("; "),
            "this model with its input rounded to 8 levels has no gradients; checks that do not see it see nothing",
        );
        self.check(
            "an undefended twin falls",
            Grade::of(100.0 * undefended.accuracy, 5.0, 20.0),
            format!(
                "softmax regression on these pixels keeps {} of {} images under APGD",
                undefended.right, undefended.images
            ),
            "an attack that does not break a linear model breaks nothing",
        );
        Ok(())
    }
}

/// The standard deviation of all logits.
fn spread(rows: &[Vec<f32>]) -> f64 {
    let values: Vec<f64> = rows.iter().flatten().map(|value| f64::from(*value)).collect();
    let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len().max(1) as f64;
    variance.sqrt().max(1e-12)
}
