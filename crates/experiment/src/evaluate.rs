//! Accuracy under attack by a named protocol (METHOD section 5): what is attacked, how, and image by image what came of
//! it.
//!
//! An image is robust when its clean prediction is right and no attack of the protocol finds a misclassified image within
//! the budget. Every budget is reported by itself: an image that falls to a small one is not counted as fallen to a larger
//! one.

mod assess;
mod battery;
mod corruptions;
mod course;
mod crops;
mod disguises;
mod files;
mod foreign;
mod journal;
pub mod page;
mod plan;
mod subject;
mod trust;
mod twins;
mod verify;
mod views;
mod wide;

pub use assess::{Assessment, Beyond, assess};
pub use corruptions::{CorruptionRow, Corruptions};
pub use files::tensor_name;
pub use plan::{Stage, stages};
pub use subject::Subject;
pub use trust::{Check, Grade, Headline, Trust};
pub use verify::{Verified, verify};
pub use views::{ViewRow, Views};

use crate::data::{Images, order};
use crate::measure::{Error, Rate, Result, check, hexadecimal};
use battery::Battery;
use gabion_learn::attack::Passes;
use gabion_runtime::frozen::Precision;
use gabion_spec::{self as spec, Attack, Claim, Invalid, Norm, Pixels, Protocol};
use journal::Journal;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::cell::Cell;
use std::path::PathBuf;
use subject::Drawn;

/// What of an evaluation does not decide its result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Images attacked together.
    pub batch: usize,
    /// Which adversarial images are kept, 4 bytes a value, image and budget.
    pub keep: Keep,
    /// A folder where what is done is kept, so that an evaluation that was stopped goes on there.
    pub journal: Option<PathBuf>,
}

/// Which perturbed images an evaluation hands out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// None.
    #[default]
    Nothing,
    /// The first that fooled, of every image.
    Fooling,
    /// The last that did not fool, where none did.
    All,
}

impl Default for Options {
    fn default() -> Self {
        Self { batch: 100, keep: Keep::Nothing, journal: None }
    }
}

/// [`Progress::what`] while images are classified as they are.
pub const CLEAN: &str = "clean";

/// How far an evaluation is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What runs, such as `clean` or `pgd-20 8/255`.
    pub what: String,
    /// Images that are done.
    pub done: usize,
    /// Images that it goes through.
    pub total: usize,
    /// Images that are right so far: of those done when clean, of all that it goes through under attack.
    pub right: usize,
    /// Images of the evaluation.
    pub images: usize,
}

/// A measured classifier.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// By what rules.
    pub protocol: Protocol,
    /// What chose the images, and what attacks drew.
    pub seed: u64,
    /// Test images that were measured.
    pub images: u64,
    /// SHA-256 of their pixels and labels.
    pub data_sha256: String,
    /// Unperturbed.
    pub clean: Rate,
    /// In their order for each budget, which rises.
    pub attacks: Vec<Row>,
    /// What came of each image, by rising index.
    pub verdicts: Vec<Verdict>,
    /// What a reader of the numbers should know; one line each.
    pub warnings: Vec<String>,
    /// Time that it took, that of an earlier process included.
    pub seconds: f64,
    /// SHA-256 of the weights.
    pub weights_sha256: String,
    /// Crops that an image was classified by, drawn anew in every pass; none where it was classified as a whole.
    #[serde(rename = "crops", skip_serializing_if = "Option::is_none")]
    over: Option<Drawn>,
    /// The adversarial images of each budget, `[images, 3, height, width]`, where they were kept.
    #[serde(skip)]
    adversarial: Option<Vec<(Pixels, Vec<f32>)>>,
    /// Height and width.
    #[serde(skip)]
    size: [usize; 2],
}

/// An attack at one budget.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Such as `pgd-20`, `apgd-ce`, or `autoattack` for a whole cascade.
    pub name: String,
    /// How the budget is measured.
    pub norm: Norm,
    /// Budget.
    pub epsilon: Pixels,
    /// The attack; none for the sum of a cascade.
    pub attack: Option<Attack>,
    /// Its cascade, in which it saw only what the attacks before it left.
    pub cascade: Option<&'static str>,
    /// Images that stayed right under it, and in a cascade under those before it.
    pub rate: Rate,
    /// Images that it attacked.
    pub attacked: u64,
    /// The greatest distance of an image that fooled.
    pub farthest: f32,
    /// Passes that it took.
    pub passes: Cost,
    /// Time that it took.
    pub seconds: f64,
    /// Whether a trust report speaks against the number: it is there to be looked into, and is no result.
    pub withheld: bool,
}

/// What an attack cost and what was odd, over all images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// Image passes through the network, there and back.
    pub gradients: u64,
    /// Image passes forward.
    pub forwards: u64,
    /// Gradients that were 0 in every value.
    pub zero_gradients: u64,
    /// Losses too flat for f32, whose gradients were scaled up.
    pub saturated: u64,
    /// Passes with a value that is not finite.
    pub not_finite: u64,
}

impl Cost {
    fn add(&mut self, passes: Passes) {
        self.gradients += u64::from(passes.gradients);
        self.forwards += u64::from(passes.forwards);
        self.zero_gradients += u64::from(passes.zero_gradients);
        self.saturated += u64::from(passes.saturated);
        self.not_finite += u64::from(passes.not_finite);
    }

    fn and(mut self, other: Self) -> Self {
        self.gradients += other.gradients;
        self.forwards += other.forwards;
        self.zero_gradients += other.zero_gradients;
        self.saturated += other.saturated;
        self.not_finite += other.not_finite;
        self
    }
}

impl Row {
    /// Name and budget, such as `pgd-20 8/255`; the norm where it is not L-infinity.
    pub fn what(&self) -> String {
        match self.norm {
            Norm::Linf => format!("{} {}", self.name, self.epsilon),
            Norm::L2 => format!("{} L2 {}", self.name, self.epsilon),
        }
    }
}

impl Row {
    /// The attack in words, such as `PGD, 20 steps of 0.01`.
    pub fn described(&self) -> String {
        match self.attack {
            Some(Attack::Pgd { steps, step, restarts: 1, .. }) => format!("PGD, {steps} steps of {step}"),
            Some(Attack::Pgd { steps, step, restarts, .. }) => {
                format!("PGD, {steps} steps of {step}, {restarts} restarts")
            }
            _ => self.name.clone(),
        }
    }
}

/// What came of one image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Index into the test images.
    pub index: usize,
    /// Its class.
    pub label: u16,
    /// The class predicted of the clean image.
    pub predicted: u16,
    /// Whether it stayed right, for each attack; in a cascade an image that has fallen stays fallen.
    pub robust: Vec<bool>,
    /// The step at which each attack fooled it, 0 at a start; none where it did not, or did not attack it.
    pub fooled_at: Vec<Option<u32>>,
}

impl Evaluation {
    /// The adversarial images of a budget: `[images, 3, height, width]` in `[0, 1]`, in the order of `verdicts`; none where
    /// they were not kept. The first image that fooled the model, or with [`Keep::All`] the last that did not; else unchanged.
    pub fn adversarial(&self, epsilon: Pixels) -> Option<&[f32]> {
        let kept = self.adversarial.as_ref()?.iter().find(|(budget, _)| *budget == epsilon)?;
        Some(&kept.1)
    }

    /// The numbers that stand for a protocol: sums of cascades, and attacks that are in none.
    pub fn headlines(&self) -> impl Iterator<Item = &Row> {
        self.attacks.iter().filter(|row| row.attack.is_none() || row.cascade.is_none())
    }

    /// The measured numbers as claims of a bundle's manifest: `clean`, `pgd-20 8/255` and so on.
    pub fn claims(&self, data: &str, command: &str) -> Vec<Claim> {
        let over = self.over.map_or_else(String::new, |over| format!(", {} views", over.views));
        let claim = |what: String, rate: Rate| rate.claim(format!("{what}{over}"), data, command);
        let attacks = self.headlines().filter(|row| !row.withheld).map(|row| claim(row.what(), row.rate));
        std::iter::once(claim("clean".into(), self.clean)).chain(attacks).collect()
    }
}

/// [`assess`] without anything beyond attacks.
///
/// # Errors
/// As [`assess`].
pub fn evaluate(
    subject: &Subject,
    test: &Images,
    recipe: &spec::Evaluate,
    options: &Options,
    observer: &mut dyn FnMut(Progress),
) -> Result<Evaluation> {
    Ok(assess(subject, test, recipe, &Beyond::default(), options, observer)?.evaluation)
}

/// Everything that an evaluation goes through, checked.
struct Scene<'a> {
    test: &'a Images,
    indices: Vec<usize>,
    epsilons: Vec<Pixels>,
    seed: u64,
    batch: usize,
    journal: Journal,
    keep: Keep,
    data_sha256: String,
    weights: String,
    over: Option<Drawn>,
    seconds: Cell<f64>,
}

/// Changes whenever an attack's result does.
const ATTACKS_VERSION: u32 = 2;

impl<'a> Scene<'a> {
    /// Images of one pass where nothing else says.
    const TOGETHER: usize = 100;

    pub(crate) fn new(subject: &Subject, test: &'a Images, recipe: &spec::Evaluate, options: &Options) -> Result<Self> {
        let epsilons = budgets(recipe, options)?;
        check("test", test, subject.input)?;
        same_classes(&subject.classes, subject.outputs, &test.classes)?;
        let count = recipe.images.map_or(usize::MAX, |images| images as usize);
        let indices = order::stratified(&test.labels, count, recipe.seed);
        if indices.is_empty() {
            return Err(Error::Empty { part: "test" });
        }
        let mut hash = Sha256::new();
        for &index in &indices {
            hash.update(test.image(index));
            hash.update(test.labels[index].to_le_bytes());
        }
        let data_sha256 = hexadecimal(&hash.finalize());
        let mut about = serde_json::json!({
            "attacks": ATTACKS_VERSION, "weights": subject.weights, "data_sha256": data_sha256, "seed": recipe.seed,
            "norm": recipe.norm, "images": indices.len(), "indices": indices, "device": format!("{:?}", subject.device()),
        });
        if let Some(over) = subject.over {
            about["crops"] = serde_json::json!(over);
        }
        if subject.precision() != Precision::F32 {
            about["precision"] = serde_json::json!(subject.computes());
        }
        let key = hexadecimal(&Sha256::digest(about.to_string()));
        let journal = Journal::open(options.journal.as_deref(), key, &about)?;
        Ok(Self {
            test,
            indices,
            epsilons,
            seed: recipe.seed,
            batch: options.batch,
            journal,
            keep: options.keep,
            data_sha256,
            weights: subject.weights.clone(),
            over: subject.over,
            seconds: Cell::new(0.0),
        })
    }

    fn battery(&self) -> Battery<'_> {
        let Self { test, indices, seed, batch, journal, keep, seconds, .. } = self;
        let keep = *keep == Keep::All;
        Battery { images: test, indices, seed: *seed, batch: *batch, journal, seconds, keep }
    }
}

/// The budgets, rising, each once.
fn budgets(recipe: &spec::Evaluate, options: &Options) -> Result<Vec<Pixels>> {
    if options.batch == 0 {
        return Err(Error::Recipe(Invalid { key: "batch", why: "a batch needs at least 1 image".into() }));
    }
    recipe.validate().map_err(Error::Recipe)?;
    let mut epsilons = recipe.epsilons.clone();
    epsilons.sort_by(|a, b| a.0.total_cmp(&b.0));
    epsilons.dedup();
    Ok(epsilons)
}

/// Whether the head tells the classes of the data set, in their order.
fn same_classes(ours: &[String], rows: usize, theirs: &[String]) -> Result<()> {
    let at = (0..rows.max(theirs.len())).find(|&at| {
        // A bundle without names is trusted to have the data set's order.
        if ours.is_empty() { at >= rows || at >= theirs.len() } else { ours.get(at) != theirs.get(at) }
    });
    let name = |names: &[String], at: usize| match names.get(at) {
        Some(name) => format!("class {at} is `{name}`"),
        None => format!("there is no class {at}"),
    };
    match at {
        None if rows == theirs.len() => Ok(()),
        at => Err(Error::Classes {
            ours: rows,
            our_first: name(ours, at.unwrap_or(0)),
            theirs: theirs.len(),
            their_first: name(theirs, at.unwrap_or(0)),
        }),
    }
}

#[cfg(test)]
mod tests;
