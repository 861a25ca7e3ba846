//! A pretraining run: a folder that holds all that is needed to go on, to repeat it and to use its result.
//!
//! | file | what |
//! |---|---|
//! | `recipe.toml` | the resolved recipe |
//! | `run.json` | versions, commit, device, data |
//! | `metrics.jsonl` | a line an optimizer step |
//! | `log` | a line an event, with its time |
//! | `checkpoints/` | two generations |
//! | `bundle/` | the result |

mod folder;
mod log;
mod state;

pub use folder::recipe_of;

use crate::checkpoint::{Checkpoint, CheckpointError, Position};
use crate::data::order::stratified;
use crate::data::{Data, Images};
use crate::guard::{HeldOut, Verdict};
use crate::recipe::RecipeError;
use crate::views;
use burn::Tensor;
use burn::tensor::Device;
use folder::Facts;
use gabion_learn::loss::Loss;
use gabion_learn::optim::{cosine_rate, schedule_length};
use gabion_learn::train::{self, Minibatch, State};
use gabion_learn::weights;
use gabion_runtime::{Bundle, BundleError, Choice, Offered, Pipeline, PipelineError, Wanted};
use gabion_spec::{Precision, Pretrain};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Where a run is and how it is carried out; nothing here changes its result.
pub struct Options<'a> {
    /// The run folder.
    pub out: &'a Path,
    /// Go on from the newest checkpoint.
    pub resume: bool,
    /// A device without autodiff.
    pub device: Device,
    /// What it is.
    pub offered: &'a Offered,
    /// What makes the views.
    pub pipeline: Wanted,
    /// Minibatches between checkpoints; every minute when absent.
    pub checkpoint_every: Option<u64>,
    /// Set from outside to save and stop.
    pub stop: &'a AtomicBool,
}

impl Options<'_> {
    fn device_name(&self) -> String {
        format!("{} ({})", self.offered.name, self.offered.backend)
    }
}

/// An optimizer step, as `metrics.jsonl` has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Optimizer step, from 0.
    pub step: u64,
    /// Minibatch, from 0.
    pub minibatch: u64,
    /// Epoch, from 0.
    pub epoch: u64,
    /// Learning rate.
    pub rate: f64,
    /// The objective.
    pub loss: f32,
    /// Its terms.
    pub terms: BTreeMap<String, f32>,
    /// Crops a second since this process started.
    pub crops_per_second: f64,
    /// Share of the time since this process started that training waited for views.
    pub waiting: f64,
    /// Seconds trained in all.
    pub seconds: f64,
    /// Robust accuracy of the guard's probe in percent, where it ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<f64>,
}

/// What a run tells while it goes on.
pub enum Event<'a> {
    /// It begins at `minibatch` of `minibatches`.
    Started {
        /// Minibatches done before.
        minibatch: u64,
        /// Minibatches in all.
        minibatches: u64,
    },
    /// An optimizer step is done.
    Step(&'a Metrics),
    /// A minibatch is done; its position.
    Minibatch(u64),
    /// Something to know.
    Note(String),
}

/// How a run ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All epochs are done; the bundle is at this path.
    Finished(PathBuf),
    /// It was told to stop, saved and can be resumed.
    Stopped {
        /// Minibatches done.
        minibatches: u64,
    },
}

/// A run that failed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum RunError {
    #[error("{} already holds a run; add --resume to go on with it or choose another --out", path.display())]
    Exists { path: PathBuf },
    #[error("{} holds no run to resume; leave --resume out to start one", path.display())]
    Nothing { path: PathBuf },
    #[error("{} was started with another recipe; resume it without --preset, --recipe and --set, or choose another --out", path.display())]
    OtherRecipe { path: PathBuf },
    #[error("{} was started on other data ({was}, not {is}); give it the same --data", path.display())]
    OtherData { path: PathBuf, was: String, is: String },
    #[error("{} is being worked on by another process; wait for it or stop it", path.display())]
    Busy { path: PathBuf },
    #[error("{action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("a batch of {batch} is larger than the {images} training images; set batch={images} or less")]
    Batch { batch: u32, images: usize },
    #[error("the recipe wants {wanted} images, the data set has {images}; set images={images} or leave it out")]
    Images { wanted: u32, images: usize },
    #[error("the loss became {loss} at step {step}; lower optimizer.rate, then --resume from the checkpoint before it")]
    Diverged { step: u64, loss: f32 },
    #[error(
        "catastrophic overfitting at minibatch {minibatch}: PGD accuracy of the guard fell from {best:.1} % to {now:.1} %; lower threat.step or optimizer.rate and start again"
    )]
    Overfitting { minibatch: u64, best: f64, now: f64 },
    #[error("arithmetic = \"bf16\" is the CPU's, not that of {device}; give --device cpu, or set arithmetic=f32")]
    Arithmetic { device: String },
    #[error("a worker that makes views failed: {0}")]
    Worker(#[from] crate::data::prefetch::Panicked),
    #[error(transparent)]
    Views(#[from] PipelineError),
    #[error("{device} failed at minibatch {minibatch}: {why}; --resume goes on from the checkpoint before it")]
    Device { device: String, minibatch: u64, why: String },
    #[error("the checkpoint does not fit the recipe: {0}; start again without --resume")]
    Misfit(#[from] weights::Misfit),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    #[error(transparent)]
    Bundle(#[from] BundleError),
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RunError {
    let path = path.to_path_buf();
    move |source| RunError::Io { action, path, source }
}

/// Seconds between checkpoints when no number of minibatches is asked for.
const CHECKPOINT_SECONDS: u64 = 60;

/// Pretrains, from the start or from the newest checkpoint, and writes the bundle.
///
/// # Errors
/// See [`RunError`]; whatever happens, the checkpoints written so far are whole.
pub fn pretrain(
    recipe: &Pretrain,
    data: &Data,
    options: &Options<'_>,
    observe: &mut dyn FnMut(Event<'_>),
) -> Result<Outcome, RunError> {
    if !recipe.arithmetic.is_f32() && options.offered.choice != Choice::Cpu {
        return Err(RunError::Arithmetic { device: options.device_name() });
    }
    let (images, held_out) = training_images(recipe, &data.split.train)?;
    let (facts, mut log) = folder::prepare(recipe, data, &images, options)?;
    log.line(&format!(
        "gabion {} ({}) {} on {}: {} images of {}",
        env!("CARGO_PKG_VERSION"),
        crate::COMMIT,
        if options.resume { "goes on" } else { "starts" },
        options.device_name(),
        images.len(),
        data.kind.name()
    ));
    let mut told = |event: Event<'_>| {
        log.event(&event);
        observe(event);
    };
    let result = carry_out(recipe, &facts, &images, held_out, options, &mut told);
    log.end(&result);
    result
}

fn carry_out(
    recipe: &Pretrain,
    facts: &Facts,
    images: &Arc<Images>,
    held_out: Option<Images>,
    options: &Options<'_>,
    observe: &mut dyn FnMut(Event<'_>),
) -> Result<Outcome, RunError> {
    let out = options.out;
    let mut state = state::initial(recipe, &options.device);
    let mut position = Position::default();
    if options.resume {
        match Checkpoint::newest(&out.join("checkpoints")) {
            Ok(checkpoint) => position = state::restore(&mut state, checkpoint, recipe, &options.device)?,
            Err(_) => observe(Event::Note("no whole checkpoint: starting from the beginning".into())),
        }
    }
    let metrics_path = out.join("metrics.jsonl");
    let (mut metrics, bytes) = folder::open_metrics(&metrics_path, position.metrics_bytes)?;
    position.metrics_bytes = bytes;
    let guard = held_out.map(|images| HeldOut::new(recipe, &images, &options.device));
    let files = Files { checkpoints: &out.join("checkpoints"), metrics: &mut metrics, metrics_path: &metrics_path };
    let trained = train(recipe, images, guard.as_ref(), &mut state, position, files, options, observe)?;
    match trained {
        Trained::Stopped(minibatches) => Ok(Outcome::Stopped { minibatches }),
        Trained::Finished => {
            let model = match &state.average {
                Some(average) => average.apply(state.model),
                None => state.model,
            };
            let path = out.join("bundle");
            Bundle::write(&path, folder::manifest(recipe, facts), &model, None, Precision::F32)?;
            Ok(Outcome::Finished(path))
        }
    }
}

/// The images to train on and, where the guard runs, those that it holds out.
fn training_images(recipe: &Pretrain, train: &Images) -> Result<(Arc<Images>, Option<Images>), RunError> {
    let (mut images, mut held_out) = (train.clone(), None);
    if recipe.guard.every > 0 {
        let count = (2 * recipe.guard.images as usize).min(train.len() / 4);
        let chosen = stratified(&train.labels, count, recipe.seed ^ 0x6775_6172_6400);
        let rest: Vec<usize> = (0..train.len()).filter(|index| chosen.binary_search(index).is_err()).collect();
        (images, held_out) = (train.select(&rest), Some(train.select(&chosen)));
    }
    match recipe.images {
        Some(wanted) if wanted as usize > images.len() => {
            return Err(RunError::Images { wanted, images: images.len() });
        }
        Some(wanted) => images = images.stratified(wanted as usize, recipe.seed),
        None => {}
    }
    if images.len() < recipe.batch as usize {
        return Err(RunError::Batch { batch: recipe.batch, images: images.len() });
    }
    Ok((Arc::new(images), held_out))
}

enum Trained {
    Finished,
    Stopped(u64),
}

struct Files<'a> {
    checkpoints: &'a Path,
    metrics: &'a mut std::fs::File,
    metrics_path: &'a Path,
}

#[allow(clippy::too_many_arguments, clippy::cast_precision_loss)] // counts are far below 2^52
fn train(
    recipe: &Pretrain,
    images: &Arc<Images>,
    guard: Option<&HeldOut>,
    state: &mut State,
    mut position: Position,
    files: Files<'_>,
    options: &Options<'_>,
    observe: &mut dyn FnMut(Event<'_>),
) -> Result<Trained, RunError> {
    let per_epoch = views::minibatches_per_epoch(recipe, images.len()) as u64;
    let total = per_epoch * u64::from(recipe.epochs);
    let replays = u64::from(recipe.threat.replays());
    let length = schedule_length(recipe.optimizer.schedule, total, recipe.threat.replays());
    let objective = train::objective(recipe.loss, recipe.views as usize);
    let clean = train::clean_views(&recipe.loss) * recipe.batch as usize;
    let crops = (recipe.views * recipe.batch) as usize;
    let (pipeline, why) = views::with_trial(recipe, images, |work| {
        Pipeline::choose(options.pipeline, &options.device, options.offered, work)
    })?;
    let (pipeline, sources) = (Arc::new(pipeline), views::sources(images));
    // The CPU's workers find their images themselves.
    let resident = pipeline.sources(if pipeline.on_device() { &sources } else { &[] })?;
    observe(Event::Note(why));
    observe(Event::Started { minibatch: position.minibatches, minibatches: total });
    let index = |minibatch: u64| usize::try_from(minibatch).expect("minibatches fit memory");
    let (from, to) = (index(position.minibatches), index(total));
    let mut ahead = views::prefetch(&Arc::new(recipe.clone()), images, &pipeline, from, to);
    let (mut making, mut told_fallen) = (Duration::ZERO, false);
    let (started, before) = (Instant::now(), position.seconds);
    let (first, mut saved) = (position.minibatches, Instant::now());
    while let Some(batch) = ahead.next() {
        let x = match batch? {
            views::Minibatch::Views(views) => *views,
            views::Minibatch::Draws(draws) => {
                let asked = Instant::now();
                let views = pipeline.views(&resident, &draws, recipe.augment.size)?;
                making += asked.elapsed();
                views
            }
        };
        if let Some(why) = pipeline.fallen().filter(|_| !told_fallen) {
            observe(Event::Note(format!("views: cpu pipeline from here on ({why})")));
            told_fallen = true;
        }
        let batch = Minibatch { x, clean };
        let minibatch = position.minibatches;
        let first_step = minibatch * replays;
        let rates: Vec<f64> =
            (0..replays).map(|replay| cosine_rate(recipe.optimizer.rate, first_step + replay, length)).collect();
        let losses = step(options, minibatch, || {
            train::minibatch(state, &objective, &batch, &recipe.threat, &rates)
                .into_iter()
                .map(|loss| (scalar(&loss.total), terms(&loss)))
                .collect::<Vec<_>>()
        })?;
        position.minibatches += 1;
        position.seconds = before + started.elapsed().as_secs_f64();
        let verdict = guard.and_then(|guard| guard.probe(&state.model, position.minibatches));
        let done = (position.minibatches - first) * u64::from(recipe.threat.passes()) * crops as u64;
        let last = losses.len() - 1;
        for (replay, (loss, terms)) in losses.into_iter().enumerate() {
            let line = Metrics {
                step: first_step + replay as u64,
                minibatch,
                epoch: minibatch / per_epoch,
                rate: rates[replay],
                loss,
                terms,
                crops_per_second: done as f64 / started.elapsed().as_secs_f64(),
                waiting: (ahead.waited() + making).as_secs_f64() / ahead.elapsed().as_secs_f64().max(1e-9),
                seconds: position.seconds,
                guard: verdict.as_ref().filter(|_| replay == last).map(|verdict| verdict.robust),
            };
            let mut text = serde_json::to_vec(&line).expect("plain data");
            text.push(b'\n');
            files.metrics.write_all(&text).map_err(io_error("cannot write", files.metrics_path))?;
            position.metrics_bytes += text.len() as u64;
            observe(Event::Step(&line));
            if !line.loss.is_finite() {
                return Err(RunError::Diverged { step: line.step, loss: line.loss });
            }
        }
        if let Some(Verdict { robust: now, clean }) = verdict {
            observe(Event::Note(format!("guard at minibatch {minibatch}: clean {clean:.1} %, PGD {now:.1} %")));
            let best = position.best_guard.map_or(now, |best| best.max(now));
            if best - now > recipe.guard.drop_points {
                return Err(RunError::Overfitting { minibatch, best, now });
            }
            position.best_guard = Some(best);
        }
        observe(Event::Minibatch(position.minibatches));
        let stop = options.stop.load(Ordering::Relaxed);
        let due = match options.checkpoint_every {
            Some(every) => position.minibatches.is_multiple_of(every.max(1)),
            None => saved.elapsed() >= Duration::from_secs(CHECKPOINT_SECONDS),
        };
        if stop || due || position.minibatches == total {
            files.metrics.sync_data().map_err(io_error("cannot write", files.metrics_path))?;
            state::save(state, &position).write(files.checkpoints)?;
            saved = Instant::now();
        }
        if stop && position.minibatches < total {
            return Ok(Trained::Stopped(position.minibatches));
        }
    }
    Ok(Trained::Finished)
}

/// Burn panics where a device is lost or refuses work; the CPU's panics are ours.
fn step<T>(options: &Options<'_>, minibatch: u64, step: impl FnOnce() -> T) -> Result<T, RunError> {
    if options.offered.choice == Choice::Cpu {
        return Ok(step());
    }
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(step)).map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(ToString::to_string);
        let why = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it panicked".into());
        let why = why.lines().next().unwrap_or_default().to_string();
        RunError::Device { device: options.device_name(), minibatch, why }
    })
}

fn scalar(value: &Tensor<1>) -> f32 {
    value.clone().into_scalar::<f32>()
}

fn terms(loss: &Loss) -> BTreeMap<String, f32> {
    loss.terms.iter().map(|(name, value)| ((*name).to_string(), scalar(value))).collect()
}
