//! What stands behind adaptation, the one seam to it: which weights of a bundle are served, how they are adapted and how
//! they are taken back.

// Without adaptation nothing reads what it is asked for.
#![cfg_attr(not(feature = "adapt"), allow(dead_code))]

use crate::status::Failure;
use gabion_runtime::{Rgb, Session, Stored, Trust, generations};
use std::fmt;
use std::ops::ControlFlow;
use std::path::Path;

/// The one in use. Adaptation is put here.
pub(crate) static ADAPTER: &dyn Adapter = &Generations;

/// Weights that classify.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) session: Session,
    /// The number of adapted ones; 0 for the bundle's own.
    pub(crate) generation: u64,
}

/// Labelled images or not.
#[derive(Debug)]
pub(crate) struct Samples {
    pub(crate) images: Vec<Rgb>,
    /// The class of each.
    pub(crate) labels: Option<Vec<u16>>,
}

/// What is to be done.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    /// The folder.
    pub(crate) bundle: &'a Path,
    /// What is served at present.
    pub(crate) served: &'a Served,
    /// What is trained on.
    pub(crate) samples: Samples,
    /// What nothing is trained on.
    pub(crate) guard: Option<Samples>,
    /// JSON of the recipe; the default without.
    pub(crate) recipe: Option<&'a str>,
    /// In the place of the recipe's.
    pub(crate) budget: Option<Budget>,
    /// Most bytes that training may take.
    pub(crate) memory: Option<u64>,
    /// Of the session that results, as in [`Adapter::open`].
    pub(crate) session_memory: Option<u64>,
}

/// How long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Budget {
    Seconds(f64),
    Steps(u64),
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Progress {
    /// Held-out images are classified and attacked, before training or after it.
    Guard { after: bool, done: u64, total: u64 },
    /// A step is done.
    Step { done: u64, loss: f32, seconds: f64, share: f64 },
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// What is to be served from now on; without, the candidate was refused.
    pub(crate) promoted: Option<Served>,
    /// Why it was refused.
    pub(crate) reason: String,
    pub(crate) steps: u64,
    pub(crate) seconds: f64,
    /// Held-out images.
    pub(crate) images: u64,
    /// Accuracy on them in points, before and after.
    pub(crate) clean: [f64; 2],
    /// The same under attack.
    pub(crate) robust: [f64; 2],
}

/// Who adapts. Called on the threads of a session, for one session one call at a time.
pub(crate) trait Adapter: fmt::Debug + Sync {
    /// The weights of a bundle that are to be served.
    fn open(&self, bundle: &Path, memory: Option<u64>) -> Result<Served, Failure> {
        Ok(Served { session: limited(Session::open(bundle)?, memory)?, generation: 0 })
    }

    /// Adapts what is served, writes what is promoted and opens it.
    fn adapt(
        &self,
        request: &Request<'_>,
        observer: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Outcome, Failure>;

    /// Withdraws the newest adapted weights and opens what is served then.
    fn rollback(&self, bundle: &Path, memory: Option<u64>) -> Result<Served, Failure>;
}

/// A session within a budget.
pub(crate) fn limited(session: Session, memory: Option<u64>) -> Result<Session, Failure> {
    Ok(match memory {
        Some(budget) => session.with_memory(budget)?,
        None => session,
    })
}

/// Generations in the bundle's folder, as everything else of Gabion reads and writes them.
#[derive(Debug)]
struct Generations;

impl Adapter for Generations {
    fn open(&self, bundle: &Path, memory: Option<u64>) -> Result<Served, Failure> {
        let served = generations::open(bundle, &Trust::Any, Stored::read)?;
        let generation = served.source.number();
        Ok(Served { session: limited(Session::of(&served.bundle)?, memory)?, generation })
    }

    #[cfg(feature = "adapt")]
    fn adapt(
        &self,
        request: &Request<'_>,
        observer: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Outcome, Failure> {
        burned::adapt(self, request, observer)
    }

    #[cfg(not(feature = "adapt"))]
    fn adapt(&self, _: &Request<'_>, _: &mut dyn FnMut(Progress) -> ControlFlow<()>) -> Result<Outcome, Failure> {
        let why = "this library was built without adaptation: build gabion-capi with the feature `adapt`";
        Err(Failure::new(crate::status::gabion_status::GABION_ERROR_UNSUPPORTED, why))
    }

    fn rollback(&self, bundle: &Path, memory: Option<u64>) -> Result<Served, Failure> {
        generations::rollback(bundle, None)?;
        self.open(bundle, memory)
    }
}

#[cfg(feature = "adapt")]
mod burned {
    use super::*;
    use crate::status::gabion_status::GABION_ERROR_ADAPT;
    use gabion_runtime::adapt::{self, Progress as Told};
    use gabion_runtime::deployed::promote;
    use gabion_runtime::{Bundle, Local, Verdict};
    use gabion_spec::Adapt;

    pub(super) fn adapt(
        adapter: &Generations,
        request: &Request<'_>,
        observer: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Outcome, Failure> {
        let recipe = recipe(request)?;
        let device = gabion_runtime::choose(gabion_runtime::Choice::Cpu)
            .map_err(|error| Failure::new(GABION_ERROR_ADAPT, error.to_string()))?
            .0;
        let served = generations::open(request.bundle, &Trust::Any, |dir| Bundle::open(dir, &device))?;
        if served.source.number() != request.served.generation {
            let why = "another process adapted or rolled back the bundle: open it again";
            return Err(Failure::new(GABION_ERROR_ADAPT, why));
        }
        let local = Local {
            samples: borrowed(&request.samples),
            guard: request.guard.as_ref().map(borrowed),
            source: None,
            memory: request.memory,
        };
        let mut tell = |told: Told| {
            observer(match told {
                Told::Guard { after, done, total } => Progress::Guard { after, done: done as u64, total: total as u64 },
                Told::Step { done, loss, seconds, share } => Progress::Step { done, loss, seconds, share },
            })
        };
        let adapted = adapt::adapt(&served.bundle, &local, &recipe, &mut tell)?;
        let (promoted, reason) = match &adapted.verdict {
            Verdict::Promoted => {
                promote(request.bundle, served.source, &adapted.candidate)?;
                (Some(adapter.open(request.bundle, request.session_memory)?), String::new())
            }
            Verdict::Refused { lost } => (None, lost.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")),
        };
        let (before, after) = (&adapted.report.before, &adapted.report.after);
        Ok(Outcome {
            promoted,
            reason,
            steps: adapted.report.steps,
            seconds: adapted.report.seconds,
            images: before.images as u64,
            clean: [before.clean_points(), after.clean_points()],
            robust: [before.robust_points(), after.robust_points()],
        })
    }

    fn borrowed(samples: &Samples) -> gabion_runtime::Samples<'_> {
        gabion_runtime::Samples { images: &samples.images, labels: samples.labels.as_deref() }
    }

    /// The recipe's keys over the defaults, and the budget over both. Nothing is rehearsed: C gives no features.
    fn recipe(request: &Request<'_>) -> Result<Adapt, Failure> {
        let mut value = serde_json::to_value(Adapt::default()).expect("a recipe is plain data");
        if let Some(text) = request.recipe {
            let wrong = |why: String| Failure::argument(format!("`options->recipe`: {why}"));
            let given: serde_json::Map<String, serde_json::Value> =
                serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
            let all = value.as_object_mut().expect("a recipe is an object");
            all.extend(given);
        }
        let mut recipe: Adapt =
            serde_json::from_value(value).map_err(|error| Failure::argument(format!("`options->recipe`: {error}")))?;
        match request.budget {
            Some(Budget::Seconds(seconds)) => recipe.budget = gabion_spec::Budget::Seconds { seconds },
            Some(Budget::Steps(steps)) => recipe.budget = gabion_spec::Budget::Steps { steps },
            None => {}
        }
        recipe.rehearsal = 0.0;
        recipe.validate().map_err(|error| Failure::argument(format!("`options->recipe`: {error}")))?;
        Ok(recipe)
    }
}
