//! Twenty seconds through all of it: a script, a stream of drawn shapes and a clock that is counted, not read, so that
//! equal engines give equal pictures.

use crate::app::{Action, App, Outcome, Task};
use crate::command::{Command, Mode};
use crate::display::{Target, TargetError};
use crate::engine::{Engine, EngineError, Guarded, Look, Round};
use crate::source::synth::Stream;
use crate::state::Feed;
use gabion_spec::Pixels;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

/// Time between two pictures.
const STEP: Duration = Duration::from_millis(100);
/// Pictures.
const PICTURES: u32 = 200;
/// Labelled frames that the adaptation takes, and frames a picture while they are collected.
const EXAMPLES: usize = 120;
const COLLECTED: usize = 6;

/// What is pressed, and at which picture.
fn script() -> [(u32, Command); 6] {
    [
        (0, Command::Views(8)),
        (30, Command::Views(16)),
        (50, Command::Mode(Mode::Attack)),
        (95, Command::Mode(Mode::Adapt)),
        (160, Command::Mode(Mode::Attack)),
        (199, Command::Mode(Mode::Live)),
    ]
}

/// Why a demonstration ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DemoError {
    /// The engine refused.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A target refused.
    #[error(transparent)]
    Target(#[from] TargetError),
}

/// Rounds of a training that is over, told one by one, and its end.
struct Told {
    rounds: std::collections::VecDeque<Round>,
    end: Option<Result<Guarded, String>>,
}

fn train(engine: &dyn Engine, examples: &[crate::engine::Example], epsilon: Pixels) -> Told {
    let mut rounds = std::collections::VecDeque::new();
    let end = engine.adapt(examples, epsilon, &mut |round| {
        rounds.push_back(round);
        ControlFlow::Continue(())
    });
    Told { rounds, end: Some(end.map_err(|error| error.to_string())) }
}

/// Plays it on a target. `epsilon` is the budget of its attacks.
///
/// # Errors
/// What the engine or the target refuses.
pub fn play(engine: &dyn Engine, epsilon: Pixels, target: &mut dyn Target) -> Result<(), DemoError> {
    let task = Task { mode: Mode::Live, epsilon, look: Look { views: 8, seed: 0 } };
    let mut app = App::new(engine.about().clone(), task, EXAMPLES, Duration::from_secs(5));
    let mut stream = Stream::new(7);
    let mut told: Option<Told> = None;
    let script = script();
    for picture in 0..PICTURES {
        let time = STEP * picture;
        for (_, command) in script.iter().filter(|(at, _)| *at == picture) {
            app.command(command.clone());
        }
        app.note(engine.about().name.clone());
        let collecting = app.task().mode == Mode::Adapt && told.is_none();
        for _ in 0..if collecting { COLLECTED } else { 1 } {
            let frame = Arc::new(stream.frame());
            let task = app.task();
            let judgement = engine.classify(&frame, &task.look)?;
            let attacked = (task.mode == Mode::Attack)
                .then(|| engine.attack(&frame, task.epsilon, &task.look).map_err(|error| error.to_string()));
            // Time is counted here, so that none was measured.
            let outcome = Outcome { frame, judgement, attacked, milliseconds: None };
            app.fed(Feed::Live, String::new(), time);
            if let Some(Action::Adapt(examples)) = app.judged(outcome) {
                told = Some(train(engine, &examples, app.task().epsilon));
            }
        }
        if let Some(told) = &mut told {
            match told.rounds.pop_front() {
                Some(round) => app.round(round),
                None => match told.end.take().and_then(|end| app.adapted(end)) {
                    Some(Action::Promote) => engine.promote()?,
                    Some(Action::Drop) => engine.roll_back()?,
                    _ => {}
                },
            }
        }
        target.show(&app.view(), time)?;
    }
    target.finish()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::standin::StandIn;
    use crate::state::{Badge, Scene, Stage, ViewState};

    /// What is seen, in words and as a picture.
    #[derive(Default)]
    struct Seen(Vec<(Badge, Option<String>)>, Vec<Vec<u8>>, Option<crate::display::Kept>);

    impl Target for Seen {
        fn show(&mut self, state: &ViewState<'_>, time: Duration) -> Result<(), TargetError> {
            assert_eq!(time, STEP * u32::try_from(self.0.len()).unwrap());
            let stage = match &state.scene {
                Scene::Adapt(adaptation) => Some(match adaptation.stage {
                    Stage::Collecting(..) => "collecting".to_owned(),
                    Stage::Training(_) => "training".to_owned(),
                    other => format!("{other:?}"),
                }),
                _ => None,
            };
            self.0.push((state.badge, stage));
            let screen = self.2.get_or_insert_with(|| crate::display::Kept::new(crate::display::Shape::Square));
            if screen.update(state).is_some() && self.0.len().is_multiple_of(10) {
                self.1.push(screen.image().into_raw());
            }
            Ok(())
        }
    }

    #[test]
    fn it_goes_through_all_of_it_and_is_the_same_each_time() {
        let play = || {
            let mut seen = Seen::default();
            super::play(&StandIn::stock(), Pixels::of_255(8.0), &mut seen).unwrap();
            seen
        };
        let seen = play();
        assert_eq!(seen.0.len(), 200);
        let mut stages: Vec<_> = seen.0.iter().filter_map(|(_, stage)| stage.clone()).collect();
        stages.dedup();
        assert_eq!(stages, ["collecting", "training", "Promoted"]);
        for badge in [Badge::Clean, Badge::Attacked(Pixels::of_255(8.0)), Badge::Adapting] {
            assert!(seen.0.iter().any(|(seen, _)| *seen == badge), "{badge:?}");
        }
        assert!(seen.1 == play().1);
    }
}
