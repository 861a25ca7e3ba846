//! What the program knows: frames, answers and commands in, a [`ViewState`] and actions out. No thread, no clock, no file.

use crate::command::{Command, Mode};
use crate::engine::{About, Attacked, Example, Guarded, Judgement, Look, Round};
use crate::frame::Frame;
use crate::state::{self, Adaptation, Badge, Duel, Feed, Guard, Scene, Verdict, ViewState};
use gabion_spec::Pixels;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How many crops `v` goes through.
const VIEWS: [u32; 5] = [1, 4, 8, 16, 32];

/// What an answer is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Task {
    /// What is done with a frame.
    pub mode: Mode,
    /// The budget of attacks.
    pub epsilon: Pixels,
    /// How frames are looked at.
    pub look: Look,
}

/// What came of a frame.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The frame.
    pub frame: Arc<Frame>,
    /// What it was taken for.
    pub judgement: Judgement,
    /// What an attack did to it, or why there was none.
    pub attacked: Option<Result<Attacked, String>>,
    /// Time of the classification, where it was measured.
    pub milliseconds: Option<f64>,
}

/// What is to be done outside.
#[derive(Clone, Debug)]
pub enum Action {
    /// The source rests, or goes on.
    Pause(bool),
    /// Train on these, in the background.
    Adapt(Vec<Example>),
    /// Let the candidate classify.
    Promote,
    /// Go back to the earlier weights.
    RollBack,
    /// Drop the candidate.
    Drop,
    /// Write the screen.
    Snapshot(Option<PathBuf>),
    /// Print [`App::status`].
    Report,
    /// End.
    Quit,
}

/// Where an adaptation stands, owned.
#[derive(Clone, Debug, PartialEq)]
enum Stage {
    Collecting,
    Training(f32),
    Promoted,
    RolledBack,
    NotPromoted(String),
    Unavailable(String),
}

/// All that the program knows.
#[derive(Debug)]
pub struct App {
    about: About,
    task: Task,
    paused: bool,
    feed: Feed,
    detail: String,
    outcome: Option<Outcome>,
    /// When the source gave its last frame.
    seen: Duration,
    now: Duration,
    wanted: usize,
    examples: Vec<Example>,
    stage: Stage,
    curve: Vec<f32>,
    guard: Option<Guard>,
    note: String,
    /// Seconds without a frame after which the source counts as stalled.
    stall: Duration,
    stalled: Option<u64>,
}

impl App {
    /// Nothing seen yet; `wanted` labelled frames start an adaptation.
    pub fn new(about: About, task: Task, wanted: usize, stall: Duration) -> Self {
        let note = about.name.clone();
        Self {
            about,
            task,
            paused: false,
            feed: Feed::Starting,
            detail: String::new(),
            outcome: None,
            seen: Duration::ZERO,
            now: Duration::ZERO,
            wanted,
            examples: Vec::new(),
            stage: Stage::Collecting,
            curve: Vec::new(),
            guard: None,
            note,
            stall,
            stalled: None,
        }
    }

    /// What answers are to be asked for.
    pub fn task(&self) -> Task {
        self.task
    }

    /// How the source does, the clock considered.
    pub fn feed(&self) -> Feed {
        match (self.paused, self.feed, self.stalled) {
            (true, ..) => Feed::Paused,
            (false, Feed::Live | Feed::Starting, Some(seconds)) => Feed::Stalled(seconds),
            (false, feed, _) => feed,
        }
    }

    /// The frame that stays, while the source rests or has ended.
    pub fn resting(&self) -> Option<Arc<Frame>> {
        let rests = matches!(self.feed(), Feed::Paused | Feed::Ended);
        self.outcome.as_ref().filter(|_| rests).map(|outcome| Arc::clone(&outcome.frame))
    }

    /// Why the source does so.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The clock: a source from which nothing comes for long is stalled.
    pub fn tick(&mut self, now: Duration) {
        self.now = now;
        let still = now.saturating_sub(self.seen);
        self.stalled = (still > self.stall).then_some(still.as_secs());
    }

    /// When the source will count as stalled, if nothing comes until then.
    pub fn silent_at(&self) -> Option<Duration> {
        let waiting = matches!(self.feed(), Feed::Live | Feed::Starting);
        if waiting { self.seen.checked_add(self.stall) } else { None }
    }

    /// How the source does.
    pub fn fed(&mut self, feed: Feed, detail: String, now: Duration) {
        (self.feed, self.detail) = (feed, detail);
        if feed == Feed::Live {
            (self.seen, self.stalled) = (now, None);
        }
    }

    /// What a frame was taken for.
    pub fn judged(&mut self, outcome: Outcome) -> Option<Action> {
        let class = outcome.frame.label.as_ref().and_then(|label| self.class_of(label));
        let frame = Arc::clone(&outcome.frame);
        self.outcome = Some(outcome);
        if self.task.mode == Mode::Adapt && self.stage == Stage::Collecting && !self.paused {
            return class.and_then(|class| self.example(frame, class));
        }
        None
    }

    fn class_of(&self, label: &str) -> Option<usize> {
        self.about.classes.iter().position(|class| class == label)
    }

    fn example(&mut self, frame: Arc<Frame>, class: usize) -> Option<Action> {
        self.examples.push(Example { frame, class });
        if self.examples.len() < self.wanted {
            return None;
        }
        self.stage = Stage::Training(0.0);
        self.curve.clear();
        self.guard = None;
        Some(Action::Adapt(std::mem::take(&mut self.examples)))
    }

    /// A round of adaptation.
    pub fn round(&mut self, round: Round) {
        if let Stage::Training(done) = &mut self.stage {
            *done = round.done;
            self.curve.extend(round.attacked);
        }
    }

    /// The end of an adaptation.
    pub fn adapted(&mut self, result: Result<Guarded, String>) -> Option<Action> {
        match result {
            Ok(Guarded { guard, passes }) => {
                self.guard = Some(guard);
                self.stage = if passes { Stage::Promoted } else { Stage::RolledBack };
                Some(if passes { Action::Promote } else { Action::Drop })
            }
            Err(why) => {
                self.stage = Stage::Unavailable(why);
                None
            }
        }
    }

    /// Small print, until there is other.
    pub fn note(&mut self, note: impl Into<String>) {
        self.note = note.into();
    }

    /// A command; what is to be done outside.
    pub fn command(&mut self, command: Command) -> Option<Action> {
        match command {
            Command::Mode(mode) => {
                let again = mode == Mode::Adapt && !matches!(self.stage, Stage::Collecting | Stage::Training(_));
                if again {
                    self.stage = Stage::Collecting;
                    self.curve.clear();
                    self.guard = None;
                }
                self.task.mode = mode;
            }
            Command::Pause(paused) => return self.pause(paused),
            Command::TogglePause => return self.pause(!self.paused),
            Command::Epsilon(epsilon) => self.epsilon(epsilon),
            Command::Nudge(by) => {
                let levels = (self.task.epsilon.0 * 255.0).round() + f32::from(by);
                self.epsilon(Pixels::of_255(levels.clamp(0.0, 32.0)));
            }
            Command::Views(views) => self.views(views),
            Command::MoreViews => {
                let next = VIEWS.into_iter().find(|&views| views > self.task.look.views);
                self.views(next.unwrap_or(VIEWS[0]));
            }
            Command::LabelAt(class) => return self.label(class),
            Command::Label(name) => match self.class_of(&name) {
                Some(class) => return self.label(class),
                None => self.note(format!("no class is called {name}")),
            },
            Command::RollBack => return Some(Action::RollBack),
            Command::Snapshot(path) => return Some(Action::Snapshot(path)),
            Command::Status => return Some(Action::Report),
            Command::Quit => return Some(Action::Quit),
        }
        None
    }

    /// The earlier weights classify again, or why not.
    pub fn rolled_back(&mut self, result: Result<(), String>) {
        match result {
            Ok(()) => self.stage = Stage::RolledBack,
            Err(why) => self.note(why),
        }
    }

    /// The candidate that [`Action::Promote`] was for does not classify.
    pub fn not_promoted(&mut self, why: String) {
        self.stage = Stage::NotPromoted(why);
    }

    fn pause(&mut self, paused: bool) -> Option<Action> {
        self.paused = paused;
        // A source that rested was not silent.
        (self.seen, self.stalled) = (self.now, None);
        Some(Action::Pause(paused))
    }

    fn epsilon(&mut self, epsilon: Pixels) {
        self.task.epsilon = epsilon;
        self.note(format!("epsilon {epsilon}"));
    }

    fn views(&mut self, views: u32) {
        self.task.look.views = views;
        self.note(format!("{views} views"));
    }

    fn label(&mut self, class: usize) -> Option<Action> {
        let Some(name) = self.about.classes.get(class) else {
            self.note(format!("there are {} classes", self.about.classes.len()));
            return None;
        };
        let Some(outcome) = &self.outcome else { return None };
        if self.stage != Stage::Collecting {
            self.note("labels count while frames are collected");
            return None;
        }
        let frame = Arc::clone(&outcome.frame);
        self.note = format!("an example of {name}");
        self.example(frame, class)
    }

    /// What a screen shows.
    pub fn view(&self) -> ViewState<'_> {
        let outcome = self.outcome.as_ref();
        let attacked = outcome.and_then(|outcome| outcome.attacked.as_ref()).filter(|_| self.task.mode == Mode::Attack);
        let found = attacked.and_then(|attacked| attacked.as_ref().ok());
        let judgement = outcome.map(|outcome| &outcome.judgement);
        let scene = match self.task.mode {
            Mode::Live => Scene::Live,
            Mode::Attack => Scene::Attack(Duel {
                epsilon: self.task.epsilon,
                perturbed: found.map(|found| found.perturbed.picture()),
                one: found.map(|found| effect(&found.one)),
                many: found.map(|found| effect(&found.many)),
                views: self.task.look.views,
                unavailable: attacked.and_then(|attacked| attacked.as_ref().err()).map(String::as_str),
            }),
            Mode::Adapt => Scene::Adapt(Adaptation { stage: self.stage(), curve: &self.curve, guard: self.guard }),
        };
        let training = matches!(self.stage, Stage::Training(_));
        let feed = self.feed();
        let faulty = matches!(feed, Feed::Stalled(_) | Feed::Lost(_) | Feed::Broken(_)) && !self.detail.is_empty();
        ViewState {
            picture: match found {
                Some(found) => Some(found.clean.picture()),
                None => outcome.map(|outcome| outcome.frame.picture()),
            },
            views: judgement.map_or(&[], |judgement| &judgement.views),
            verdict: judgement.map(|judgement| Verdict {
                classes: &judgement.classes,
                views: u32::try_from(judgement.views.len()).unwrap_or(u32::MAX).max(1),
                agreement: judgement.agreement,
                margin: judgement.margin,
            }),
            badge: match self.task.mode {
                Mode::Attack if attacked.is_none_or(Result::is_ok) => Badge::Attacked(self.task.epsilon),
                _ if training => Badge::Adapting,
                _ => Badge::Clean,
            },
            scene,
            feed,
            milliseconds: outcome.and_then(|outcome| outcome.milliseconds),
            device: &self.about.device,
            status: if faulty { &self.detail } else { &self.note },
        }
    }

    #[allow(clippy::cast_possible_truncation)] // a few hundred
    fn stage(&self) -> state::Stage<'_> {
        match &self.stage {
            Stage::Collecting => state::Stage::Collecting(self.examples.len() as u32, self.wanted as u32),
            Stage::Training(done) => state::Stage::Training(*done),
            Stage::Promoted => state::Stage::Promoted,
            Stage::RolledBack => state::Stage::RolledBack,
            Stage::NotPromoted(why) => state::Stage::NotPromoted(why),
            Stage::Unavailable(why) => state::Stage::Unavailable(why),
        }
    }

    /// One line of JSON: what is seen and how the program does.
    pub fn status(&self) -> String {
        let view = self.view();
        let first = view.verdict.and_then(|verdict| verdict.classes.first());
        let feed = format!("{:?}", self.feed()).to_lowercase();
        serde_json::json!({
            "mode": format!("{:?}", self.task.mode).to_lowercase(),
            "class": first.map(|(name, _)| name),
            "probability": first.map(|(_, probability)| probability),
            "agreement": view.verdict.map(|verdict| verdict.agreement),
            "margin": view.verdict.map(|verdict| verdict.margin),
            "views": self.task.look.views,
            "epsilon": self.task.epsilon.to_string(),
            "milliseconds": view.milliseconds,
            "model": self.about.name,
            "device": self.about.device,
            "source": feed,
            "detail": self.detail,
            "adaptation": format!("{:?}", self.stage).to_lowercase(),
        })
        .to_string()
    }
}

fn effect(change: &crate::engine::Change) -> state::Effect<'_> {
    state::Effect { before: (&change.before.0, change.before.1), after: (&change.after.0, change.after.1) }
}

#[cfg(test)]
mod tests;
