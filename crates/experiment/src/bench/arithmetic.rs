//! One recipe trained in each arithmetic, from the same weights on the same views: how far the losses part, and what the
//! encoders are worth.

use crate::data::Data;
use crate::evaluate::{self, Subject};
use crate::measure::{self, Rate};
use crate::probe;
use crate::run::{self, Event, Outcome, RunError};
use burn::tensor::Device;
use gabion_runtime::{Bundle, BundleError, Offered, Wanted};
use gabion_spec::{Arithmetic, Evaluate, Pretrain, Probe};
use serde::Serialize;
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// What is trained, on what, and how it is measured.
pub struct Settings<'a> {
    /// Whose arithmetic is set here.
    pub recipe: &'a Pretrain,
    /// Trains encoder and classifier, and tests both.
    pub data: &'a Data,
    /// The classifier.
    pub probe: &'a Probe,
    /// The attack.
    pub evaluate: &'a Evaluate,
    /// A folder that gets a run for each.
    pub out: &'a Path,
    /// The CPU, without autodiff.
    pub device: Device,
    /// What it is.
    pub offered: &'a Offered,
    /// Set from outside to stop.
    pub stop: &'a AtomicBool,
}

/// A run and its encoder's worth.
#[derive(Clone, Debug, Serialize)]
pub struct Trained {
    /// In what.
    pub arithmetic: Arithmetic,
    /// Of every optimizer step.
    pub loss: Vec<f32>,
    /// Mean of the last tenth of them.
    pub last_loss: f32,
    /// Time that the training took.
    pub seconds: f64,
    /// Of a linear classifier on unperturbed images.
    pub clean: Rate,
    /// Under each attack.
    pub attacks: Vec<evaluate::Row>,
}

/// Why there is no comparison.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It was told to stop.
    #[error("stopped; the comparison begins anew when started again")]
    Stopped,
    /// A training failed.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A classifier or an attack failed.
    #[error(transparent)]
    Measure(#[from] measure::Error),
    /// A bundle cannot be opened or written.
    #[error(transparent)]
    Bundle(#[from] BundleError),
}

/// Trains, probes and attacks; `observe` is told what goes on.
///
/// # Errors
/// See [`Error`].
pub fn train(arithmetic: Arithmetic, settings: &Settings<'_>, observe: &mut dyn FnMut(&str)) -> Result<Trained, Error> {
    let Settings { recipe, data, probe, evaluate: attack, out, device, offered, stop } = settings;
    let recipe = Pretrain { arithmetic, ..(*recipe).clone() };
    let options = run::Options {
        out: &out.join(arithmetic.to_string()),
        resume: false,
        device: device.clone(),
        offered,
        pipeline: Wanted::Auto,
        checkpoint_every: None,
        stop,
    };
    let (mut loss, mut seconds) = (Vec::new(), 0.0);
    observe(&format!("{arithmetic}: pretraining"));
    let outcome = run::pretrain(&recipe, data, &options, &mut |event| match event {
        Event::Step(line) => {
            loss.push(line.loss);
            seconds = line.seconds;
        }
        Event::Note(note) => observe(&note),
        _ => {}
    })?;
    let Outcome::Finished(path) = outcome else { return Err(Error::Stopped) };
    observe(&format!("{arithmetic}: {} steps in {seconds:.0} s; a linear classifier", loss.len()));
    let bundle = Bundle::open(&path, device)?;
    let probed = probe::probe(&bundle, &data.split, probe, recipe.seed, device, None, &mut |_| {})?;
    probe::write_into(&path, &probed, data.kind.name(), "gabion bench arithmetic", device)?;
    let bundle = Bundle::open(&path, device)?;
    observe(&format!("{arithmetic}: attacking it"));
    let subject = Subject::bundle(&bundle, device)?;
    let found = evaluate::evaluate(&subject, &data.split.test, attack, &evaluate::Options::default(), &mut |_| {})?;
    found.warnings.iter().for_each(|warning| observe(warning));
    let last = &loss[loss.len() - loss.len().div_ceil(10)..];
    #[allow(clippy::cast_precision_loss)]
    let last_loss = last.iter().sum::<f32>() / last.len() as f32;
    Ok(Trained { arithmetic, last_loss, loss, seconds, clean: found.clean, attacks: found.attacks })
}
