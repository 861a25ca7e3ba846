//! An engine without a bundle: a perceptron on 16x16 grey cells that learns the drawn shapes in the first half second.
//!
//! It is small, but nothing about it is staged: it is attacked through its own gradient, and adapting is adversarial
//! training of its weights. It stands in for a bundle in tests, in the demonstration and on a machine that has none.

use super::perceptron::{CELLS, INPUTS, Perceptron, softmax};
use super::{About, Attacked, Engine, EngineError, Example, Guarded, Judgement, Look, Round, square};
use crate::frame::Frame;
use crate::random::Random;
use crate::source::synth::{CLASSES, Synth};
use crate::state::{Guard, View};
use gabion_spec::Pixels;
use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};

/// Frames that it learns from at the start.
const FRAMES: usize = 720;
/// Frames that it does not forget.
const REMEMBERED: usize = 300;
/// Passes over them.
const PASSES: usize = 12;
const RATE: f32 = 0.02;
/// The rate of adaptation: perturbed examples pull hard.
const SLOW: f32 = 0.006;
/// How far a grey level counts.
const GAIN: f32 = 3.0;
/// Rounds of adaptation.
const ROUNDS: u16 = 24;
/// Fewest labelled frames.
const FEWEST: usize = 24;
/// Sides that are perturbed.
const SIDE: u32 = 96;
/// How much of the clean accuracy a candidate may lose.
const LOSS: f32 = 0.05;

/// Where a view lies: left, top, right, bottom as shares.
type Area = [f32; 4];
const WHOLE: Area = [0.0, 0.0, 1.0, 1.0];

/// A perceptron with what it was and what it may become.
#[derive(Debug)]
pub struct StandIn {
    about: About,
    weights: Mutex<Weights>,
    /// Some of what it learned from, gone over again while it adapts, so that it forgets nothing.
    memory: Vec<(Vec<f32>, usize)>,
}

#[derive(Clone, Debug)]
struct Weights {
    current: Perceptron,
    candidate: Option<Perceptron>,
    before: Option<Perceptron>,
}

impl StandIn {
    /// Trained on drawn shapes; equal seeds give equal engines.
    pub fn trained(seed: u64) -> Self {
        let classes: Vec<String> = CLASSES.map(String::from).to_vec();
        let mut net = Perceptron::new(classes.len(), seed);
        let frames: Vec<Frame> = Synth::new(seed ^ 0x7472_6169).take(FRAMES).collect();
        let mut random = Random::new(seed);
        for pass in 0..PASSES {
            let rate = RATE * if pass < PASSES * 2 / 3 { 1.0 } else { 0.3 };
            for frame in &frames {
                let class = class_of(&classes, frame).expect("drawn shapes have labels");
                net.step(&seen(frame, crop(&mut random)), class, rate);
            }
        }
        let memory = frames[..REMEMBERED].iter().enumerate().map(|(at, frame)| {
            let area = if at % 2 == 0 { WHOLE } else { crop(&mut random) };
            (seen(frame, area), class_of(&classes, frame).expect("drawn shapes have labels"))
        });
        let memory = memory.collect();
        let about = About { name: "stand-in".into(), device: "cpu".into(), classes };
        Self { about, weights: Mutex::new(Weights { current: net, candidate: None, before: None }), memory }
    }

    /// [`StandIn::trained`] of seed 0, trained once for all tests.
    #[cfg(test)]
    pub(crate) fn stock() -> Self {
        static TRAINED: std::sync::OnceLock<StandIn> = std::sync::OnceLock::new();
        let trained = TRAINED.get_or_init(|| Self::trained(0));
        let weights = Mutex::new(trained.weights().clone());
        Self { about: trained.about.clone(), weights, memory: trained.memory.clone() }
    }

    fn weights(&self) -> std::sync::MutexGuard<'_, Weights> {
        self.weights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn class_of(classes: &[String], frame: &Frame) -> Option<usize> {
    classes.iter().position(|class| Some(class) == frame.label.as_ref())
}

/// A square crop of 0.6 to 1 of the sides.
fn crop(random: &mut Random) -> Area {
    let side = random.between(0.6, 1.0);
    let (left, top) = (random.between(0.0, 1.0 - side), random.between(0.0, 1.0 - side));
    [left, top, left + side, top + side]
}

/// The crops of a look.
fn areas(look: &Look) -> Vec<Area> {
    if look.views == 1 {
        return vec![WHOLE];
    }
    let mut random = Random::new(look.seed.wrapping_mul(0x9E37_79B9) ^ 0x7669_6577);
    (0..look.views).map(|_| crop(&mut random)).collect()
}

/// The pixels of a cell, from and to, along one side.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)] // sides are small
fn span(cell: usize, (from, to): (f32, f32), side: u32) -> (usize, usize) {
    let at = |cell: usize| {
        let share = from + (to - from) * cell as f32 / CELLS as f32;
        ((share * side as f32).round() as usize).min(side as usize)
    };
    let (first, end) = (at(cell).min(side as usize - 1), at(cell + 1));
    (first, end.max(first + 1))
}

/// Mean brightness of each cell of a view, less that of the view.
fn seen(frame: &Frame, [left, top, right, bottom]: Area) -> Vec<f32> {
    let columns: Vec<_> = (0..CELLS).map(|cell| span(cell, (left, right), frame.width)).collect();
    let mut seen = Vec::with_capacity(INPUTS);
    for row in 0..CELLS {
        let (first, end) = span(row, (top, bottom), frame.height);
        for &(from, to) in &columns {
            let mut sum = 0u32;
            for y in first..end {
                let at = 3 * (y * frame.width as usize + from);
                sum += frame.pixels[at..3 * (y * frame.width as usize + to)].iter().map(|&v| u32::from(v)).sum::<u32>();
            }
            #[allow(clippy::cast_precision_loss)] // below 2^24 for the sizes that are used
            seen.push(GAIN * sum as f32 / (255 * 3 * (end - first) * (to - from)) as f32);
        }
    }
    centre(&mut seen);
    seen
}

#[allow(clippy::cast_precision_loss)]
fn centre(values: &mut [f32]) {
    let mean = values.iter().sum::<f32>() / values.len() as f32;
    values.iter_mut().for_each(|value| *value -= mean);
}

/// The index of the greatest.
fn first(values: &[f32]) -> usize {
    (0..values.len()).max_by(|&a, &b| values[a].total_cmp(&values[b])).expect("there is a class")
}

fn judge(net: &Perceptron, classes: &[String], frame: &Frame, look: &Look) -> Result<Judgement, EngineError> {
    if !(1..=4096).contains(&look.views) {
        return Err(EngineError::Views(look.views));
    }
    let areas = areas(look);
    let mut sum = vec![0.0; classes.len()];
    let mut votes = Vec::with_capacity(areas.len());
    for &area in &areas {
        let logits = net.forward(&seen(frame, area)).logits;
        votes.push(first(&logits));
        sum.iter_mut().zip(&logits).for_each(|(sum, logit)| *sum += logit);
    }
    #[allow(clippy::cast_precision_loss)] // 4096 at most
    let count = areas.len() as f32;
    let mean: Vec<f32> = sum.iter().map(|sum| sum / count).collect();
    let class = first(&mean);
    #[allow(clippy::cast_precision_loss)]
    let agreement = votes.iter().filter(|&&vote| vote == class).count() as f32 / count;
    let mut named: Vec<_> = classes.iter().cloned().zip(softmax(&mean)).collect();
    named.sort_by(|a, b| b.1.total_cmp(&a.1));
    let margin = named[0].1 - named.get(1).map_or(0.0, |second| second.1);
    let views = if look.views == 1 {
        Vec::new()
    } else {
        areas.into_iter().zip(votes).map(|(area, vote)| View { area, class: vote, agrees: vote == class }).collect()
    };
    Ok(Judgement { classes: named, agreement, margin, views })
}

/// What is seen, moved up the loss by at most `reach` a cell.
fn perturbed(net: &Perceptron, clean: &[f32], class: usize, reach: f32) -> Vec<f32> {
    const STEPS: u8 = 4;
    let mut moved = clean.to_vec();
    for _ in 0..STEPS {
        let mut slope = net.slope(&moved, class);
        centre(&mut slope);
        for ((value, slope), clean) in moved.iter_mut().zip(slope).zip(clean) {
            let step = if slope == 0.0 { 0.0 } else { slope.signum() };
            *value = (*value + 0.5 * reach * step).clamp(clean - reach, clean + reach);
        }
    }
    moved
}

/// What is trained on and what is held out: every third example of each class.
fn split(examples: &[Example], classes: usize) -> (Vec<&Example>, Vec<&Example>) {
    let mut counts = vec![0u32; classes];
    examples.iter().partition(|example| {
        counts[example.class] += 1;
        !counts[example.class].is_multiple_of(3)
    })
}

/// Shares of held-out examples classified rightly, clean and perturbed.
#[allow(clippy::cast_precision_loss)] // a few hundred
fn accuracy(net: &Perceptron, held: &[(Vec<f32>, usize)], reach: f32) -> [f32; 2] {
    let right = |seen: &[f32], class: usize| first(&net.forward(seen).logits) == class;
    let clean = held.iter().filter(|(seen, class)| right(seen, *class)).count();
    let attacked = held.iter().filter(|(seen, class)| right(&perturbed(net, seen, *class, reach), *class)).count();
    [clean, attacked].map(|count| count as f32 / held.len().max(1) as f32)
}

impl Engine for StandIn {
    fn about(&self) -> &About {
        &self.about
    }

    fn classify(&self, frame: &Frame, look: &Look) -> Result<Judgement, EngineError> {
        let net = self.weights().current.clone();
        judge(&net, &self.about.classes, frame, look)
    }

    fn attack(&self, frame: &Frame, epsilon: Pixels, look: &Look) -> Result<Attacked, EngineError> {
        let clean = frame.within(SIDE);
        let net = self.weights().current.clone();
        let whole = seen(&clean, WHOLE);
        let class = first(&net.forward(&whole).logits);
        let moved = perturbed(&net, &whole, class, GAIN * epsilon.0);
        // What the cells moved is what their pixels move, up to the bytes' rounding.
        let mut attacked = clean.clone();
        let budget = (255.0 * epsilon.0 + 1e-3).floor();
        for row in 0..CELLS {
            let rows = span(row, (0.0, 1.0), clean.height);
            for column in 0..CELLS {
                let columns = span(column, (0.0, 1.0), clean.width);
                let cell = row * CELLS + column;
                let by = (255.0 * (moved[cell] - whole[cell]) / GAIN).round().clamp(-budget, budget);
                for y in rows.0..rows.1 {
                    for value in &mut attacked.pixels[3 * (y * clean.width as usize + columns.0)..]
                        [..3 * (columns.1 - columns.0)]
                    {
                        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // clamped to a byte
                        let moved = (f32::from(*value) + by).clamp(0.0, 255.0) as u8;
                        *value = moved;
                    }
                }
            }
        }
        let single = Look { views: 1, ..*look };
        let (before, after) = (self.classify(&clean, &single)?, self.classify(&attacked, &single)?);
        square::finish(self, clean, attacked, [&before, &after], look)
    }

    fn adapt(
        &self,
        examples: &[Example],
        epsilon: Pixels,
        watch: &mut dyn FnMut(Round) -> ControlFlow<()>,
    ) -> Result<Guarded, EngineError> {
        if examples.len() < FEWEST {
            return Err(EngineError::Examples { have: examples.len(), need: FEWEST });
        }
        let before = self.weights().current.clone();
        let mut net = before.clone();
        let reach = GAIN * epsilon.0;
        let (train, held) = split(examples, self.about.classes.len());
        let held: Vec<_> = held.iter().map(|held| (seen(&held.frame, WHOLE), held.class)).collect();
        let mut random = Random::new(0x6164_6170);
        for round in 1..=ROUNDS {
            let new = train
                .iter()
                .flat_map(|example| [crop(&mut random), WHOLE].map(|area| (seen(&example.frame, area), example.class)));
            for (clean, class) in new.collect::<Vec<_>>().iter().chain(&self.memory) {
                net.step(&perturbed(&net, clean, *class, reach), *class, SLOW);
                net.step(clean, *class, SLOW);
            }
            let [_, attacked] = accuracy(&net, &held, reach);
            let done = f32::from(round) / f32::from(ROUNDS);
            if watch(Round { done, attacked: Some(attacked) }).is_break() {
                return Err(EngineError::Stopped);
            }
        }
        let (old, new) = (accuracy(&before, &held, reach), accuracy(&net, &held, reach));
        let guard = Guard { clean: [old[0], new[0]], attacked: [old[1], new[1]] };
        self.weights().candidate = Some(net);
        Ok(Guarded { guard, passes: new[0] >= old[0] - LOSS && new[1] > old[1] })
    }

    fn promote(&self) -> Result<(), EngineError> {
        let mut weights = self.weights();
        let candidate = weights.candidate.take().ok_or(EngineError::NoWeights("new"))?;
        weights.before = Some(std::mem::replace(&mut weights.current, candidate));
        Ok(())
    }

    fn roll_back(&self) -> Result<(), EngineError> {
        let mut weights = self.weights();
        if weights.candidate.take().is_some() {
            return Ok(());
        }
        weights.current = weights.before.take().ok_or(EngineError::NoWeights("earlier"))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    const EPSILON: Pixels = Pixels::of_255(5.0);

    fn examples(engine: &StandIn, count: usize) -> Vec<Example> {
        let example =
            |frame: Frame| Example { class: class_of(&engine.about.classes, &frame).unwrap(), frame: Arc::new(frame) };
        Synth::new(77).take(count).map(example).collect()
    }

    fn right(engine: &StandIn, views: u32) -> usize {
        let frames = Synth::new(99).take(60);
        frames
            .filter(|f| engine.classify(f, &Look { views, seed: 1 }).unwrap().first().0 == f.label.as_deref().unwrap())
            .count()
    }

    #[test]
    fn it_knows_the_shapes_is_fooled_and_adapts() {
        let engine = StandIn::stock();
        let (one, many) = (right(&engine, 1), right(&engine, 16));
        assert!(one >= 48 && many >= 48, "{one} and {many} of 60");
        let look = Look { views: 16, seed: 2 };
        let fooled = |engine: &StandIn| {
            let attacks = Synth::new(55).take(60).map(|frame| engine.attack(&frame, EPSILON, &look).unwrap());
            attacks.fold((0, 0), |(one, many), attacked| {
                let moved = |change: &super::super::Change| usize::from(change.before.0 != change.after.0);
                (one + moved(&attacked.one), many + moved(&attacked.many))
            })
        };
        let before = fooled(&engine);
        let mut rounds = Vec::new();
        let guarded = engine
            .adapt(&examples(&engine, 120), EPSILON, &mut |round| {
                rounds.extend(round.attacked);
                ControlFlow::Continue(())
            })
            .unwrap();
        println!("right {one}, {many} of 60; fooled {before:?} of 60; {guarded:?}; {rounds:?}");
        assert!(guarded.passes, "{guarded:?}");
        engine.promote().unwrap();
        let after = fooled(&engine);
        println!("then fooled {after:?}");
        assert!(before.0 >= 10 && after.0 < before.0, "{before:?} {after:?}");
        engine.roll_back().unwrap();
        assert_eq!(fooled(&engine), before);
        assert!(matches!(engine.roll_back(), Err(EngineError::NoWeights(_))));
        assert!(matches!(engine.promote(), Err(EngineError::NoWeights(_))));
    }

    #[test]
    fn what_does_not_help_is_not_let_through() {
        let engine = StandIn::stock();
        let examples = examples(&engine, 90);
        let far = Pixels::of_255(100.0);
        let guarded = engine.adapt(&examples, far, &mut |_| ControlFlow::Continue(())).unwrap();
        assert!(!guarded.passes, "{guarded:?}");
        assert!(matches!(
            engine.adapt(&examples[..5], EPSILON, &mut |_| ControlFlow::Continue(())),
            Err(EngineError::Examples { .. })
        ));
        assert!(matches!(engine.adapt(&examples, EPSILON, &mut |_| ControlFlow::Break(())), Err(EngineError::Stopped)));
    }
}
