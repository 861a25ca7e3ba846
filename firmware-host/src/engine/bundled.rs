//! A bundle, opened by `gabion-runtime`. On the CPU it is in service: it is attacked with gradients, adapts, and what was
//! promoted is written beside it. On another device it classifies.

use super::{About, Attacked, Engine, EngineError, Example, Guarded, Judgement, Look, Round, square};
use crate::frame::Frame;
use crate::state::{Guard, View};
use gabion_runtime::adapt::Progress;
use gabion_runtime::deployed::Candidate;
use gabion_runtime::generations::{self, GenerationError};
use gabion_runtime::{
    AdaptError, Choice, Classify, Deployed, DeployedError, Local, Rgb, Samples, Session, SessionError, Source, Trust,
    Verdict,
};
use gabion_spec::{Adapt, Budget, Pixels};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Steps of an attack on a frame.
const STEPS: u32 = 10;
/// Seconds that an adaptation trains.
const SECONDS: f64 = 20.0;
/// Fewest labelled frames: some are held out.
const FEWEST: usize = 20;

/// Why a bundle does not classify here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// No such device, or something is wrong with the bundle.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// Something is wrong with the bundle or its generations.
    #[error(transparent)]
    Deployed(#[from] DeployedError),
}

/// A bundle of the runtime.
#[derive(Debug)]
pub struct Bundled {
    model: Model,
    about: About,
    candidate: Mutex<Option<Candidate>>,
}

#[derive(Debug)]
enum Model {
    InService(Box<Deployed>),
    Elsewhere(Box<Session>),
}

impl Bundled {
    /// Opens and checks a bundle.
    ///
    /// # Errors
    /// Whatever is wrong with the bundle, with its path; when there is no such device.
    pub fn open(bundle: &Path, device: Choice) -> Result<Self, OpenError> {
        let deployed = Deployed::open(bundle, Trust::Any, None)?;
        let (elsewhere, place) = deployed.elsewhere(device)?;
        let serving = deployed.serving();
        let manifest = serving.session.manifest();
        let (name, classes) = (manifest.name.clone(), manifest.classes.clone());
        let (model, device) = match elsewhere {
            None => (Model::InService(Box::new(deployed)), "cpu".into()),
            Some(session) => (Model::Elsewhere(Box::new(session)), place),
        };
        let about = About { name, device, classes };
        Ok(Self { model, about, candidate: Mutex::new(None) })
    }

    fn with<T>(&self, work: impl FnOnce(&Session) -> T) -> T {
        match &self.model {
            Model::InService(deployed) => work(&deployed.serving().session),
            Model::Elsewhere(session) => work(session),
        }
    }

    fn in_service(&self, what: &'static str) -> Result<&Deployed, EngineError> {
        match &self.model {
            Model::InService(deployed) => Ok(deployed),
            Model::Elsewhere(_) => {
                Err(EngineError::Unavailable { what, why: "a bundle adapts on the CPU: give --device cpu".into() })
            }
        }
    }

    fn candidate(&self) -> std::sync::MutexGuard<'_, Option<Candidate>> {
        self.candidate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failed(what: &'static str) -> impl Fn(DeployedError) -> EngineError {
    move |error| match error {
        DeployedError::Adapt(AdaptError::Cancelled { .. }) => EngineError::Stopped,
        error => EngineError::Unavailable { what, why: error.to_string() },
    }
}

/// Of a candidate that the guard let pass.
fn not_promoted(error: &DeployedError) -> EngineError {
    let brief = match error {
        DeployedError::Generation(GenerationError::Full { .. }) => "no room for the new weights: free some".into(),
        DeployedError::Generation(GenerationError::ReadOnly { .. }) => {
            "the bundle's folder cannot be written: see --check".into()
        }
        DeployedError::Generation(GenerationError::NotAFolder { .. }) => {
            format!("{} in the bundle is no folder: remove it", generations::GENERATIONS)
        }
        error => error.to_string(),
    };
    EngineError::NotPromoted { brief, full: error.to_string() }
}

#[allow(clippy::cast_possible_truncation)] // a picture has less than 2^32 rows and columns
fn frame(picture: Rgb) -> Option<Frame> {
    Frame::new(picture.height as u32, picture.width as u32, picture.pixels)
}

impl Engine for Bundled {
    fn about(&self) -> &About {
        &self.about
    }

    fn classify(&self, frame: &Frame, look: &Look) -> Result<Judgement, EngineError> {
        let options = Classify { views: look.views, seed: look.seed, ..Classify::default() };
        let (prediction, votes) = self.with(|session| session.classify_with_votes(&frame.rgb(), &options))?;
        let ranked = prediction.ranked(&self.about.classes);
        let classes = ranked.into_iter().map(|(class, probability)| (class.to_string(), probability)).collect();
        let votes = if look.views == 1 { Vec::new() } else { votes };
        let view = |vote: gabion_runtime::Vote| View {
            area: vote.area,
            class: vote.class,
            agrees: vote.class == prediction.label,
        };
        let views = votes.into_iter().map(view).collect();
        Ok(Judgement { classes, agreement: prediction.agreement, margin: prediction.margin, views })
    }

    fn attack(&self, frame: &Frame, epsilon: Pixels, look: &Look) -> Result<Attacked, EngineError> {
        let made = self.with(|session| session.perturbed(&frame.rgb(), epsilon, STEPS))?;
        let Some([Some(clean), Some(perturbed)]) = made.map(|pair| pair.map(self::frame)) else {
            return square::attack(self, frame, epsilon, look);
        };
        let single = Look { views: 1, ..*look };
        let [before, after] = [self.classify(&clean, &single)?, self.classify(&perturbed, &single)?];
        square::finish(self, clean, perturbed, [&before, &after], look)
    }

    #[allow(clippy::cast_possible_truncation)] // shares fit
    fn adapt(
        &self,
        examples: &[Example],
        epsilon: Pixels,
        watch: &mut dyn FnMut(Round) -> ControlFlow<()>,
    ) -> Result<Guarded, EngineError> {
        let what = "adaptation";
        let deployed = self.in_service(what)?;
        if examples.len() < FEWEST {
            return Err(EngineError::Examples { have: examples.len(), need: FEWEST });
        }
        *self.candidate() = None;
        let images: Vec<Rgb> = examples.iter().map(|example| example.frame.rgb()).collect();
        let labels: Vec<u16> =
            examples.iter().map(|example| u16::try_from(example.class).unwrap_or(u16::MAX)).collect();
        let samples = Samples { images: &images, labels: Some(&labels) };
        let local = Local { samples, guard: None, source: None, memory: None };
        let budget = Budget::Seconds { seconds: SECONDS };
        let recipe = Adapt { epsilon, budget, rehearsal: 0.0, ..Adapt::default() };
        let made = deployed.candidate(&local, &recipe, &mut |told| match told {
            // The guard measures before and after; a loss is no accuracy to draw.
            Progress::Step { share, .. } => watch(Round { done: share as f32, attacked: None }),
            Progress::Guard { .. } => ControlFlow::Continue(()),
        });
        let candidate = made.map_err(failed(what))?;
        let share = |points: f64| (points / 100.0) as f32;
        let (before, after) = (&candidate.adapted.report.before, &candidate.adapted.report.after);
        let guard = Guard {
            clean: [before.clean_points(), after.clean_points()].map(share),
            attacked: [before.robust_points(), after.robust_points()].map(share),
        };
        let passes = candidate.adapted.verdict == Verdict::Promoted;
        *self.candidate() = passes.then_some(candidate);
        Ok(Guarded { guard, passes })
    }

    fn promote(&self) -> Result<(), EngineError> {
        let deployed = self.in_service("promotion")?;
        let Some(candidate) = self.candidate().take() else { return Err(EngineError::NoWeights("adapted")) };
        deployed.promote(&candidate).map(drop).map_err(|error| not_promoted(&error))
    }

    fn roll_back(&self) -> Result<(), EngineError> {
        let deployed = self.in_service("going back")?;
        if self.candidate().take().is_some() {
            return Ok(());
        }
        if deployed.serving().origin.source == Source::Base {
            return Err(EngineError::NoWeights("earlier"));
        }
        deployed.rollback(None).map(drop).map_err(failed("going back"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;
    use std::path::PathBuf;

    #[test]
    fn why_nothing_was_promoted_fits_a_screen_and_a_log() {
        let (doing, path) = ("write", PathBuf::from("/var/lib/gabion/bundle/generations/000001"));
        let full = GenerationError::Full { doing, path: path.clone(), source: ErrorKind::StorageFull.into() };
        let only =
            GenerationError::ReadOnly { doing, path: path.clone(), source: ErrorKind::ReadOnlyFilesystem.into() };
        for (error, words) in
            [(full, "no room"), (only, "--check"), (GenerationError::NotAFolder { path }, "remove it")]
        {
            let error = not_promoted(&error.into());
            assert!(error.brief().contains(words) && error.brief().len() < 60, "{}", error.brief());
            assert!(error.to_string().contains("/var/lib/gabion"), "{error}");
        }
    }
}
