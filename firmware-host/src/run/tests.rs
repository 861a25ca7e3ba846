//! Whole runs: every mode, every fault, and an engine that panics.

use super::*;
use crate::display::TargetError;
use crate::engine::standin::StandIn;
use crate::engine::{About, Attacked, EngineError, Example, Guarded, Judgement, Look, Round};
use crate::frame::Frame;
use crate::source::Origin;
use crate::state::{Badge, Scene, Stage, ViewState};
use crate::work::post;
use gabion_spec::Pixels;
use std::ops::ControlFlow;
use std::sync::Mutex;

fn plan(origin: Origin) -> Plan {
    let millisecond = Duration::from_millis(1);
    Plan {
        engine: Arc::new(StandIn::stock()),
        capture: Capture {
            origin,
            seed: 0,
            interval: 2 * millisecond,
            backoff: millisecond,
            longest_backoff: 4 * millisecond,
            sign: Duration::from_secs(1),
        },
        task: Task::default(),
        examples: 48,
        stall: Duration::from_millis(600),
        shape: Shape::Square,
        start: Instant::now(),
    }
}

/// Counts what is shown, and refuses at times.
struct Shown(Arc<Mutex<Vec<String>>>, u32);

impl Target for Shown {
    fn show(&mut self, state: &ViewState<'_>, _: Duration) -> Result<(), TargetError> {
        self.1 += 1;
        let word = match (&state.scene, state.badge, state.feed) {
            (_, _, Feed::Lost(_) | Feed::Broken(_) | Feed::Stalled(_) | Feed::Paused) => {
                format!("{:?}", state.feed)
            }
            (Scene::Attack(duel), Badge::Attacked(_), _) if duel.many.is_some() => "attacked".into(),
            (Scene::Adapt(adaptation), ..) => match adaptation.stage {
                Stage::Collecting(..) => "collecting".into(),
                Stage::Training(_) => "training".into(),
                Stage::Promoted => "promoted".into(),
                Stage::RolledBack => "rolled back".into(),
                Stage::NotPromoted(_) => "not promoted".into(),
                Stage::Unavailable(_) => "unavailable".into(),
            },
            _ => "live".into(),
        };
        self.0.lock().unwrap().push(word);
        if self.1.is_multiple_of(7) {
            Err(TargetError { what: "test".into(), why: "unplugged".into() })
        } else {
            Ok(())
        }
    }
}

#[test]
fn every_mode_is_gone_through_and_all_threads_end() {
    let plan = plan(Origin::Synth);
    let shown = Arc::default();
    let mut targets: Vec<Box<dyn Target>> = vec![Box::new(Shown(Arc::clone(&shown), 0))];
    let mut step = 0;
    let has = |word: &str| shown.lock().unwrap().iter().any(|shown| shown.starts_with(word));
    let script: [(&str, Command); 6] = [
        ("live", Command::Mode(Mode::Attack)),
        ("attacked", Command::Mode(Mode::Adapt)),
        ("training", Command::Views(4)),
        ("promoted", Command::RollBack),
        ("rolled back", Command::Pause(true)),
        ("Paused", Command::Quit),
    ];
    let summary = run(&plan, &Arc::new(post()), &mut targets, &mut |time, _, _| {
        assert!(time < Duration::from_secs(60), "step {step}: {:?}", shown.lock().unwrap().last());
        let (word, command) = script.get(step)?;
        has(word).then(|| {
            step += 1;
            command.clone()
        })
    });
    let summary = summary.unwrap();
    assert_eq!((summary.stuck.len(), summary.died, summary.adaptations, step), (0, None, 1, 6));
    assert!(summary.frames > 48 && summary.first_verdict.is_some());
}

#[test]
fn every_fault_is_shown_and_counted_once() {
    let plan = plan(Origin::Synth.faulty());
    let shown = Arc::default();
    let mut targets: Vec<Box<dyn Target>> = vec![Box::new(Shown(Arc::clone(&shown), 0))];
    let summary = run(&plan, &Arc::new(post()), &mut targets, &mut |time, _, summary| {
        assert!(time < Duration::from_secs(60));
        (summary.faults >= 5).then_some(Command::Quit)
    });
    let summary = summary.unwrap();
    assert_eq!(summary.stuck.len(), 0);
    let shown = shown.lock().unwrap();
    for fault in ["Lost", "Broken", "Stalled"] {
        assert!(shown.iter().any(|shown| shown.starts_with(fault)), "{fault}");
    }
}

/// Commands that arrive together are done one after the other.
#[test]
fn a_snapshot_is_of_what_was_asked_for_before_it() {
    let place = tempfile::tempdir().unwrap();
    // A source that is not there gives no frame that could come in between.
    let plan = plan(Origin::File(place.path().join("none")));
    let shot = |name: &str| Command::Snapshot(Some(place.path().join(name)));
    let taken = |commands: Vec<Command>| {
        let post = Arc::new(post());
        commands.into_iter().chain([Command::Quit]).for_each(|command| assert!(post.command(command)));
        run(&plan, &post, &mut [], &mut |_, _, _| None).unwrap();
    };
    taken(vec![Command::Pause(true), Command::Mode(Mode::Attack), shot("attack"), Command::Mode(Mode::Live)]);
    taken(vec![Command::Pause(true), Command::Mode(Mode::Attack), shot("attack alone")]);
    taken(vec![Command::Pause(true), shot("live")]);
    let [attack, alone, live] = ["attack", "attack alone", "live"].map(|name| std::fs::read(place.path().join(name)));
    let (attack, alone, live) = (attack.unwrap(), alone.unwrap(), live.unwrap());
    assert_eq!(attack, alone);
    assert_ne!(attack, live);
}

/// What rests can be attacked; it is no example again.
#[test]
fn a_frame_that_rests_is_asked_about_anew() {
    let plan = Plan { task: Task { mode: Mode::Adapt, ..Task::default() }, examples: 1000, ..plan(Origin::Synth) };
    let (shown, post) = (Arc::default(), Arc::new(post()));
    let mut targets: Vec<Box<dyn Target>> = vec![Box::new(Shown(Arc::clone(&shown), 0))];
    let (mut step, mut rested, mut attacked) = (0, 0, 0);
    run(&plan, &post, &mut targets, &mut |time, app, summary| {
        assert!(time < Duration::from_secs(60), "step {step}");
        let view = app.view();
        let agreed = view.verdict.map_or(0, |verdict| verdict.views);
        let (command, then) = match step {
            0 => (Command::Pause(true), summary.frames > 5),
            // What was on its way when it was paused.
            1 => (Command::Mode(Mode::Attack), time > Duration::from_millis(500)),
            2 => (Command::Views(4), matches!(view.scene, Scene::Attack(duel) if duel.many.is_some())),
            3 => (Command::Mode(Mode::Adapt), agreed == 4),
            _ => (Command::Quit, summary.frames == attacked + 1),
        };
        then.then(|| {
            (rested, attacked) = if step == 1 { (summary.frames, attacked) } else { (rested, summary.frames) };
            step += 1;
            command
        })
    })
    .unwrap();
    assert_eq!((step, attacked), (5, rested + 3));
}

/// A line of JSON across the picture would stay there.
#[test]
fn a_status_is_not_written_over_a_picture() {
    struct Over(Arc<Mutex<Vec<String>>>);
    impl Target for Over {
        fn show(&mut self, state: &ViewState<'_>, _: Duration) -> Result<(), TargetError> {
            self.0.lock().unwrap().push(state.status.to_owned());
            Ok(())
        }
        fn covers_output(&self) -> bool {
            true
        }
    }
    let plan = plan(Origin::Synth);
    let said = Arc::default();
    let mut targets: Vec<Box<dyn Target>> = vec![Box::new(Over(Arc::clone(&said)))];
    let post = Arc::new(post());
    post.command(Command::Status);
    let done = || said.lock().unwrap().iter().any(|said| said.contains("in the log"));
    run(&plan, &post, &mut targets, &mut |time, _, _| {
        assert!(time < Duration::from_secs(60));
        done().then_some(Command::Quit)
    })
    .unwrap();
}

/// Has no room for what it adapts.
struct Full(StandIn);

impl Engine for Full {
    fn about(&self) -> &About {
        self.0.about()
    }
    fn classify(&self, frame: &Frame, look: &Look) -> Result<Judgement, EngineError> {
        self.0.classify(frame, look)
    }
    fn attack(&self, frame: &Frame, epsilon: Pixels, look: &Look) -> Result<Attacked, EngineError> {
        self.0.attack(frame, epsilon, look)
    }
    fn adapt(
        &self,
        examples: &[Example],
        epsilon: Pixels,
        watch: &mut dyn FnMut(Round) -> ControlFlow<()>,
    ) -> Result<Guarded, EngineError> {
        self.0.adapt(examples, epsilon, watch).map(|guarded| Guarded { passes: true, ..guarded })
    }
    fn promote(&self) -> Result<(), EngineError> {
        let full = "cannot write /a/generations/000001, there is no room".into();
        Err(EngineError::NotPromoted { brief: "there is no room".into(), full })
    }
    fn roll_back(&self) -> Result<(), EngineError> {
        self.0.roll_back()
    }
}

#[test]
fn weights_that_could_not_be_written_are_not_said_to_be_rolled_back() {
    let plan = Plan { engine: Arc::new(Full(StandIn::stock())), ..plan(Origin::Synth) };
    let plan = Plan { task: Task { mode: Mode::Adapt, ..plan.task }, ..plan };
    let shown = Arc::default();
    let mut targets: Vec<Box<dyn Target>> = vec![Box::new(Shown(Arc::clone(&shown), 0))];
    let has = |word: &str| shown.lock().unwrap().iter().any(|shown| shown.starts_with(word));
    let summary = run(&plan, &Arc::new(post()), &mut targets, &mut |time, _, _| {
        assert!(time < Duration::from_secs(60));
        has("not promoted").then_some(Command::Quit)
    });
    let summary = summary.unwrap();
    assert_eq!((summary.adaptations, summary.promoted, summary.refused), (1, 0, 0));
    assert!(!has("rolled back") && summary.stuck.is_empty());
}

/// Panics.
struct Broken(About);

impl Engine for Broken {
    fn about(&self) -> &About {
        &self.0
    }
    fn classify(&self, _: &Frame, _: &Look) -> Result<Judgement, EngineError> {
        panic!("no weights")
    }
    fn attack(&self, _: &Frame, _: Pixels, _: &Look) -> Result<Attacked, EngineError> {
        unreachable!()
    }
    fn adapt(
        &self,
        _: &[Example],
        _: Pixels,
        _: &mut dyn FnMut(Round) -> ControlFlow<()>,
    ) -> Result<Guarded, EngineError> {
        unreachable!()
    }
    fn promote(&self) -> Result<(), EngineError> {
        unreachable!()
    }
    fn roll_back(&self) -> Result<(), EngineError> {
        unreachable!()
    }
}

#[test]
fn an_engine_that_panics_ends_the_run_with_its_words() {
    let about = About { name: "b".into(), device: "cpu".into(), classes: vec!["a".into()] };
    let plan = Plan { engine: Arc::new(Broken(about)), ..plan(Origin::Synth) };
    let summary = run(&plan, &Arc::new(post()), &mut [], &mut |_, _, _| None).unwrap();
    assert!(summary.died.unwrap().contains("no weights"));
    assert_eq!(summary.stuck.len(), 0);
}
