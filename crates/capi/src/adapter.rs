//! What stands behind adaptation, the one seam to it: which weights of a bundle are served, how they are adapted and how
//! they are taken back.

// What is absent reads nothing and tells nothing.
#![allow(dead_code)]

use crate::status::Failure;
use crate::status::gabion_status::GABION_ERROR_UNSUPPORTED;
use gabion_runtime::{Rgb, Session};
use std::fmt;
use std::ops::ControlFlow;
use std::path::Path;

/// The one in use. Adaptation is put here.
pub(crate) static ADAPTER: &dyn Adapter = &Absent;

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

/// A library without adaptation.
#[derive(Debug)]
struct Absent;

impl Adapter for Absent {
    fn adapt(&self, _: &Request<'_>, _: &mut dyn FnMut(Progress) -> ControlFlow<()>) -> Result<Outcome, Failure> {
        Err(absent())
    }

    fn rollback(&self, _: &Path, _: Option<u64>) -> Result<Served, Failure> {
        Err(absent())
    }
}

fn absent() -> Failure {
    let why = "this library was built without adaptation: build gabion-capi with the feature `adapt`";
    Failure::new(GABION_ERROR_UNSUPPORTED, why)
}
