//! Whole runs: every mode, every fault, and an engine that panics.

use super::*;
use crate::display::TargetError;
use crate::engine::standin::StandIn;
use crate::source::Origin;
use crate::state::{Badge, Scene, Stage, ViewState};
use crate::work::post;
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

/// Panics.
struct Broken(crate::engine::About);

impl Engine for Broken {
    fn about(&self) -> &crate::engine::About {
        &self.0
    }
    fn classify(
        &self,
        _: &crate::frame::Frame,
        _: &crate::engine::Look,
    ) -> Result<crate::engine::Judgement, crate::engine::EngineError> {
        panic!("no weights")
    }
    fn attack(
        &self,
        _: &crate::frame::Frame,
        _: gabion_spec::Pixels,
        _: &crate::engine::Look,
    ) -> Result<crate::engine::Attacked, crate::engine::EngineError> {
        unreachable!()
    }
    fn adapt(
        &self,
        _: &[crate::engine::Example],
        _: gabion_spec::Pixels,
        _: &mut dyn FnMut(crate::engine::Round) -> std::ops::ControlFlow<()>,
    ) -> Result<crate::engine::Guarded, crate::engine::EngineError> {
        unreachable!()
    }
    fn promote(&self) -> Result<(), crate::engine::EngineError> {
        unreachable!()
    }
    fn roll_back(&self) -> Result<(), crate::engine::EngineError> {
        unreachable!()
    }
}

#[test]
fn an_engine_that_panics_ends_the_run_with_its_words() {
    let about = crate::engine::About { name: "b".into(), device: "cpu".into(), classes: vec!["a".into()] };
    let plan = Plan { engine: Arc::new(Broken(about)), ..plan(Origin::Synth) };
    let summary = run(&plan, &Arc::new(post()), &mut [], &mut |_, _, _| None).unwrap();
    assert!(summary.died.unwrap().contains("no weights"));
    assert_eq!(summary.stuck.len(), 0);
}
