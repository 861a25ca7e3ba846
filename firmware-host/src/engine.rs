//! What classifies, attacks and adapts: the one place where this room meets the runtime.
//!
//! | module | what it is |
//! |---|---|
//! | [`bundled`] | a bundle opened by `gabion-runtime` |
//! | [`standin`] | a small network on 16x16 grey pixels, trained at the start on the drawn shapes: no bundle, deterministic |
//! | [`square`] | an attack that needs answers alone |

pub mod bundled;
mod perceptron;
pub mod square;
pub mod standin;

use crate::frame::Frame;
use crate::state::{Guard, View};
use gabion_spec::Pixels;
use std::ops::ControlFlow;
use std::sync::Arc;

/// What an engine is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// Name of the model.
    pub name: String,
    /// What computes.
    pub device: String,
    /// Names of the classes, in the order of the indices.
    pub classes: Vec<String>,
}

/// How a frame is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// 1 for the whole picture, more for the mean over so many crops.
    pub views: u32,
    /// Seeds the crops.
    pub seed: u64,
}

/// What a frame was taken for.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// Every class with its probability, the most probable first.
    pub classes: Vec<(String, f32)>,
    /// Share of the views that agree with the first class.
    pub agreement: f32,
    /// Probability of the first class less that of the second.
    pub margin: f32,
    /// The crops; empty for the whole picture.
    pub views: Vec<View>,
}

impl Judgement {
    /// Class and probability of the answer.
    ///
    /// # Panics
    /// Without a class; an engine has one or more.
    pub fn first(&self) -> (&str, f32) {
        let (name, probability) = self.classes.first().expect("an engine has a class or more");
        (name, *probability)
    }
}

/// First class and its probability, before and after.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Of the frame as it was.
    pub before: (String, f32),
    /// Of the perturbed frame.
    pub after: (String, f32),
}

impl Change {
    /// From one answer to the other.
    pub fn between(before: &Judgement, after: &Judgement) -> Self {
        let owned = |judgement: &Judgement| (judgement.first().0.to_owned(), judgement.first().1);
        Self { before: owned(before), after: owned(after) }
    }
}

/// A frame, perturbed against one view of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Attacked {
    /// What the attack started from: the frame, or a smaller copy of a large one.
    pub clean: Frame,
    /// Of the same size.
    pub perturbed: Frame,
    /// What that does to the whole picture as one view.
    pub one: Change,
    /// What that does to the mean over many views.
    pub many: Change,
    /// What the many views say of the perturbed frame.
    pub judgement: Judgement,
}

/// A frame and its class.
#[derive(Clone, Debug)]
pub struct Example {
    /// The frame.
    pub frame: Arc<Frame>,
    /// Index of its class.
    pub class: usize,
}

/// A round of adaptation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Round {
    /// Share of the work that is done.
    pub done: f32,
    /// Share of the held-out frames that are classified rightly when perturbed, where that is measured in between.
    pub attacked: Option<f32>,
}

/// What the guard found in a candidate's held-out frames.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guarded {
    /// Before and after.
    pub guard: Guard,
    /// Whether the candidate may classify.
    pub passes: bool,
}

/// Why an engine does not do something: one line each.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// It cannot.
    #[error("{what} is not available: {why}")]
    Unavailable {
        /// What was asked for.
        what: &'static str,
        /// Why, and what to do.
        why: String,
    },
    /// A frame, or what was asked of it, makes no sense.
    #[error(transparent)]
    Classify(#[from] gabion_runtime::ClassifyError),
    /// A number of views that makes no sense.
    #[error("views is {0}: use 1 to 4096")]
    Views(u32),
    /// Too few frames to train on and to hold some out.
    #[error("{have} labelled frames, of at least {need}: label more")]
    Examples {
        /// How many there are.
        have: usize,
        /// How many it takes.
        need: usize,
    },
    /// Nothing to promote or to go back to.
    #[error("there are no {0} weights")]
    NoWeights(&'static str),
    /// A candidate that the guard let pass and that could not be written, or not be opened again.
    #[error("{full}")]
    NotPromoted {
        /// In a few words.
        brief: String,
        /// With the path.
        full: String,
    },
    /// Whoever watched wanted it so.
    #[error("stopped")]
    Stopped,
}

impl EngineError {
    /// Words that fit a small screen.
    pub fn brief(&self) -> String {
        match self {
            Self::NotPromoted { brief, .. } => brief.clone(),
            error => error.to_string(),
        }
    }
}

/// What the program asks of a classifier. Methods take `&self`: frames are classified while weights are trained.
pub trait Engine: Send + Sync {
    /// What it is.
    fn about(&self) -> &About;

    /// What a frame shows; equal frames and looks give equal answers.
    ///
    /// # Errors
    /// When the number of views or the frame makes no sense.
    fn classify(&self, frame: &Frame, look: &Look) -> Result<Judgement, EngineError>;

    /// The frame perturbed by at most `epsilon` a channel so that one view of it is taken for something else, and what
    /// that does to many.
    ///
    /// # Errors
    /// Those of [`Engine::classify`], and where there is no attack.
    fn attack(&self, frame: &Frame, epsilon: Pixels, look: &Look) -> Result<Attacked, EngineError>;

    /// Trains a candidate on labelled frames, a part of which is held out for the guard, and keeps it beside the
    /// weights that classify. `watch` hears of every round and may stop.
    ///
    /// # Errors
    /// Where there is no adaptation, with too few frames, and when stopped.
    fn adapt(
        &self,
        examples: &[Example],
        epsilon: Pixels,
        watch: &mut dyn FnMut(Round) -> ControlFlow<()>,
    ) -> Result<Guarded, EngineError>;

    /// The candidate classifies from now on.
    ///
    /// # Errors
    /// Without a candidate.
    fn promote(&self) -> Result<(), EngineError>;

    /// The weights before the last promotion classify again; a candidate is dropped.
    ///
    /// # Errors
    /// When there is nothing to go back to.
    fn roll_back(&self) -> Result<(), EngineError>;
}
