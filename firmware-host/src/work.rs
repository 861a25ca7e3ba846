//! The threads that compute: one answers for the newest frame, one trains in the background.

use crate::app::{Outcome, Task};
use crate::command::{Command, Mode};
use crate::engine::{Engine, EngineError, Example, Guarded, Round};
use crate::frame::Frame;
use crate::latest::{Inbox, Latest, Switch};
use crate::state::Feed;
use gabion_spec::Pixels;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// What threads tell.
#[derive(Debug)]
pub enum Event {
    /// How the source does, and why.
    Feed(Feed, String),
    /// What a frame was taken for.
    Outcome(Box<Outcome>),
    /// A frame had no answer.
    Unanswered(String),
    /// A round of adaptation.
    Round(Round),
    /// The end of an adaptation.
    Adapted(Result<Guarded, String>),
    /// A thread is gone that should not be.
    Died(&'static str, String),
}

/// Commands and events on their way.
pub type Post = Inbox<Command, Event>;

/// An empty post: an answer takes the place of the last one, a feed that of one of the same kind, rounds are all kept.
pub fn post() -> Post {
    Inbox::new(|older, newer| match (older, newer) {
        (Event::Feed(older, _), Event::Feed(newer, _)) => {
            std::mem::discriminant(older) == std::mem::discriminant(newer)
        }
        (Event::Round(_), _) => false,
        _ => true,
    })
}

/// What the answering thread shares.
#[derive(Debug, Default)]
pub struct Desk {
    /// The newest frame.
    pub frames: Latest<Arc<Frame>>,
    /// What is asked; nothing until the first task is there.
    pub task: Mutex<Option<Task>>,
    /// When it began with the frame that it works on.
    pub busy: Mutex<Option<Instant>>,
}

/// Whatever lock a panicking thread left behind.
pub fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn answer(engine: &dyn Engine, frame: &Arc<Frame>, task: &Task) -> Result<Outcome, EngineError> {
    let start = Instant::now();
    let judgement = engine.classify(frame, &task.look)?;
    let milliseconds = Some(start.elapsed().as_secs_f64() * 1e3);
    let attacked = (task.mode == Mode::Attack)
        .then(|| engine.attack(frame, task.epsilon, &task.look).map_err(|error| error.to_string()));
    Ok(Outcome { frame: Arc::clone(frame), judgement, attacked, milliseconds })
}

/// Answers for frames until the desk is closed.
pub fn answers(engine: &dyn Engine, desk: &Desk, post: &Post) {
    while let Some(frame) = desk.frames.take() {
        let Some(task) = *locked(&desk.task) else { continue };
        *locked(&desk.busy) = Some(Instant::now());
        let answered = catch_unwind(AssertUnwindSafe(|| answer(engine, &frame, &task)));
        *locked(&desk.busy) = None;
        match answered {
            Ok(Ok(outcome)) => post.event(Event::Outcome(Box::new(outcome))),
            Ok(Err(error)) => post.event(Event::Unanswered(error.to_string())),
            Err(panic) => {
                post.event(Event::Died("inference", said(&*panic)));
                return;
            }
        }
    }
}

/// Adapts once.
pub fn adapts(engine: &dyn Engine, examples: &[Example], epsilon: Pixels, switch: &Switch, post: &Post) {
    let mut watch = |round| {
        post.event(Event::Round(round));
        if switch.stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let adapted = catch_unwind(AssertUnwindSafe(|| engine.adapt(examples, epsilon, &mut watch)));
    let adapted = match adapted {
        Ok(adapted) => adapted.map_err(|error| error.to_string()),
        Err(panic) => Err(said(&*panic)),
    };
    post.event(Event::Adapted(adapted));
}

/// What a thread said when it panicked.
pub fn said(panic: &(dyn std::any::Any + Send)) -> String {
    let text =
        panic.downcast_ref::<&str>().map(ToString::to_string).or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "it panicked".into())
}
