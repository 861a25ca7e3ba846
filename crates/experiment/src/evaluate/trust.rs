//! What speaks for and against believing a number: checks for gradient masking and for mistakes of the evaluation itself,
//! after Carlini et al. 2019 (<https://arxiv.org/abs/1902.06705>), Athalye et al. 2018 (<https://arxiv.org/abs/1802.00420>)
//! and Pintor et al. 2022 (<https://arxiv.org/abs/2106.09947>).
//!
//! Each check has a figure and a grade. With any `Fail` there is no headline number: the reason takes its place.

use super::battery::{Attacked, Battery, Order};
use super::course::Course;
use super::plan::pgd;
use super::{Progress, ViewRow, Views, twins};
use crate::measure::{Rate, Result};
use gabion_learn::attack::{Classifier, Found, Pass, Region};
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

impl Grade {
    /// Of a share of images that should be none: WARN beyond `warn` percent, FAIL where more than `fail` percent are certain
    /// (Wilson, 95 %), so that one image of a few does not fail a model.
    pub(super) fn of_share(count: usize, images: usize, warn: f64, fail: f64) -> Self {
        let rate = Rate::new(count as u64, images as u64);
        if 100.0 * rate.low > fail {
            Self::Fail
        } else if 100.0 * rate.accuracy > warn {
            Self::Warn
        } else {
            Self::Pass
        }
    }
}

/// Of images that fall only to what sees no gradient.
pub(super) fn alone(count: usize, images: usize) -> Grade {
    Grade::of_share(count, images, 0.5, 2.0)
}

/// Of a median relative error of gradients.
pub(super) fn wrong(error: f64) -> Grade {
    Grade::of(error, 0.05, 0.25)
}

/// Of gradients that are zero or lost at the image: the grade, and the share in percent.
pub(super) fn missing(found: &[Found]) -> (Grade, f64) {
    let gone = found.iter().filter(|found| found.passes.zero_gradients + found.passes.saturated > 0).count();
    (Grade::of_share(gone, found.len(), 1.0, 10.0), 100.0 * gone as f64 / found.len().max(1) as f64)
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

/// Fewer images than this make no check certain.
const FEW: usize = 10;

/// Budgets of the sweep in levels of 255, up to 0.5.
const SWEEP: [f32; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 127.5];

/// What was measured beside AutoAttack, where it was.
pub(super) struct Beside<'a> {
    /// Images made for another model.
    pub(super) transferred: Option<&'a Attacked>,
    /// The classifier over crops.
    pub(super) views: Option<&'a Views>,
}

/// Looks into a finished AutoAttack: the rows of `course` at `region`.
pub(super) fn examine(
    battery: &Battery<'_>,
    victim: &dyn Classifier,
    course: &Course,
    region: Region,
    beside: &Beside<'_>,
    observer: &mut dyn FnMut(Progress),
) -> Result<Trust> {
    let images = course.verdicts.len();
    let mut examiner = Examiner { battery, victim, course, region, images, observer, checks: Vec::new() };
    examiner.network()?;
    examiner.bounds()?;
    examiner.gradients()?;
    let sweep = examiner.strength()?;
    examiner.convergence()?;
    examiner.masking(beside.transferred);
    examiner.draws(beside.views);
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
        let names: Vec<u64> = places.iter().map(|&place| self.battery.indices[place] as u64).collect();
        let again = self.victim.logits(&pixels, Pass { images: &names, draw: 0 });
        let again: Vec<Vec<f32>> = again.chunks_exact(self.victim.classes()).map(<[f32]>::to_vec).collect();
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
        let rows = self.course.rows.iter().filter(|row| row.attack.is_some());
        let broken: u64 = rows.map(|row| row.passes.not_finite).sum();
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
        let (outside, farthest) = self.course.outside(self.battery, self.region);
        self.check(
            "perturbations within the budget and the box",
            Grade::of(outside as f64, 0.0, 0.0),
            format!("{outside} outside; greatest distance {farthest:.7} of {:.7}", self.region.epsilon),
            "the attack had more room than it says",
        );
        Ok(())
    }

    /// Are there gradients, and are they right?
    fn gradients(&mut self) -> Result<()> {
        let right = self.course.right();
        let mut grade = Grade::Pass;
        let mut figures = Vec::new();
        for (name, objective) in [("CE", Objective::CrossEntropy), ("DLR", Objective::Dlr)] {
            let attacked = self.attack(Attack::Fgsm { objective }, self.region, &right)?;
            let found: Vec<Found> = attacked.found.into_iter().map(|(_, found)| found).collect();
            let (of, share) = missing(&found);
            grade = grade.max(of);
            figures.push(format!("{name} {share:.1} %"));
        }
        self.check(
            "gradients are there",
            grade,
            format!("zero or lost in f32 at the image: {}", figures.join(", ")),
            "attacks that follow gradients see nothing: masking",
        );
        let error = twins::difference_error(self.battery, self.victim, &right)?;
        self.check(
            "gradients are those of finite differences",
            wrong(error),
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
                Grade::of_share(only, self.images, 0.5, 2.0),
                format!("{only} images ({share:.2} %) fall to {name} and not to PGD-50; {} to PGD-50", iterative.len()),
                meaning,
            );
        }
        let values = 3 * self.battery.images.height * self.battery.images.width;
        let budgets: Vec<f32> = match self.region.norm {
            Norm::Linf => SWEEP.map(|levels| levels / 255.0).to_vec(),
            // The last is as far as gray can be from an image.
            Norm::L2 => {
                let end = 0.5 * (values as f32).sqrt();
                [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0]
                    .map(|times| times * self.region.epsilon)
                    .into_iter()
                    .filter(|epsilon| *epsilon > 0.0 && *epsilon < end)
                    .chain([end])
                    .collect()
            }
        };
        let mut sweep = vec![(Pixels(0.0), Rate::new(right.len() as u64, self.images as u64))];
        for epsilon in budgets {
            let attack = pgd(40, Pixels(epsilon / 4.0), 1, Start::Zero);
            let fallen = self.attack(attack, Region { epsilon, ..self.region }, &right)?.fallen().len();
            sweep.push((Pixels(epsilon), Rate::new((right.len() - fallen) as u64, self.images as u64)));
        }
        let rises = sweep.windows(2).map(|pair| pair[1].1.accuracy - pair[0].1.accuracy).fold(0.0, f64::max);
        let last = sweep.last().expect("there is one");
        let (rest, standing) = (100.0 * last.1.accuracy, last.1.right as usize);
        self.check(
            "more budget, less accuracy",
            Grade::of(100.0 * rises, 0.5, 2.0),
            format!("greatest rise {:.2} points", 100.0 * rises),
            "a larger ball holds the smaller one: an attack that does worse in it has lost its way",
        );
        self.check(
            "a boundless attack always succeeds",
            Grade::of_share(standing, self.images, 0.5, 2.0),
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
        let twice = self.attack(apgd(200, 1), self.region, &survivors)?.fallen();
        // Of another seed: the first restart is not to be the one that AutoAttack made.
        let order = Order { seed: 1, ..Order::new(apgd(100, 5), self.region) };
        let restarts = self.battery.attack(self.victim, &order, &survivors, self.observer)?.fallen();
        let either = twice.iter().chain(restarts.iter().filter(|place| !twice.contains(place))).count();
        self.check(
            "more iterations and restarts change nothing",
            Grade::of_share(either, self.images, 0.5, 2.0),
            format!(
                "of what stands AutoAttack, {} images fall to twice the iterations, {} to five restarts",
                twice.len(),
                restarts.len()
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
    fn masking(&mut self, transferred: Option<&Attacked>) {
        let of_square = self
            .row("square")
            .map_or(0, |row| self.course.verdicts.iter().filter(|verdict| verdict.fooled_at[row].is_some()).count());
        let share = self.share(of_square);
        self.check(
            "nothing falls to queries alone",
            alone(of_square, self.images),
            format!("{of_square} images ({share:.2} %) stand APGD and FAB and fall to Square"),
            "an attack without gradients does better: masking",
        );
        if let Some(transferred) = transferred {
            let survivors = self.survivors();
            let only = transferred.fallen().iter().filter(|place| survivors.binary_search(place).is_ok()).count();
            let share = self.share(only);
            self.check(
                "nothing falls to transfer alone",
                alone(only, self.images),
                format!("{only} images ({share:.2} %) stand AutoAttack and fall to images made for another model"),
                "another model's gradients lead further than its own: masking",
            );
        }
    }

    /// Do more draws change what an attack through them finds?
    fn draws(&mut self, views: Option<&Views>) {
        let here = |row: &&ViewRow| row.epsilon == Pixels(self.region.epsilon) && row.norm == self.region.norm;
        let Some(views) = views else { return };
        let rows: Vec<&ViewRow> = views.rows.iter().filter(here).filter(|row| row.eot.is_some()).collect();
        let (Some(last), Some(before)) = (rows.last(), rows.len().checked_sub(2).map(|at| rows[at])) else { return };
        let fewer = before.rate.right.saturating_sub(last.rate.right) as usize;
        let figures: Vec<String> =
            rows.iter().map(|row| format!("EOT-{} {:.1} %", row.eot.unwrap_or(0), 100.0 * row.rate.accuracy)).collect();
        self.check(
            "over crops, more draws change nothing",
            Grade::of_share(fewer, views.images as usize, 2.0, 5.0),
            figures.join(", "),
            "the attack on the classifier over crops has not averaged enough draws",
        );
    }

    /// Do the checks see what is known to be broken?
    fn twins(&mut self) -> Result<()> {
        let right = self.course.right();
        let twins::Seen { hidden_images, hidden, undefended: [can, do_fall] } =
            twins::look(self.battery, self.victim, self.region, &right)?;
        let grade = match hidden {
            // With so few images nothing is certain.
            _ if hidden_images < FEW => Grade::Warn,
            [(_, Grade::Fail), (_, Grade::Fail), _] => Grade::Pass,
            _ => Grade::Fail,
        };
        let figures = hidden.iter().map(|(what, grade)| format!("{what}: {grade:?}").to_lowercase());
        self.check(
            "a twin with hidden gradients is found out",
            grade,
            format!("{hidden_images} images; {}", figures.collect::<Vec<_>>().join(", ")),
            "this model with its input rounded to 8 levels has no gradients: checks that do not see it see nothing",
        );
        let grade = match can {
            0 => Grade::Warn,
            _ => Grade::of_share(can - do_fall, can, 2.0, 10.0),
        };
        self.check(
            "an undefended twin falls as far as it can",
            grade,
            format!("of softmax regression on pixels {can} images can fall, by the exact answer, and {do_fall} do"),
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
