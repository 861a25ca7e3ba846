//! Images for the page, before and after an attack.

use crate::data::Images;
use crate::evaluate::{Evaluation, Subject};
use crate::report::Picture;
use gabion_learn::attack::{FRESH, Pass, first_of_greatest};
use gabion_runtime::Rgb;

/// At most `most` images that fell at the largest budget whose adversarial images were kept, of as many classes as there
/// are.
pub fn pictures(subject: &Subject, test: &Images, evaluation: &Evaluation, most: usize) -> Vec<Picture> {
    let Some(row) = evaluation.attacks.last() else { return Vec::new() };
    let Some(adversarial) = evaluation.adversarial(row.epsilon) else { return Vec::new() };
    let last = evaluation.attacks.len() - 1;
    let fell = |place: &usize| {
        let verdict = &evaluation.verdicts[*place];
        verdict.predicted == verdict.label && !verdict.robust[last]
    };
    let mut chosen: Vec<usize> = Vec::new();
    for distinct in [true, false] {
        for place in (0..evaluation.verdicts.len()).filter(fell) {
            let label = evaluation.verdicts[place].label;
            let seen = chosen.iter().any(|&other| evaluation.verdicts[other].label == label);
            if chosen.len() < most && !chosen.contains(&place) && !(distinct && seen) {
                chosen.push(place);
            }
        }
    }
    let length = 3 * test.height * test.width;
    let victim = subject.victim();
    let picture = |place: usize| {
        let index = evaluation.verdicts[place].index;
        let clean = Rgb { height: test.height, width: test.width, pixels: test.image(index).to_vec() };
        let attacked = &adversarial[place * length..][..length];
        let says = |x: &[f32]| {
            let logits = victim.logits(x, Pass { images: &[index as u64], draw: FRESH });
            let class = first_of_greatest(&logits);
            let sum: f32 = logits.iter().map(|logit| (logit - logits[class]).exp()).sum();
            (test.classes[class].clone(), 1.0 / sum)
        };
        Picture {
            truth: test.classes[usize::from(evaluation.verdicts[place].label)].clone(),
            epsilon: row.epsilon,
            predicted_clean: says(&planes(&clean)),
            predicted_adversarial: says(attacked),
            adversarial: interleaved(attacked, test),
            clean,
        }
    };
    chosen.into_iter().map(picture).collect()
}

/// `[3, height, width]` in `[0, 1]`.
fn planes(image: &Rgb) -> Vec<f32> {
    let channel = |channel| image.pixels.iter().skip(channel).step_by(3).map(|&value| f32::from(value) / 255.0);
    (0..3).flat_map(channel).collect()
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // values are within [0, 1]
fn interleaved(planes: &[f32], test: &Images) -> Rgb {
    let area = test.height * test.width;
    let level = |at: usize| (255.0 * planes[at % 3 * area + at / 3]).round() as u8;
    Rgb { height: test.height, width: test.width, pixels: (0..3 * area).map(level).collect() }
}
