//! A bundle, opened by `gabion-runtime`.

use super::{About, Attacked, Engine, EngineError, Example, Guarded, Judgement, Look, Round, square};
use crate::frame::Frame;
use crate::state::View;
use gabion_runtime::{Bundle, BundleError, Choice, Classify, DeviceError, Session, choose};
use gabion_spec::Pixels;
use std::ops::ControlFlow;
use std::path::Path;

/// Why a bundle does not classify here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// No such device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Something is wrong with the bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
}

/// A session of the runtime. It has no adaptation yet, so that weights never change.
#[derive(Debug)]
pub struct Bundled {
    session: Session,
    about: About,
}

impl Bundled {
    /// Opens and checks a bundle.
    ///
    /// # Errors
    /// Whatever is wrong with the bundle, with its path; when there is no such device.
    pub fn open(bundle: &Path, device: Choice) -> Result<Self, OpenError> {
        let (device, chosen) = choose(device)?;
        let session = Session::new(Bundle::open(bundle, &device)?)?;
        let manifest = session.manifest();
        let about = About {
            name: manifest.name.clone(),
            device: if chosen.kind == "cpu" { chosen.kind } else { chosen.name },
            classes: manifest.classes.clone(),
        };
        Ok(Self { session, about })
    }
}

/// What the runtime does not do yet.
fn unavailable(what: &'static str) -> EngineError {
    EngineError::Unavailable {
        what,
        why: "a bundle's session does not adapt yet; without a bundle it can be tried".into(),
    }
}

impl Engine for Bundled {
    fn about(&self) -> &About {
        &self.about
    }

    fn classify(&self, frame: &Frame, look: &Look) -> Result<Judgement, EngineError> {
        let options = Classify { views: look.views, seed: look.seed };
        let (prediction, votes) = self.session.classify_with_votes(&frame.rgb(), &options)?;
        let first = prediction.classes.first().map_or("", |(name, _)| name.as_str());
        let class = self.about.classes.iter().position(|name| name == first);
        let probability = |rank: usize| prediction.classes.get(rank).map_or(0.0, |(_, probability)| *probability);
        let margin = probability(0) - probability(1);
        let votes = if look.views == 1 { Vec::new() } else { votes };
        let view =
            |vote: gabion_runtime::Vote| View { area: vote.area, class: vote.class, agrees: Some(vote.class) == class };
        let views = votes.into_iter().map(view).collect();
        Ok(Judgement { classes: prediction.classes, agreement: prediction.agreement, margin, views })
    }

    fn attack(&self, frame: &Frame, epsilon: Pixels, look: &Look) -> Result<Attacked, EngineError> {
        square::attack(self, frame, epsilon, look)
    }

    fn adapt(
        &self,
        _: &[Example],
        _: Pixels,
        _: &mut dyn FnMut(Round) -> ControlFlow<()>,
    ) -> Result<Guarded, EngineError> {
        Err(unavailable("adaptation"))
    }

    fn promote(&self) -> Result<(), EngineError> {
        Err(unavailable("promotion"))
    }

    fn roll_back(&self) -> Result<(), EngineError> {
        Err(unavailable("going back"))
    }
}
