//! A bundle adapted to local images: seconds of free adversarial training on the device that it runs on, under a promised
//! amount of memory, and refused where it has lost what it could before.
//!
//! | module | what it is |
//! |---|---|
//! | (here) | [`adapt`], from an opened bundle and images to a candidate, a verdict and a report |
//! | [`guard`] | accuracy of a held-out set, clean and under attack, and the decision |
//! | [`memory`] | bytes of a row and of what stays, and the rows that go through the network at once |
//! | [`folder`] | local images from a folder |
//! | [`source`] | features of the data that a bundle was made from, against forgetting |
//! | `minibatches` | the order of the images and their views |
//! | `pace` | seconds or steps, and whether another step fits |
//!
//! Nothing here writes a bundle: the one that came in stays as it is, on disk and in memory.

mod error;
pub mod folder;
pub mod guard;
pub mod memory;
mod minibatches;
mod pace;
pub mod source;

pub use error::AdaptError;
pub use guard::{Figures, Lost, Verdict, decide};
pub use source::Source;

use crate::{Bundle, Rgb};
use burn::Tensor;
use burn::module::Module;
use burn::tensor::{Device, Int, TensorData};
use gabion_learn::Mode;
use gabion_learn::adapt::{
    Input, Minibatch, Modes, Optimizer, Rehearsal, Replay, State, Targets, between, re_estimate, replay,
};
use gabion_learn::attack::Ball;
use gabion_learn::finetune::Classifier;
use gabion_spec::{Adapt, Augment, LocalObjective, Scope, Statistics};
use guard::{By, Guard};
use memory::{Plan, plan};
use minibatches::Deck;
use pace::Pace;
use serde::Serialize;
use std::ops::ControlFlow;

/// Images of a local stream, of any size; those of other sizes than the network takes are cut and resampled.
#[derive(Clone, Copy, Debug)]
pub struct Samples<'a> {
    /// The images.
    pub images: &'a [Rgb],
    /// The class of each, a place in the manifest's list; none where nobody knows.
    pub labels: Option<&'a [u16]>,
}

/// What a bundle is adapted to, and what it must not forget.
#[derive(Clone, Copy, Debug)]
pub struct Local<'a> {
    /// What is trained on. Without a guard set a share of these, if they are labelled, is held out as one.
    pub samples: Samples<'a>,
    /// Labelled images that nothing is trained on.
    pub guard: Option<Samples<'a>>,
    /// Features of the data that the bundle was made from.
    pub source: Option<&'a Source>,
    /// Most bytes by which resident memory may grow; as much as it takes where there is none.
    pub memory: Option<u64>,
}

/// How far it is. Told between steps; an observer that breaks ends the adaptation with [`AdaptError::Cancelled`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Progress {
    /// The guard set is classified and attacked.
    Guard {
        /// Before training, or after it.
        after: bool,
        /// Images done.
        done: usize,
        /// Images in all.
        total: usize,
    },
    /// An optimizer step is done.
    Step {
        /// Steps done.
        done: u64,
        /// Loss before the step.
        loss: f32,
        /// Seconds of training so far.
        seconds: f64,
        /// Share of the budget that is used up.
        share: f64,
    },
}

/// What came of it.
#[derive(Debug)]
pub struct Adapted {
    /// The adapted modules, on the bundle's device without autodiff, under a manifest that names the recipe and has no
    /// claims: those were measured of another classifier. Not to be used unless promoted.
    pub candidate: Bundle,
    /// Whether it may take the bundle's place.
    pub verdict: Verdict,
    /// What was done and measured.
    pub report: Report,
}

/// What was done and measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// How.
    pub recipe: Adapt,
    /// Images trained on.
    pub images: usize,
    /// Images of a minibatch.
    pub batch: usize,
    /// Rows that went through the network at once.
    pub rows: usize,
    /// Bytes that training was expected to need at most, on top of what was resident.
    pub expected_bytes: u64,
    /// Optimizer steps.
    pub steps: u64,
    /// Seconds of training, re-estimation of statistics included.
    pub seconds: f64,
    /// Seconds that the guard took before and after.
    pub guard_seconds: f64,
    /// Loss before each step.
    pub losses: Vec<f32>,
    /// The guard set before.
    pub before: Figures,
    /// The guard set after.
    pub after: Figures,
}

/// Adapts a bundle to local images and says whether the result may take its place.
///
/// Equal images, recipes of equal seeds and budgets in steps give equal weights on one device and number of threads. Everything
/// is computed on the bundle's device.
///
/// # Errors
/// When the bundle has no head, the recipe or the images make no sense, one image does not fit into the memory, the
/// observer broke off, or a loss or a weight is not finite. The bundle is as it was.
pub fn adapt(
    bundle: &Bundle,
    local: &Local<'_>,
    recipe: &Adapt,
    observer: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Adapted, AdaptError> {
    recipe.validate()?;
    let head = bundle.head.as_ref().ok_or_else(|| AdaptError::NoHead { name: bundle.manifest.name.clone() })?;
    let before = Classifier { model: bundle.model.valid(), head: head.valid() };
    let device = before.devices().into_iter().next().expect("a head has parameters").inner();
    let shape = guard::Shape::of(&bundle.manifest);
    let (deck, guard_set) = minibatches::split(&shape, local, recipe)?;
    let deck = deck.augmented(augment(bundle, recipe));
    let plan = plan(&bundle.manifest, recipe, deck.batch(), local.memory)?;
    let by = if plan.prepares { By::fastest(&device) } else { By::Modules };
    let guard = Guard {
        manifest: &bundle.manifest,
        tolerance: recipe.guard,
        seed: recipe.seed,
        rows: plan.guard_rows,
        device: &device,
        by,
    };

    let tell = |after: bool| move |done, total| Progress::Guard { after, done, total };
    let (figures_before, seconds_before) =
        guard.measure(&before, &guard_set, &mut |done, total| observer(tell(false)(done, total)))?;
    let training = Training { before: before.clone(), deck, plan, recipe, device: &device, source: local.source };
    let trained = training.run(observer)?;
    let steps = trained.losses.len() as u64;
    let (figures_after, seconds_after) = guard
        .measure(&trained.classifier, &guard_set, &mut |done, total| observer(tell(true)(done, total)))
        .map_err(|error| match error {
            AdaptError::Cancelled { .. } => AdaptError::Cancelled { steps },
            error => error,
        })?;

    let mut manifest = bundle.manifest.clone();
    manifest.claims.clear();
    manifest.adapted.push(recipe.clone());
    let Classifier { model, head } = trained.classifier;
    Ok(Adapted {
        candidate: Bundle { manifest, model, head: Some(head) },
        verdict: decide(&figures_before, &figures_after, &recipe.guard),
        report: Report {
            recipe: recipe.clone(),
            images: training.deck.len(),
            batch: training.deck.batch(),
            rows: training.plan.rows,
            expected_bytes: training.plan.bytes,
            steps,
            seconds: trained.seconds,
            guard_seconds: seconds_before + seconds_after,
            losses: trained.losses,
            before: figures_before,
            after: figures_after,
        },
    })
}

/// How the images of a recipe vary: as it says, else mild crops and flips, or the views of pretraining.
fn augment(bundle: &Bundle, recipe: &Adapt) -> Augment {
    let size = [bundle.manifest.input.height, bundle.manifest.input.width];
    let given = recipe.augment.clone().unwrap_or_else(|| match recipe.objective {
        LocalObjective::Supervised => minibatches::mild(size),
        LocalObjective::EmpSsl { .. } => {
            bundle.manifest.pretrain.as_ref().map(|pretrain| pretrain.augment.clone()).unwrap_or_default()
        }
    });
    Augment { size, ..given }
}

/// Everything that training needs.
struct Training<'a> {
    before: Classifier,
    deck: Deck<'a>,
    plan: Plan,
    recipe: &'a Adapt,
    device: &'a Device,
    source: Option<&'a Source>,
}

/// A classifier without autodiff, and how it came about.
struct Trained {
    classifier: Classifier,
    losses: Vec<f32>,
    seconds: f64,
}

impl Training<'_> {
    fn run(&self, observer: &mut dyn FnMut(Progress) -> ControlFlow<()>) -> Result<Trained, AdaptError> {
        let recipe = self.recipe;
        let mut pace = Pace::start(recipe.budget);
        let start = match recipe.statistics {
            Statistics::ReEstimate { share } => self.re_estimated(share),
            Statistics::Frozen | Statistics::Train => self.before.clone(),
        };
        let mut state =
            State { classifier: start.clone().train(), optim: Optimizer::new(recipe.optimizer), delta: None };
        let features = self.fixed_features(&start);
        let mut losses = Vec::new();
        'training: for number in 0.. {
            let batch = self.minibatch(number, &start, features.as_ref());
            for _ in 0..recipe.replays {
                let share = pace.share(losses.len() as u64);
                let rate = gabion_learn::optim::cosine_rate(recipe.rate, (share * 1e6) as u64, 1_000_000);
                let loss = replay(&mut state, &self.replay_at(share), &batch, rate).into_scalar::<f32>();
                losses.push(loss);
                let done = losses.len() as u64;
                if !loss.is_finite() {
                    return Err(AdaptError::Diverged { step: done });
                }
                let (seconds, share) = (pace.step(), pace.share(done));
                if observer(Progress::Step { done, loss, seconds, share }).is_break() {
                    return Err(AdaptError::Cancelled { steps: done });
                }
                if !pace.another_fits(done) {
                    break 'training;
                }
            }
        }
        let mut classifier = state.classifier.valid();
        // Momenta and the perturbation: what follows takes their memory.
        drop(state);
        if recipe.keep > 0.0 {
            classifier = between(&self.before, classifier, recipe.keep);
        }
        not_finite(&classifier).map_or(Ok(()), |tensor| Err(AdaptError::NotFinite { tensor }))?;
        Ok(Trained { classifier, losses, seconds: pace.seconds() })
    }

    /// How a replay goes when this share of the budget is used up.
    #[allow(clippy::cast_possible_truncation)] // a share fits
    fn replay_at(&self, share: f64) -> Replay {
        let Adapt { epsilon, step, ramp, scope, statistics, .. } = *self.recipe;
        let risen = if share < ramp { (share / ramp) as f32 } else { 1.0 };
        // An epsilon of 0 has no perturbation, and no gradient for it; a ramp's first step has one of its own length.
        let epsilon = if epsilon.0 > 0.0 { (epsilon.0 * risen).max(f32::MIN_POSITIVE) } else { 0.0 };
        Replay { ball: Ball { epsilon }, step: step.0, rows: self.plan.rows, modes: Modes::of(scope, statistics) }
    }

    /// Whether the head sees features that no replay changes.
    fn head_alone(&self) -> bool {
        self.recipe.scope == Scope::Head && self.recipe.epsilon.0 == 0.0
    }

    /// Features of all images where every epoch shows the same.
    fn fixed_features(&self, start: &Classifier) -> Option<Tensor<2>> {
        (self.head_alone() && self.deck.fixed()).then(|| {
            let all: Vec<usize> = (0..self.deck.len()).collect();
            let rows = all
                .chunks(self.plan.rows)
                .map(|part| start.model.feature(self.deck.images(part, 0, 1, self.device), Mode::Eval));
            Tensor::cat(rows.collect(), 0)
        })
    }

    fn minibatch(&self, number: u64, start: &Classifier, features: Option<&Tensor<2>>) -> Minibatch {
        let chosen = self.deck.minibatch(number);
        let epoch = self.deck.epoch(number);
        let x = match features {
            Some(features) => Input::Features(features.clone().select(0, places(&chosen, self.device))),
            None => {
                let images = self.deck.images(&chosen, epoch, self.recipe.objective.views(), self.device);
                if self.head_alone() {
                    let parts = gabion_learn::adapt::parts(chosen.len(), self.plan.rows)
                        .map(|rows| start.model.feature(images.clone().narrow(0, rows.start, rows.len()), Mode::Eval));
                    Input::Features(Tensor::cat(parts.collect(), 0))
                } else {
                    Input::Images(images)
                }
            }
        };
        let targets = match self.recipe.objective {
            LocalObjective::Supervised => Targets::Labels(self.deck.labels(&chosen, self.device)),
            local @ LocalObjective::EmpSsl { .. } => Targets::Views(local),
        };
        let rehearsal = self.source.filter(|_| self.recipe.rehearsal > 0.0).map(|source| {
            let (feature, labels) = source.drawn(self.recipe.seed, number, chosen.len(), self.device);
            Rehearsal { feature, labels, share: self.recipe.rehearsal }
        });
        Minibatch { x, targets, rehearsal }
    }

    /// At the statistics of whole local images, in as few batches as memory allows.
    fn re_estimated(&self, share: f64) -> Classifier {
        let all: Vec<usize> = (0..self.deck.len()).collect();
        let most = self.plan.rows.clamp(2, 256);
        let batches = gabion_learn::adapt::parts(all.len(), most)
            .filter(|rows| rows.len() > 1)
            .map(|rows| self.deck.whole(&all[rows], self.device));
        re_estimate(self.before.clone(), batches, share)
    }
}

/// Places of rows as a tensor.
fn places(places: &[usize], device: &Device) -> Tensor<1, Int> {
    let values: Vec<i64> = places.iter().map(|&place| i64::try_from(place).expect("rows are few")).collect();
    Tensor::from_data(TensorData::new(values, [places.len()]), device)
}

/// The first tensor with a NaN or an infinity.
fn not_finite(classifier: &Classifier) -> Option<String> {
    let finite = |data: &TensorData| data.as_slice::<f32>().is_ok_and(|values| values.iter().all(|v| v.is_finite()));
    gabion_learn::weights::export(classifier, "").into_iter().find(|(_, data)| !finite(data)).map(|(name, _)| name)
}

#[cfg(test)]
mod tests;
