//! Square (Andriushchenko, Croce, Flammarion and Hein 2020, <https://arxiv.org/abs/1912.00049>) against one view, with
//! so few questions that it runs beside a camera. It asks for answers alone: no gradients, any engine. A lower bound on
//! what an attacker can do.

use super::{Attacked, Change, Engine, EngineError, Judgement, Look};
use crate::frame::Frame;
use crate::random::Random;
use gabion_spec::Pixels;

/// Most answers that are asked for.
const QUESTIONS: usize = 48;
/// Share of the pixels that the first square covers; halved as the questions go by.
const SHARE: f32 = 0.3;
/// Sides that are perturbed; a larger frame is made smaller first.
const SIDE: u32 = 96;

/// Perturbs a frame until one view of it is taken for another class, or the questions are used up.
///
/// # Errors
/// Those of [`Engine::classify`].
pub fn attack(engine: &dyn Engine, frame: &Frame, epsilon: Pixels, look: &Look) -> Result<Attacked, EngineError> {
    let clean = frame.within(SIDE);
    let single = Look { views: 1, ..*look };
    let before = engine.classify(&clean, &single)?;
    let class = before.first().0.to_owned();
    let mut best = (clean.clone(), before.clone(), lead(&before, &class));
    let mut random = Random::new(look.seed ^ 0x5351_5541);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // within 0..=255
    let budget = (epsilon.0.clamp(0.0, 1.0) * 255.0 + 1e-3).floor() as u8;
    if budget > 0 {
        for question in 0..QUESTIONS {
            let mut next = best.0.clone();
            if question == 0 {
                stripes(&clean, &mut next, budget, &mut random);
            } else {
                square(&clean, &mut next, budget, question, &mut random);
            }
            let answer = engine.classify(&next, &single)?;
            let lead = lead(&answer, &class);
            if lead < best.2 {
                best = (next, answer, lead);
            }
            if best.2 < 0.0 {
                break;
            }
        }
    }
    let (perturbed, after, _) = best;
    finish(engine, clean, perturbed, [&before, &after], look)
}

/// What many views say of both.
pub(super) fn finish(
    engine: &dyn Engine,
    clean: Frame,
    perturbed: Frame,
    [before, after]: [&Judgement; 2],
    look: &Look,
) -> Result<Attacked, EngineError> {
    let one = Change::between(before, after);
    let clean_many = engine.classify(&clean, look)?;
    let judgement = engine.classify(&perturbed, look)?;
    let many = Change::between(&clean_many, &judgement);
    Ok(Attacked { clean, perturbed, one, many, judgement })
}

/// How far a class is ahead of all others; below 0 it is no longer the answer.
fn lead(answer: &Judgement, class: &str) -> f32 {
    let of = |wanted: bool| {
        let found = answer.classes.iter().filter(move |(name, _)| (name == class) == wanted);
        found.map(|(_, probability)| *probability).fold(0.0, f32::max)
    };
    of(true) - of(false)
}

/// Moves a value of the clean frame to the budget's edge.
fn moved(value: u8, up: bool, budget: u8) -> u8 {
    if up { value.saturating_add(budget) } else { value.saturating_sub(budget) }
}

/// A chance sign for each column and channel.
fn stripes(clean: &Frame, into: &mut Frame, budget: u8, random: &mut Random) {
    let row = clean.width as usize * 3;
    let signs: Vec<bool> = (0..row).map(|_| random.bits() >> 63 == 1).collect();
    for (at, value) in into.pixels.iter_mut().enumerate() {
        *value = moved(clean.pixels[at], signs[at % row], budget);
    }
}

/// A chance sign for each channel of a square; the squares shrink.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)] // sides are small
fn square(clean: &Frame, into: &mut Frame, budget: u8, question: usize, random: &mut Random) {
    let (height, width) = (clean.height as usize, clean.width as usize);
    let share = SHARE * 0.5f32.powf((question * 5 / QUESTIONS) as f32);
    let side = ((share * (height * width) as f32).sqrt().round() as usize).clamp(1, height.min(width));
    let (top, left) = (random.below(height - side + 1), random.below(width - side + 1));
    let signs = [0; 3].map(|_: u8| random.bits() >> 63 == 1);
    for y in top..top + side {
        for x in left..left + side {
            for (channel, &up) in signs.iter().enumerate() {
                let at = 3 * (y * width + x) + channel;
                into.pixels[at] = moved(clean.pixels[at], up, budget);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::standin::StandIn;
    use crate::source::synth::Synth;

    #[test]
    fn an_attack_stays_within_its_budget_and_does_not_help_the_class() {
        let engine = StandIn::stock();
        let look = Look { views: 8, seed: 3 };
        let mut fooled = 0;
        for (at, frame) in Synth::new(5).take(12).enumerate() {
            let attacked = attack(&engine, &frame, Pixels::of_255(8.0), &look).unwrap();
            let moved = attacked.clean.pixels.iter().zip(&attacked.perturbed.pixels).map(|(a, b)| a.abs_diff(*b));
            assert!(moved.max().unwrap() <= 8, "frame {at}");
            fooled += usize::from(attacked.one.before.0 != attacked.one.after.0);
            if attacked.one.before.0 == attacked.one.after.0 {
                assert!(attacked.one.after.1 <= attacked.one.before.1);
            }
        }
        println!("{fooled} of 12 fooled");
    }

    #[test]
    fn without_a_budget_nothing_changes() {
        let engine = StandIn::stock();
        let frame = Synth::new(5).next().unwrap();
        let attacked = attack(&engine, &frame, Pixels(0.0), &Look { views: 4, seed: 0 }).unwrap();
        assert_eq!(attacked.clean, attacked.perturbed);
        assert_eq!(attacked.one.before, attacked.one.after);
    }
}
