//! The program while it runs: a capture thread, an answering thread, now and then a training thread, and this one, which
//! alone knows the state and draws. It sleeps until something comes.

use crate::app::{Action, App, Task};
use crate::capture::Capture;
use crate::command::{Command, Mode};
use crate::display::still::save;
use crate::display::{Kept, Shape, Target};
use crate::engine::Engine;
use crate::latest::Switch;
use crate::service::Service;
use crate::state::Feed;
use crate::work::{Desk, Event, Post, adapts, answers, locked, said};
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

/// How long a thread may take to end.
const FAREWELL: Duration = Duration::from_secs(3);
/// How long one frame may be worked on before the service manager hears no more.
const MOST_BUSY: Duration = Duration::from_secs(60);
/// The clock of states that depend on it.
const TICK: Duration = Duration::from_millis(500);

/// What a run is made of.
pub struct Plan {
    /// What classifies.
    pub engine: Arc<dyn Engine>,
    /// Where frames come from.
    pub capture: Capture,
    /// What is asked at the start.
    pub task: Task,
    /// How many labelled frames an adaptation takes.
    pub examples: usize,
    /// Time without a frame after which the source counts as stalled.
    pub stall: Duration,
    /// The screen that snapshots are of.
    pub shape: Shape,
    /// When the program started.
    pub start: Instant,
}

/// What came of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// From the start of the program to the first answer.
    pub first_verdict: Option<Duration>,
    /// Frames that had an answer.
    pub frames: u64,
    /// Faults of the source, each logged once.
    pub faults: u64,
    /// Times that a state was drawn on the targets.
    pub drawn: u64,
    /// Adaptations that ended.
    pub adaptations: u64,
    /// Of those, the ones whose weights were written and classified.
    pub promoted: u64,
    /// The ones that the guard refused.
    pub refused: u64,
    /// Threads that did not end in time.
    pub stuck: Vec<&'static str>,
    /// The thread that died and ended the run.
    pub died: Option<String>,
}

/// Looks on while a run goes on, and may ask for something.
pub type Onlooker<'a> = &'a mut dyn FnMut(Duration, &App, &Summary) -> Option<Command>;

struct Thread {
    name: &'static str,
    handle: JoinHandle<()>,
}

/// A thread whose panic is told rather than lost.
fn spawn(name: &'static str, post: &Arc<Post>, work: impl FnOnce(&Post) + Send + 'static) -> std::io::Result<Thread> {
    let post = Arc::clone(post);
    let body = move || {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| work(&post))) {
            post.event(Event::Died(name, said(&*panic)));
        }
    };
    let handle = std::thread::Builder::new().name(name.into()).spawn(body)?;
    Ok(Thread { name, handle })
}

/// Runs until told to end.
///
/// # Errors
/// When the system gives no thread.
pub fn run(
    plan: &Plan,
    post: &Arc<Post>,
    targets: &mut [Box<dyn Target>],
    onlooker: Onlooker<'_>,
) -> std::io::Result<Summary> {
    let (switch, desk) = (Arc::new(Switch::default()), Arc::new(Desk::default()));
    *locked(&desk.task) = Some(plan.task);
    let mut threads = Vec::new();
    let capture = (plan.capture.clone(), Arc::clone(&switch), Arc::clone(&desk));
    threads.push(spawn("capture", post, move |post| {
        let (capture, switch, desk) = capture;
        capture.run(&switch, &desk.frames, &mut |feed, why| post.event(Event::Feed(feed, why)));
    })?);
    let inference = (Arc::clone(&plan.engine), Arc::clone(&desk));
    threads.push(spawn("inference", post, move |post| answers(&*inference.0, &inference.1, post))?);
    let app = App::new(plan.engine.about().clone(), plan.task, plan.examples, plan.stall);
    let failing = vec![false; targets.len()];
    let mut summary = Summary::default();
    let (log, covered) = (Log::default(), targets.iter().any(|target| target.covers_output()));
    let (switch, desk) = (&switch, &desk);
    let mut running = Running { plan, post, switch, desk, app, threads, failing, covered, log, training: false };
    running.follow(targets, &mut summary, onlooker)?;

    switch.stop();
    desk.frames.close();
    for target in targets.iter_mut() {
        if let Err(error) = target.finish() {
            tracing::error!(%error, "a target was not finished");
        }
    }
    summary.stuck = farewell(running.threads);
    Ok(summary)
}

/// Waits for threads to end; the names of those that do not.
fn farewell(threads: Vec<Thread>) -> Vec<&'static str> {
    let until = Instant::now() + FAREWELL;
    let mut stuck = Vec::new();
    for Thread { name, handle } in threads {
        while !handle.is_finished() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        if handle.is_finished() {
            let _ = handle.join();
        } else {
            tracing::error!(thread = name, "a thread did not end and is left behind");
            stuck.push(name);
        }
    }
    stuck
}

/// What was last logged, so that nothing is logged twice in a row.
#[derive(Debug, Default)]
struct Log {
    feed: Option<std::mem::Discriminant<Feed>>,
    faulty: bool,
    unanswered: String,
}

impl Log {
    /// Logs the feed where it is of another kind; whether that is a fault.
    fn feed(&mut self, feed: Feed, why: &str) -> bool {
        let kind = std::mem::discriminant(&feed);
        if self.feed.replace(kind) == Some(kind) {
            return false;
        }
        let fault = matches!(feed, Feed::Stalled(_) | Feed::Lost(_) | Feed::Broken(_));
        match feed {
            Feed::Live if self.faulty => tracing::info!("the source is back"),
            Feed::Live => tracing::debug!("the source gives frames"),
            Feed::Stalled(seconds) => tracing::warn!(seconds, "the source gives no frame"),
            Feed::Lost(retry) => tracing::warn!(retry, why, "the source is lost"),
            Feed::Broken(_) => tracing::warn!(why, "the source gives broken frames"),
            Feed::Starting | Feed::Paused | Feed::Ended => tracing::info!("the source is {feed:?}"),
        }
        if fault || feed == Feed::Live {
            self.faulty = fault;
        }
        fault
    }
}

struct Running<'a> {
    plan: &'a Plan,
    post: &'a Arc<Post>,
    switch: &'a Arc<Switch>,
    desk: &'a Arc<Desk>,
    app: App,
    threads: Vec<Thread>,
    /// Which targets refused the last time.
    failing: Vec<bool>,
    /// Whether a target is drawn on the standard output.
    covered: bool,
    log: Log,
    training: bool,
}

impl Running<'_> {
    fn follow(
        &mut self,
        targets: &mut [Box<dyn Target>],
        summary: &mut Summary,
        onlooker: Onlooker<'_>,
    ) -> std::io::Result<()> {
        let mut service = Service::new();
        self.show(targets, summary, self.plan.start.elapsed());
        let mut until = Instant::now();
        loop {
            let (commands, events) = self.post.wait(until);
            let time = self.plan.start.elapsed();
            let before = self.app.feed();
            self.app.tick(time);
            let mut changed = !commands.is_empty();
            for event in events {
                // A source that goes on as before is no reason to draw.
                changed |= !matches!(event, Event::Feed(..));
                if let Some(action) = self.event(event, time, summary) {
                    self.act(action, summary)?;
                }
                // In between, so that a fault that is already over is seen as well.
                if self.log.feed(self.app.feed(), self.app.detail()) {
                    summary.faults += 1;
                    self.show(targets, summary, time);
                }
            }
            let asked = targets.iter_mut().flat_map(|target| target.commands()).collect::<Vec<_>>();
            for command in commands.into_iter().chain(asked).chain(onlooker(time, &self.app, summary)) {
                changed = true;
                // At once: a status or a snapshot is of what was asked for before it.
                if let Some(action) = self.app.command(command)
                    && !self.act(action, summary)?
                {
                    service.stopping();
                    return Ok(());
                }
            }
            changed |= self.app.feed() != before;
            summary.faults += u64::from(self.log.feed(self.app.feed(), self.app.detail()));
            let task = self.app.task();
            let other = locked(&self.desk.task).replace(task) != Some(task);
            // No frame comes that it would be asked of.
            if other && let Some(frame) = self.app.resting() {
                self.desk.frames.put(frame);
            }
            if summary.died.is_some() {
                return Ok(());
            }
            if changed || targets.iter().any(|target| target.owes()) {
                self.show(targets, summary, time);
            }
            if summary.first_verdict.is_some() {
                service.ready(&self.plan.engine.about().name);
            } else if matches!(self.app.feed(), Feed::Lost(_) | Feed::Broken(_) | Feed::Stalled(_)) {
                // It does what it can: shows what is missing, and tries again.
                service.ready(&format!("no picture yet: {}", self.app.detail()));
            }
            let now = Instant::now();
            let busy = locked(&self.desk.busy).is_some_and(|since| now - since > MOST_BUSY);
            if busy {
                tracing::error!("inference has been at one frame for more than {} s", MOST_BUSY.as_secs());
            } else {
                service.alive(now);
            }
            // A paused program wakes for the service manager alone, and now and then.
            let tick = if self.app.feed() == Feed::Paused { 4 * TICK } else { TICK };
            let patience = targets.iter().filter_map(|target| target.patience()).fold(tick, Duration::min);
            // A silence is seen when it becomes one, however short it is from there.
            let silent = self.app.silent_at().map(|at| self.plan.start + at + Duration::from_millis(1));
            until = [service.due(), silent].into_iter().flatten().fold(now + patience, Instant::min).max(now);
        }
    }

    fn event(&mut self, event: Event, time: Duration, summary: &mut Summary) -> Option<Action> {
        match event {
            Event::Feed(feed, why) => {
                self.app.fed(feed, why, time);
                None
            }
            Event::Outcome(outcome) => {
                summary.frames += 1;
                if summary.first_verdict.is_none() {
                    summary.first_verdict = Some(time);
                    tracing::info!(milliseconds = time.as_millis(), "first verdict");
                }
                self.log.unanswered.clear();
                self.app.judged(*outcome)
            }
            Event::Unanswered(why) => {
                if self.log.unanswered != why {
                    tracing::error!(why, "a frame had no answer");
                    self.app.note(why.clone());
                    self.log.unanswered = why;
                }
                None
            }
            Event::Round(round) => {
                self.app.round(round);
                None
            }
            Event::Adapted(result) => {
                self.training = false;
                summary.adaptations += 1;
                summary.refused += u64::from(result.as_ref().is_ok_and(|guarded| !guarded.passes));
                tracing::info!(?result, "adapted");
                self.app.adapted(result)
            }
            Event::Died(thread, why) => {
                tracing::error!(thread, why, "a thread died");
                summary.died = Some(format!("the {thread} thread died: {why}"));
                None
            }
        }
    }

    /// Does what is to be done; `false` at the end.
    fn act(&mut self, action: Action, summary: &mut Summary) -> std::io::Result<bool> {
        match action {
            Action::Pause(paused) => self.switch.pause(paused),
            Action::Adapt(examples) => {
                self.threads.retain(|thread| !thread.handle.is_finished());
                let (engine, switch) = (Arc::clone(&self.plan.engine), Arc::clone(self.switch));
                let epsilon = self.app.task().epsilon;
                tracing::info!(examples = examples.len(), %epsilon, "adapting");
                let work = move |post: &Post| adapts(&*engine, &examples, epsilon, &switch, post);
                self.threads.push(spawn("adaptation", self.post, work)?);
                self.training = true;
            }
            Action::Promote => match self.plan.engine.promote() {
                Ok(()) => summary.promoted += 1,
                Err(error) => {
                    tracing::error!(%error, "the guard let the new weights pass, but they were not promoted");
                    self.app.not_promoted(error.brief());
                }
            },
            Action::Drop => {
                // What the guard refused was never in use.
                let _ = self.plan.engine.roll_back();
            }
            Action::RollBack if self.training => self.app.note("wait for the training to end"),
            Action::RollBack => {
                let rolled = self.plan.engine.roll_back().map_err(|error| error.to_string());
                self.app.rolled_back(rolled);
            }
            Action::Snapshot(path) => {
                let path = path.unwrap_or_else(|| {
                    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                    PathBuf::from(format!("firmware-host-{}.png", now.as_millis()))
                });
                let mut screen = Kept::new(self.plan.shape);
                screen.update(&self.app.view());
                match save(&path, &screen.image()) {
                    Ok(()) => self.app.note(format!("wrote {}", path.display())),
                    Err(error) => {
                        tracing::error!(%error, "no snapshot");
                        self.app.note(error.to_string());
                    }
                }
            }
            Action::Report if self.covered => {
                tracing::info!(status = %self.app.status());
                self.app.note("status: in the log, --journal-file");
            }
            Action::Report => {
                if let Err(error) = writeln!(std::io::stdout(), "{}", self.app.status()) {
                    tracing::warn!(%error, "nobody reads the status");
                }
            }
            Action::Quit => return Ok(false),
        }
        Ok(true)
    }

    fn show(&mut self, targets: &mut [Box<dyn Target>], summary: &mut Summary, time: Duration) {
        let view = self.app.view();
        summary.drawn += 1;
        for (target, failing) in targets.iter_mut().zip(&mut self.failing) {
            match target.show(&view, time) {
                Ok(()) if *failing => {
                    tracing::info!("a target shows again");
                    *failing = false;
                }
                Ok(()) => {}
                Err(error) if !*failing => {
                    tracing::error!(%error, "a target shows nothing");
                    *failing = true;
                }
                Err(_) => {}
            }
        }
    }
}

/// The mode that a task of the stream begins with.
impl Default for Task {
    fn default() -> Self {
        let look = crate::engine::Look { views: 8, seed: 0 };
        Self { mode: Mode::Live, epsilon: gabion_spec::Pixels::of_255(8.0), look }
    }
}

#[cfg(test)]
mod tests;
