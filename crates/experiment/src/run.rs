//! A pretraining run: a folder that holds all that is needed to go on, to repeat it and to use its result.
//!
//! | file | what |
//! |---|---|
//! | `recipe.toml` | the resolved recipe |
//! | `run.json` | versions, commit, device, data |
//! | `metrics.jsonl` | a line an optimizer step |
//! | `checkpoints/` | two generations |
//! | `bundle/` | the result |

use crate::checkpoint::{Checkpoint, CheckpointError, Position};
use crate::data::order::stratified;
use crate::data::{Data, Images};
use crate::guard::{HeldOut, Verdict};
use crate::recipe::{self, RecipeError};
use crate::views;
use burn::Tensor;
use burn::tensor::{Device, TensorData};
use gabion_learn::loss::Loss;
use gabion_learn::optim::{Average, Lars, cosine_rate, schedule_length};
use gabion_learn::train::{self, Minibatch, State};
use gabion_learn::{Model, weights};
use gabion_runtime::{Bundle, BundleError, durable};
use gabion_spec::{FORMAT_VERSION, Input, Manifest, Precision, Pretrain, Weights};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, Seek, Write};
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
    /// Its name, for `run.json`.
    pub device_name: String,
    /// Minibatches between checkpoints; every minute when absent.
    pub checkpoint_every: Option<u64>,
    /// Set from outside to save and stop.
    pub stop: &'a AtomicBool,
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
    #[error("a worker that makes views failed: {0}")]
    Worker(#[from] crate::data::prefetch::Panicked),
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

#[derive(Debug, Serialize, Deserialize)]
struct Facts {
    gabion: String,
    commit: String,
    burn: String,
    device: String,
    data: String,
    images: usize,
    seed: u64,
}

/// Seconds between checkpoints when no number of minibatches is asked for.
const CHECKPOINT_SECONDS: u64 = 60;

/// The recipe of a run folder.
///
/// # Errors
/// When the folder holds none.
pub fn recipe_of(out: &Path) -> Result<Pretrain, RunError> {
    let path = out.join("recipe.toml");
    let text = std::fs::read_to_string(&path).map_err(|_| RunError::Nothing { path: out.into() })?;
    Ok(recipe::parse(&path.display().to_string(), &text, &[])?)
}

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
    let out = options.out;
    let (images, held_out) = training_images(recipe, &data.split.train)?;
    let facts = prepare(recipe, data, images.len(), options)?;
    let mut state = initial(recipe, &options.device);
    let mut position = Position::default();
    if options.resume {
        match Checkpoint::newest(&out.join("checkpoints")) {
            Ok(checkpoint) => position = restore(&mut state, checkpoint, recipe, &options.device)?,
            Err(_) => observe(Event::Note("no whole checkpoint: starting from the beginning".into())),
        }
    }
    let metrics_path = out.join("metrics.jsonl");
    let (mut metrics, bytes) = open_metrics(&metrics_path, position.metrics_bytes)?;
    position.metrics_bytes = bytes;
    let guard = held_out.map(|images| HeldOut::new(recipe, &images, &options.device));
    let files = Files { checkpoints: &out.join("checkpoints"), metrics: &mut metrics, metrics_path: &metrics_path };
    let trained = train(recipe, &images, guard.as_ref(), &mut state, position, files, options, observe)?;
    match trained {
        Trained::Stopped(minibatches) => Ok(Outcome::Stopped { minibatches }),
        Trained::Finished => {
            let model = match &state.average {
                Some(average) => average.apply(state.model),
                None => state.model,
            };
            let manifest = manifest(recipe, &facts);
            let path = out.join("bundle");
            Bundle::write(&path, manifest, &model, None, Precision::F32)?;
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

/// Makes the run folder, or checks that it is the one to resume.
fn prepare(recipe: &Pretrain, data: &Data, images: usize, options: &Options<'_>) -> Result<Facts, RunError> {
    let out = options.out;
    let (recipe_path, facts_path) = (out.join("recipe.toml"), out.join("run.json"));
    let facts = Facts {
        gabion: env!("CARGO_PKG_VERSION").into(),
        commit: env!("GABION_COMMIT").into(),
        burn: "0.22.1".into(),
        device: options.device_name.clone(),
        data: data.kind.name().into(),
        images,
        seed: recipe.seed,
    };
    if options.resume {
        let text = std::fs::read(&facts_path).map_err(|_| RunError::Nothing { path: out.into() })?;
        if recipe_of(out)? != *recipe {
            return Err(RunError::OtherRecipe { path: out.into() });
        }
        let was: Option<Facts> = serde_json::from_slice(&text).ok();
        let describe = |facts: &Facts| format!("{} images of {}", facts.images, facts.data);
        if let Some(was) = was
            && describe(&was) != describe(&facts)
        {
            return Err(RunError::OtherData { path: out.into(), was: describe(&was), is: describe(&facts) });
        }
        return Ok(facts);
    }
    if facts_path.exists() {
        return Err(RunError::Exists { path: out.into() });
    }
    let checkpoints = out.join("checkpoints");
    std::fs::create_dir_all(&checkpoints).map_err(io_error("cannot make the folder", &checkpoints))?;
    let text = recipe::to_toml(recipe);
    durable::write(&recipe_path, text.as_bytes()).map_err(io_error("cannot write", &recipe_path))?;
    let text = serde_json::to_vec_pretty(&facts).expect("plain data");
    durable::write(&facts_path, &text).map_err(io_error("cannot write", &facts_path))?;
    Ok(facts)
}

/// Random weights, no momentum.
fn initial(recipe: &Pretrain, device: &Device) -> State {
    State {
        model: Model::init(&recipe.encoder, &recipe.projector, recipe.seed, &device.clone().autodiff()),
        optim: Lars::new(recipe.optimizer),
        average: recipe.average.map(Average::new),
        delta: None,
    }
}

fn save(state: &State, position: &Position) -> Checkpoint {
    let mut tensors = weights::export(&state.model, "model/");
    let mut add = |prefix: &str, given: BTreeMap<String, TensorData>| {
        tensors.extend(given.into_iter().map(|(name, data)| (format!("{prefix}{name}"), data)));
    };
    add("momentum/", state.optim.state());
    if let Some(average) = &state.average {
        add("average/", average.state());
    }
    if let Some(delta) = &state.delta {
        add("delta", BTreeMap::from([(String::new(), delta.to_data_as::<f32>())]));
    }
    Checkpoint { position: position.clone(), tensors }
}

fn restore(
    state: &mut State,
    checkpoint: Checkpoint,
    recipe: &Pretrain,
    device: &Device,
) -> Result<Position, RunError> {
    let mut given = checkpoint.under("model/");
    state.model = weights::import(initial(recipe, device).model, "", &mut given)?;
    state.optim.load(&checkpoint.under("momentum/"), device);
    if let Some(average) = &mut state.average {
        average.load(&checkpoint.under("average/"), device);
    }
    state.delta = checkpoint.tensors.get("delta").map(|data| Tensor::from_data(data.clone(), device));
    Ok(checkpoint.position)
}

/// The metrics up to the checkpoint, ready to append, and their length.
fn open_metrics(path: &Path, keep: u64) -> Result<(std::fs::File, u64), RunError> {
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(io_error("cannot write", path))?;
    // Lines after the checkpoint are made again; a file that was taken away begins anew.
    let keep = file.metadata().map_err(io_error("cannot read", path))?.len().min(keep);
    file.set_len(keep).and_then(|()| file.seek(io::SeekFrom::End(0))).map_err(io_error("cannot write", path))?;
    Ok((file, keep))
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
    let [height, width] = recipe.augment.size.map(|side| side as usize);
    observe(Event::Started { minibatch: position.minibatches, minibatches: total });
    let index = |minibatch: u64| usize::try_from(minibatch).expect("minibatches fit memory");
    let mut ahead = views::prefetch(&Arc::new(recipe.clone()), images, index(position.minibatches), index(total));
    let (started, before) = (Instant::now(), position.seconds);
    let (first, mut saved) = (position.minibatches, Instant::now());
    while let Some(batch) = ahead.next() {
        let x = TensorData::new(batch?, [crops, 3, height, width]);
        let batch = Minibatch { x: Tensor::from_data(x, &options.device), clean };
        let minibatch = position.minibatches;
        let first_step = minibatch * replays;
        let rates: Vec<f64> =
            (0..replays).map(|replay| cosine_rate(recipe.optimizer.rate, first_step + replay, length)).collect();
        let losses = train::minibatch(state, &objective, &batch, &recipe.threat, &rates);
        position.minibatches += 1;
        position.seconds = before + started.elapsed().as_secs_f64();
        let verdict = guard.and_then(|guard| guard.probe(&state.model, position.minibatches));
        let done = (position.minibatches - first) * u64::from(recipe.threat.passes()) * crops as u64;
        let last = losses.len() - 1;
        for (replay, loss) in losses.iter().enumerate() {
            let line = Metrics {
                step: first_step + replay as u64,
                minibatch,
                epoch: minibatch / per_epoch,
                rate: rates[replay],
                loss: scalar(&loss.total),
                terms: terms(loss),
                crops_per_second: done as f64 / started.elapsed().as_secs_f64(),
                waiting: ahead.waited().as_secs_f64() / ahead.elapsed().as_secs_f64().max(1e-9),
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
            save(state, &position).write(files.checkpoints)?;
            saved = Instant::now();
        }
        if stop && position.minibatches < total {
            return Ok(Trained::Stopped(position.minibatches));
        }
    }
    Ok(Trained::Finished)
}

fn scalar(value: &Tensor<1>) -> f32 {
    value.clone().into_scalar::<f32>()
}

fn terms(loss: &Loss) -> BTreeMap<String, f32> {
    loss.terms.iter().map(|(name, value)| ((*name).to_string(), scalar(value))).collect()
}

fn manifest(recipe: &Pretrain, facts: &Facts) -> Manifest {
    let [height, width] = recipe.augment.size;
    Manifest {
        format: FORMAT_VERSION,
        name: format!("gabion-{}", facts.data),
        encoder: recipe.encoder,
        projector: recipe.projector,
        input: Input { height, width },
        classes: Vec::new(),
        head: None,
        pretrain: Some(recipe.clone()),
        data: Some(facts.data.clone()),
        weights: Weights { file: "model.safetensors".into(), sha256: String::new(), precision: Precision::F32 },
        claims: Vec::new(),
        writer: format!("gabion {} ({})", facts.gabion, facts.commit),
    }
}
