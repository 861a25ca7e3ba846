//! What stands behind adaptation, the one seam to it.

// Without adaptation nothing reads what it is asked for.
#![cfg_attr(not(feature = "adapt"), allow(dead_code))]

use crate::status::Failure;
use gabion_runtime::{Deployed, Rgb};
use std::fmt;
use std::ops::ControlFlow;

/// The one in use. Adaptation is put here.
pub(crate) static ADAPTER: &dyn Adapter = &InService;

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
    /// The number of what is served from now on; without, the candidate was refused.
    pub(crate) promoted: Option<u64>,
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

/// Who adapts. Called on the threads of a session.
pub(crate) trait Adapter: fmt::Debug + Sync {
    /// Adapts what is served, writes what is promoted and serves it.
    fn adapt(
        &self,
        deployed: &Deployed,
        request: &Request<'_>,
        observer: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Outcome, Failure>;
}

/// What [`Deployed`] does.
#[derive(Debug)]
struct InService;

impl Adapter for InService {
    #[cfg(feature = "adapt")]
    fn adapt(
        &self,
        deployed: &Deployed,
        request: &Request<'_>,
        observer: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Outcome, Failure> {
        burned::adapt(deployed, request, observer)
    }

    #[cfg(not(feature = "adapt"))]
    fn adapt(
        &self,
        _: &Deployed,
        _: &Request<'_>,
        _: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Outcome, Failure> {
        let why = "this library was built without adaptation: build gabion-capi with the feature `adapt`";
        Err(Failure::new(crate::status::gabion_status::GABION_ERROR_UNSUPPORTED, why))
    }
}

#[cfg(feature = "adapt")]
mod burned {
    use super::*;
    use gabion_runtime::adapt::Progress as Told;
    use gabion_runtime::{Local, Verdict};
    use gabion_spec::Adapt;

    pub(super) fn adapt(
        deployed: &Deployed,
        request: &Request<'_>,
        observer: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Outcome, Failure> {
        let recipe = recipe(request)?;
        let local = Local {
            samples: borrowed(&request.samples),
            guard: request.guard.as_ref().map(borrowed),
            source: None,
            memory: request.memory,
        };
        let done = deployed.adapt(&local, &recipe, &mut |told| {
            observer(match told {
                Told::Guard { after, done, total } => Progress::Guard { after, done: done as u64, total: total as u64 },
                Told::Step { done, loss, seconds, share } => Progress::Step { done, loss, seconds, share },
            })
        })?;
        let reason = match &done.verdict {
            Verdict::Promoted => String::new(),
            Verdict::Refused { lost } => lost.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
        };
        let (before, after) = (&done.report.before, &done.report.after);
        Ok(Outcome {
            promoted: done.promoted,
            reason,
            steps: done.report.steps,
            seconds: done.report.seconds,
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
