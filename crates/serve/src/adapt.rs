//! Adaptation beside classification: one at a time, on a thread of its own, by an [`Adapter`] that the caller gives.

use crate::Model;
use crate::live::Generation;
use crate::refusal::Refusal;
use crate::workers::Shop;
use axum::http::StatusCode;
use gabion_runtime::Rgb;
use serde_json::{Value, json};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Labelled pictures, and how long to learn from them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lesson {
    /// One or more.
    pub images: Vec<Rgb>,
    /// Class of each, by its place in the model's classes.
    pub labels: Vec<usize>,
    /// Time that it may take.
    pub time: Option<Duration>,
    /// Steps that it may take.
    pub steps: Option<u32>,
    /// Seeds whatever is drawn.
    pub seed: u64,
}

/// How far an adaptation is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Progress {
    /// Steps that were taken.
    pub steps: u32,
    /// Of the last step.
    pub loss: Option<f64>,
}

/// What came of it.
pub enum Verdict {
    /// A better model, which answers from now on.
    Promoted {
        /// Its number, greater than that of the model before it.
        generation: u64,
        /// What answers.
        model: Arc<dyn Model>,
        /// What was measured.
        report: Value,
    },
    /// The model stays.
    Rejected {
        /// In a line.
        why: String,
        /// What was measured.
        report: Value,
    },
}

/// How an adapter reports: it is called as often as there is news, and says `false` once the adaptation is to end.
pub type Report<'a> = &'a (dyn Fn(Progress) -> bool + Sync);

/// A model's number, and the model.
pub type Renewed = (u64, Arc<dyn Model>);

/// Makes a new model of the present one and labelled pictures.
pub trait Adapter: Send + Sync + 'static {
    /// Adapts, on a thread that may block. `generation` is that of the model that answers now.
    ///
    /// # Errors
    /// A line that says what to do; the model stays.
    fn adapt(&self, lesson: Lesson, generation: u64, report: Report<'_>) -> Result<Verdict, String>;

    /// The model and its number where another process has put it in the place of the one that answers; asked about every
    /// second, on a thread that may block.
    ///
    /// # Errors
    /// A line that says why what is there cannot answer; the model stays.
    fn renewed(&self) -> Result<Option<Renewed>, String> {
        Ok(None)
    }
}

/// Where the one adaptation is.
#[derive(Default)]
enum State {
    #[default]
    Idle,
    Running {
        since: Instant,
        progress: Progress,
    },
    Over(Value),
}

/// The one adaptation there is.
#[derive(Default)]
pub struct School {
    state: Mutex<State>,
    stop: AtomicBool,
    /// Of the one that runs.
    cancel: AtomicBool,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl School {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn running(&self) -> bool {
        matches!(*self.state(), State::Running { .. })
    }

    /// What `GET /adapt` says.
    pub fn report(&self) -> Value {
        match &*self.state() {
            State::Idle => json!({ "state": "idle" }),
            State::Running { since, progress: Progress { steps, loss } } => json!({
                "state": "running", "seconds": since.elapsed().as_secs_f64(), "steps": steps, "loss": loss,
            }),
            State::Over(value) => value.clone(),
        }
    }

    /// 409 while another one runs.
    pub fn free(&self) -> Result<(), Refusal> {
        let what = "an adaptation is under way: wait until GET /adapt says that it is over";
        if self.running() { Err(Refusal::new(StatusCode::CONFLICT, what)) } else { Ok(()) }
    }

    pub fn begin(
        self: &Arc<Self>,
        shop: &Arc<Shop>,
        adapter: Arc<dyn Adapter>,
        lesson: Lesson,
        most: Duration,
    ) -> Result<(), Refusal> {
        let mut state = self.state();
        if self.stop.load(Ordering::Relaxed) {
            return Err(Refusal::busy("the server stops", 1).closing());
        }
        if matches!(*state, State::Running { .. }) {
            drop(state);
            return self.free();
        }
        let (school, shop) = (Arc::clone(self), Arc::clone(shop));
        let run = move || school.run(&shop, &*adapter, lesson, most);
        let thread = thread::Builder::new().name("adaptation".into()).spawn(run);
        let thread = thread.map_err(|error| Refusal::busy(format!("no thread for an adaptation ({error})"), 1))?;
        self.cancel.store(false, Ordering::Relaxed);
        *state = State::Running { since: Instant::now(), progress: Progress::default() };
        *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(())
    }

    fn run(&self, shop: &Shop, adapter: &dyn Adapter, lesson: Lesson, most: Duration) {
        let start = Instant::now();
        let report = |now| {
            if let State::Running { progress, .. } = &mut *self.state() {
                *progress = now;
            }
            !self.ends() && start.elapsed() < most
        };
        tracing::info!(images = lesson.images.len(), "adaptation begins");
        let generation = shop.live.now().number;
        let done = catch_unwind(AssertUnwindSafe(|| adapter.adapt(lesson, generation, &report)));
        let done = done.unwrap_or_else(|_| Err("the adaptation broke: see the server's log".into()));
        let mut over = match done {
            Ok(Verdict::Promoted { generation, model, report }) => {
                shop.live.swap(Generation { number: generation, model });
                shop.metrics.promoted.add(1);
                json!({ "state": "over", "verdict": "promoted", "generation": generation, "report": report })
            }
            Ok(Verdict::Rejected { why, report }) => {
                shop.metrics.rejected.add(1);
                json!({ "state": "over", "verdict": "rejected", "why": why, "generation": generation, "report": report })
            }
            Err(why) => {
                shop.metrics.rejected.add(1);
                let (verdict, why) = match () {
                    () if self.ends() => ("cancelled", why),
                    () if start.elapsed() >= most => {
                        let seconds = most.as_secs_f64();
                        ("failed", format!("it took longer than {seconds} s: ask for fewer steps"))
                    }
                    () => ("failed", why),
                };
                json!({ "state": "over", "verdict": verdict, "why": why, "generation": generation })
            }
        };
        over["seconds"] = json!(start.elapsed().as_secs_f64());
        tracing::info!(verdict = %over["verdict"], seconds = start.elapsed().as_secs_f64(), "adaptation is over");
        *self.state() = State::Over(over);
    }

    /// Whether the one that runs was told to end.
    fn ends(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.cancel.load(Ordering::Relaxed)
    }

    /// Tells the one that runs to end, which it does after its step; 409 where there is none.
    pub fn cancel(&self) -> Result<(), Refusal> {
        let state = self.state();
        if !matches!(*state, State::Running { .. }) {
            return Err(Refusal::new(StatusCode::CONFLICT, "no adaptation is under way: there is nothing to end"));
        }
        self.cancel.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Asks a running adaptation to end; its thread, to be joined.
    pub fn stop(&self) -> Option<JoinHandle<()>> {
        let _state = self.state();
        self.stop.store(true, Ordering::Relaxed);
        self.thread.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
