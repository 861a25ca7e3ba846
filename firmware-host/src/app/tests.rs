//! What commands, frames and the clock make of the state.

use super::*;
use crate::engine::standin::StandIn;
use crate::engine::{Engine, EngineError};
use crate::source::synth::Synth;

fn app(wanted: usize) -> (App, StandIn) {
    let engine = StandIn::stock();
    let task = Task { mode: Mode::Live, epsilon: Pixels::of_255(8.0), look: Look { views: 4, seed: 0 } };
    (App::new(engine.about().clone(), task, wanted, Duration::from_secs(2)), engine)
}

fn outcome(engine: &StandIn, frame: Frame) -> Outcome {
    let judgement = engine.classify(&frame, &Look { views: 4, seed: 0 }).unwrap();
    Outcome { frame: Arc::new(frame), judgement, attacked: None, milliseconds: Some(1.0) }
}

#[test]
fn labelled_frames_start_an_adaptation_once() {
    let (mut app, engine) = app(5);
    let frames: Vec<_> = Synth::new(1).take(8).collect();
    assert!(app.judged(outcome(&engine, frames[0].clone())).is_none());
    app.command(Command::Mode(Mode::Adapt));
    let mut started = 0;
    for frame in &frames {
        match app.judged(outcome(&engine, frame.clone())) {
            Some(Action::Adapt(examples)) => started += examples.len(),
            None => {}
            Some(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(started, 5);
    app.round(Round { done: 0.5, attacked: Some(0.25) });
    assert_eq!(app.view().badge, Badge::Adapting);
    let guard = Guard { clean: [0.9, 0.2], attacked: [0.1, 0.1] };
    assert!(matches!(app.adapted(Ok(Guarded { guard, passes: false })), Some(Action::Drop)));
    assert_eq!(app.stage, Stage::RolledBack);
    // Again.
    app.command(Command::Mode(Mode::Adapt));
    assert_eq!(app.stage, Stage::Collecting);
}

#[test]
fn a_promotion_that_fails_is_no_rollback() {
    let (mut app, _) = app(5);
    app.command(Command::Mode(Mode::Adapt));
    let guard = Guard { clean: [0.9, 0.9], attacked: [0.1, 0.5] };
    assert!(matches!(app.adapted(Ok(Guarded { guard, passes: true })), Some(Action::Promote)));
    app.not_promoted("no room".into());
    let view = app.view();
    assert!(matches!(
        view.scene,
        Scene::Adapt(Adaptation { stage: state::Stage::NotPromoted("no room"), guard: Some(_), .. })
    ));
    assert!(app.status().contains("no room"));
    app.command(Command::Mode(Mode::Adapt));
    assert_eq!(app.stage, Stage::Collecting);
}

#[test]
fn keys_label_frames() {
    let (mut app, engine) = app(2);
    assert!(app.command(Command::LabelAt(0)).is_none(), "nothing is seen yet");
    app.judged(outcome(&engine, Synth::new(1).next().unwrap()));
    assert!(app.command(Command::LabelAt(99)).is_none());
    assert!(app.command(Command::Label("no such".into())).is_none());
    assert!(app.command(Command::Label("ring".into())).is_none());
    assert!(matches!(app.command(Command::LabelAt(1)), Some(Action::Adapt(examples)) if examples.len() == 2));
}

#[test]
fn a_silent_source_is_stalled_and_a_paused_one_is_not() {
    let (mut app, engine) = app(5);
    app.tick(Duration::from_secs(1));
    assert_eq!(app.feed(), Feed::Starting);
    app.fed(Feed::Live, String::new(), Duration::from_secs(1));
    // An engine that takes long is no fault of the source.
    app.judged(outcome(&engine, Synth::new(1).next().unwrap()));
    app.tick(Duration::from_secs(14));
    assert_eq!(app.feed(), Feed::Stalled(13));
    app.command(Command::TogglePause);
    assert_eq!(app.feed(), Feed::Paused);
    app.command(Command::TogglePause);
    app.fed(Feed::Lost(4), "unplugged".into(), Duration::from_secs(15));
    assert_eq!((app.feed(), app.view().status), (Feed::Lost(4), "unplugged"));
}

#[test]
fn budgets_and_views_stay_in_range() {
    let (mut app, _) = app(5);
    for _ in 0..50 {
        app.command(Command::Nudge(1));
    }
    assert_eq!(app.task().epsilon, Pixels::of_255(32.0));
    for views in [8, 16, 32, 1, 4] {
        app.command(Command::MoreViews);
        assert_eq!(app.task().look.views, views);
    }
    let status: serde_json::Value = serde_json::from_str(&app.status()).unwrap();
    assert_eq!(status["mode"], "live");
}

#[test]
fn what_an_engine_cannot_is_shown() {
    let (mut app, engine) = app(5);
    app.command(Command::Mode(Mode::Attack));
    let why = EngineError::Unavailable { what: "attack", why: "no".into() }.to_string();
    let outcome = Outcome { attacked: Some(Err(why)), ..outcome(&engine, Synth::new(1).next().unwrap()) };
    app.judged(outcome);
    assert!(matches!(app.view().scene, Scene::Attack(Duel { unavailable: Some(_), .. })));
    app.adapted(Err("no".into()));
    assert!(matches!(app.stage(), state::Stage::Unavailable("no")));
}
