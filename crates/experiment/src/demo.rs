//! The whole way in a few minutes on drawn images: an encoder with free adversarial training beside its standard twin of
//! equal cost, a classifier on each, an attack on both, an exported bundle that classifies, and a report.
//!
//! | file | what |
//! |---|---|
//! | `demo.json` | that the folder is a demo's, and at its end the numbers |
//! | `standard/`, `free/` | the two pretraining runs ([`crate::run`]), their bundles with heads |
//! | `bundle/` | the model with free adversarial training, at half precision, with what was measured of it |
//! | `clean.png`, `attacked-standard.png`, `attacked-free.png` | a test image, and the attack on each model |
//! | `report.html` | everything on a page |

mod folder;
mod show;

use crate::data::Data;
use crate::data::synth::Synth;
use crate::evaluate::{self, Evaluation, Row, Subject};
use crate::measure::{self, Rate};
use crate::probe;
use crate::recipe::{self, Base, RecipeError};
use crate::report::{ReportError, render};
use crate::run::{self, Event, Outcome, RunError};
use burn::tensor::Device;
use folder::Folder;
use gabion_runtime::{Bundle, BundleError, ClassifyError, Offered, Session, Wanted};
use gabion_spec::{self as spec, Pixels, Precision, Pretrain, Protocol};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Where a demo is made and on what.
pub struct Options<'a> {
    /// The folder: a new or an empty one, or that of a former demo, which is replaced.
    pub out: &'a Path,
    /// A device without autodiff.
    pub device: Device,
    /// Its name, for the report.
    pub offered: Offered,
    /// Seeds the weights, the views, the heads and the choice of test images; the drawn images stay the same.
    pub seed: u64,
    /// Set from outside to stop.
    pub stop: &'a AtomicBool,
}

/// What a demo tells while it goes on.
#[derive(Clone, Debug, PartialEq)]
pub enum DemoEvent {
    /// A part of the demo begins.
    Stage {
        /// Which, from 1.
        stage: usize,
        /// Parts in all.
        stages: usize,
        /// What it does, a few words.
        what: String,
    },
    /// How far the part is.
    Progress {
        /// Units that are done.
        done: u64,
        /// Units in all.
        total: u64,
    },
    /// Something to know.
    Note(String),
}

/// What a demo found.
#[derive(Clone, Debug, Serialize)]
pub struct Demo {
    /// The standard model, then the one with free adversarial training.
    pub models: Vec<DemoModel>,
    /// A test image and its attacks, classified.
    pub classified: Vec<Classified>,
    /// The exported bundle, at half precision.
    pub bundle: PathBuf,
    /// The report.
    pub report: PathBuf,
    /// Seeds of everything but the drawn images.
    pub seed: u64,
    /// Time that it took.
    pub seconds: f64,
}

/// A model of the demo.
#[derive(Clone, Debug, Serialize)]
pub struct DemoModel {
    /// `standard` or `free-AT`.
    pub name: &'static str,
    /// The preset.
    pub preset: &'static str,
    /// Crops that went forward and back, every replay counted.
    pub crop_passes: u64,
    /// Accuracy on unperturbed images.
    pub clean: Rate,
    /// Accuracy under attack, one for each budget, rising.
    pub attacks: Vec<Row>,
    /// Time that the pretraining took.
    pub seconds: f64,
    /// The bundle that was measured.
    pub bundle: PathBuf,
}

/// An image file and what a model says of it.
#[derive(Clone, Debug, Serialize)]
pub struct Classified {
    /// Name of the model.
    pub model: &'static str,
    /// The file.
    pub image: PathBuf,
    /// The budget of its perturbation; none of the clean image.
    pub epsilon: Option<Pixels>,
    /// The true class.
    pub truth: String,
    /// The class predicted.
    pub predicted: String,
    /// Its probability.
    pub probability: f32,
    /// What to type to see it again.
    pub command: String,
}

/// Why a demo fails; one line each.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DemoError {
    /// A folder that holds something else.
    #[error("{} holds {found}, which no demo made: choose another --out, or an empty folder", path.display())]
    Occupied {
        /// The folder.
        path: PathBuf,
        /// The first file that is in the way.
        found: String,
    },
    /// It was told to stop.
    #[error("stopped; the demo begins anew when started again")]
    Stopped,
    /// The system refused.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The recipe does not resolve.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// A pretraining failed.
    #[error("the pretraining failed: {0}")]
    Run(#[from] RunError),
    /// A probe or an evaluation failed.
    #[error(transparent)]
    Measure(#[from] measure::Error),
    /// A bundle cannot be opened or written.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// An image cannot be classified.
    #[error(transparent)]
    Classify(#[from] ClassifyError),
    /// The report cannot be made.
    #[error(transparent)]
    Report(#[from] ReportError),
}

/// Makes the demo and returns its numbers.
///
/// # Errors
/// When the folder holds something that no demo made, the system refuses, or `stop` was set; all that is there then is
/// replaced when it is started again.
pub fn demo(options: &Options<'_>, observe: &mut dyn FnMut(DemoEvent)) -> Result<Demo, DemoError> {
    make(&Plan::default(), options, observe)
}

/// What decides the demo's results beside the seed.
struct Plan {
    synth: Synth,
    /// Over those of the two presets.
    settings: Vec<String>,
    probe: spec::Probe,
    /// Test images under attack.
    images: u32,
    epsilons: Vec<Pixels>,
    /// Test images in the report.
    examples: usize,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            synth: Synth::default(),
            settings: Vec::new(),
            probe: spec::Probe::Linear { rate: 0.001, batch: 64, epochs: 20 },
            images: 300,
            epsilons: [1.0, 2.0, 4.0, 8.0].map(Pixels::of_255).to_vec(),
            examples: 4,
        }
    }
}

/// What the two models are.
struct Kind {
    name: &'static str,
    preset: &'static str,
    folder: &'static str,
    description: &'static str,
    attacked: &'static str,
}

const KINDS: [Kind; 2] = [
    Kind {
        name: "standard",
        preset: "synth-tiny-standard",
        folder: "standard",
        description: "Self-supervised pretraining on unperturbed crops.",
        attacked: "attacked-standard.png",
    },
    Kind {
        name: "free-AT",
        preset: "synth-tiny",
        folder: "free",
        description: "Self-supervised pretraining with free adversarial training: each minibatch is replayed, and the \
                      gradient that moves the weights moves the perturbation too.",
        attacked: "attacked-free.png",
    },
];

/// The model whose bundle is given away.
const EXPORTED: usize = 1;

/// A model as far as the demo has come with it.
struct Made {
    kind: &'static Kind,
    recipe: Pretrain,
    bundle: PathBuf,
    session: Session,
    evaluation: Evaluation,
    loss: Vec<(u64, f32)>,
    crop_passes: u64,
    seconds: f64,
}

/// What every part of a demo works with.
struct Work<'a> {
    plan: &'a Plan,
    options: &'a Options<'a>,
    folder: Folder,
    data: Data,
}

/// Parts of a model: pretraining, probe, evaluation.
const PARTS: usize = 3;
const STAGES: usize = PARTS * KINDS.len() + 1;

fn make(plan: &Plan, options: &Options<'_>, observe: &mut dyn FnMut(DemoEvent)) -> Result<Demo, DemoError> {
    let start = Instant::now();
    let folder = Folder::take(options.out)?;
    let work = Work { plan, options, folder, data: Data::synth(&plan.synth) };
    let made = (0..KINDS.len()).map(|model| work.model(model, observe)).collect::<Result<Vec<_>, _>>()?;
    work.stage(STAGES, "classifying and reporting".into(), observe)?;
    let shown = show::choose(&work, &made)?;
    if !shown[0].telling {
        observe(DemoEvent::Note("no test image is lost by the standard model and kept by the other".into()));
    }
    let classified = show::write(&work, &made, &shown[0])?;
    let models = made.iter().map(|made| DemoModel {
        name: made.kind.name,
        preset: made.kind.preset,
        crop_passes: made.crop_passes,
        clean: made.evaluation.clean,
        attacks: made.evaluation.attacks.clone(),
        seconds: made.seconds,
        bundle: made.bundle.clone(),
    });
    let mut demo = Demo {
        models: models.collect(),
        classified,
        bundle: work.folder.path("bundle"),
        report: work.folder.path("report.html"),
        seed: options.seed,
        seconds: start.elapsed().as_secs_f64(),
    };
    let page = render(&show::report(&work, &demo, &made, &shown))?;
    work.folder.write("report.html", page.as_bytes())?;
    demo.seconds = start.elapsed().as_secs_f64();
    work.folder.finish(&demo)?;
    Ok(demo)
}

impl Work<'_> {
    /// Begins a part unless the demo was told to stop.
    fn stage(&self, stage: usize, what: String, observe: &mut dyn FnMut(DemoEvent)) -> Result<(), DemoError> {
        if self.options.stop.load(Ordering::Relaxed) {
            return Err(DemoError::Stopped);
        }
        observe(DemoEvent::Stage { stage, stages: STAGES, what });
        Ok(())
    }

    /// What measures a claim of the demo again.
    fn command(&self) -> String {
        format!("gabion demo --seed {}", self.options.seed)
    }

    fn model(&self, model: usize, observe: &mut dyn FnMut(DemoEvent)) -> Result<Made, DemoError> {
        let Self { plan, options, data, .. } = self;
        let (kind, device, seed) = (&KINDS[model], &options.device, options.seed);
        let settings: Vec<String> = plan.settings.iter().cloned().chain([format!("seed={seed}")]).collect();
        let recipe = recipe::resolve(&Base::Preset(kind.preset.into()), &settings)?;

        self.stage(PARTS * model + 1, format!("{}: pretraining", kind.name), observe)?;
        let out = self.folder.path(kind.folder);
        let run = run::Options {
            out: &out,
            resume: false,
            device: device.clone(),
            offered: &options.offered,
            pipeline: Wanted::Auto,
            checkpoint_every: None,
            stop: options.stop,
        };
        let (mut loss, mut seconds, mut minibatches) = (Vec::new(), 0.0, 0);
        let outcome = run::pretrain(&recipe, data, &run, &mut |event| match event {
            Event::Started { minibatches: total, .. } => minibatches = total,
            Event::Step(line) => {
                loss.push((line.step, line.loss));
                seconds = line.seconds;
            }
            Event::Minibatch(done) => observe(DemoEvent::Progress { done, total: minibatches }),
            Event::Note(note) => observe(DemoEvent::Note(note)),
        })?;
        let Outcome::Finished(mut path) = outcome else { return Err(DemoError::Stopped) };
        let crops = u64::from(recipe.views * recipe.batch);
        let crop_passes = minibatches * u64::from(recipe.threat.passes()) * crops;

        self.stage(PARTS * model + 2, format!("{}: training a linear classifier", kind.name), observe)?;
        let bundle = Bundle::open(&path, device)?;
        let probed = probe::probe(&bundle, &data.split, &plan.probe, seed, device, None, &mut |progress| {
            if let probe::Progress::Step { done, total } = progress {
                observe(DemoEvent::Progress { done, total });
            }
        })?;
        probe::write_into(&path, &probed, data.kind.name(), &self.command(), device)?;
        let mut bundle = Bundle::open(&path, device)?;
        if model == EXPORTED {
            // What is given away is what is attacked: weights that were rounded to half precision.
            path = self.folder.path("bundle");
            bundle.manifest.name = "gabion-demo".into();
            self.write(&path, &bundle)?;
            bundle = Bundle::open(&path, device)?;
        }

        self.stage(PARTS * model + 3, format!("{}: attacking", kind.name), observe)?;
        let evaluation = self.evaluate(&bundle, observe)?;
        if model == EXPORTED {
            for claim in evaluation.claims(data.kind.name(), &self.command()) {
                bundle.manifest.claim(claim);
            }
            self.write(&path, &bundle)?;
        }
        let session = Session::new(bundle)?;
        Ok(Made { kind, recipe, bundle: path, session, evaluation, loss, crop_passes, seconds })
    }

    fn write(&self, path: &Path, Bundle { manifest, model, head }: &Bundle) -> Result<(), DemoError> {
        Bundle::write(path, manifest.clone(), model, head.as_ref(), Precision::F16)?;
        Ok(())
    }

    fn evaluate(&self, bundle: &Bundle, observe: &mut dyn FnMut(DemoEvent)) -> Result<Evaluation, DemoError> {
        let Self { plan, options, data, .. } = self;
        let recipe = spec::Evaluate {
            restarts: None,
            protocol: Protocol::Paper,
            objective: spec::Objective::CrossEntropy,
            norm: spec::Norm::Linf,
            images: Some(plan.images),
            seed: options.seed,
            epsilons: plan.epsilons.clone(),
        };
        let how = evaluate::Options { keep: evaluate::Keep::All, ..evaluate::Options::default() };
        let subject = Subject::bundle(bundle, &options.device)?;
        let (mut what, mut before) = (None, 0);
        let total = plan.epsilons.len() as u64;
        let evaluation = evaluate::evaluate(&subject, &data.split.test, &recipe, &how, &mut |progress| {
            let evaluate::Progress { what: now, done, total: of, .. } = progress;
            if now == evaluate::CLEAN {
                return;
            }
            if what.as_ref() != Some(&now) {
                before += u64::from(what.is_some());
                what = Some(now);
            }
            observe(DemoEvent::Progress {
                done: 100 * before + 100 * done as u64 / of.max(1) as u64,
                total: 100 * total,
            });
        })?;
        evaluation.warnings.iter().for_each(|warning| observe(DemoEvent::Note(warning.clone())));
        Ok(evaluation)
    }
}

#[cfg(test)]
mod tests;
