//! A picture perturbed against one view of it, to show what an attack does. Robustness is measured by `gabion evaluate`,
//! with attacks that do not give up so soon.

use super::{Classify, ClassifyError, Engine, Session};
use crate::Rgb;
use gabion_spec::Pixels;

impl Session {
    /// PGD (Madry et al. 2018, <https://arxiv.org/abs/1706.06083>) on cross-entropy against what the whole picture is taken
    /// for: the picture at the input's size, and that perturbed by at most `epsilon` a value, both in 8 bits. Steps are a
    /// quarter of the budget, and it ends once the view is taken for something else. None where the session has no
    /// gradients, which is not on the CPU.
    ///
    /// # Errors
    /// As [`Session::classify`].
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // values of a byte
    pub fn perturbed(&self, image: &Rgb, epsilon: Pixels, steps: u32) -> Result<Option<[Rgb; 2]>, ClassifyError> {
        let label = self.classify(image, &Classify::default())?.label;
        let network = match &self.engine {
            Engine::Cpu(network) => network,
            #[cfg(any(feature = "burn", feature = "candle"))]
            _ => return Ok(None),
        };
        let (height, width) = (self.manifest.input.height as usize, self.manifest.input.width as usize);
        let clean = image.centre(height, width);
        let pixels = height * width;
        let at = |place: usize| place % pixels * 3 + place / pixels;
        let planes =
            |bytes: &[u8]| (0..3 * pixels).map(|place| f32::from(bytes[at(place)]) / 255.0).collect::<Vec<_>>();
        let budget = (epsilon.0.clamp(0.0, 1.0) * 255.0 + 1e-3).floor();
        let start = planes(&clean.pixels);
        let (low, high): (Vec<f32>, Vec<f32>) =
            start.iter().map(|x| ((x - budget / 255.0).max(0.0), (x + budget / 255.0).min(1.0))).unzip();
        let (mut x, mut best) = (start, clean.clone());
        let (mut logits, mut slope) = (vec![0.0; self.manifest.classes.len()], vec![0.0; x.len()]);
        for _ in 0..steps {
            let mut ascent = |logits: &[f32]| cross_entropy(logits, label);
            network.net.gradient(&x, network.net.last(), &mut ascent, &mut logits, &mut slope);
            for place in 0..x.len() {
                let step = budget / 4.0 / 255.0 * slope[place].signum() * f32::from(slope[place] != 0.0);
                x[place] = (x[place] + step).clamp(low[place], high[place]);
            }
            // What is shown is in 8 bits, and the bounds are whole levels.
            for (place, value) in x.iter().enumerate() {
                best.pixels[at(place)] = (value * 255.0).round() as u8;
            }
            if self.classify(&best, &Classify::default())?.label != label {
                break;
            }
        }
        Ok(Some([clean, best]))
    }
}

/// The derivative of cross-entropy with respect to the logits.
#[allow(clippy::cast_possible_truncation)] // a probability fits
fn cross_entropy(logits: &[f32], label: usize) -> Vec<f32> {
    let greatest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f64> = logits.iter().map(|logit| f64::from(logit - greatest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    let own = |class: usize| if class == label { 1.0 } else { 0.0 };
    powers.iter().enumerate().map(|(class, power)| (power / sum - own(class)) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{picture, stored};
    use super::*;

    #[test]
    fn a_perturbed_picture_stays_within_the_budget_and_is_less_what_it_was() {
        let session = Session::of(&stored()).unwrap();
        for seed in 0..6 {
            let image = picture(20, 24, seed);
            let [clean, perturbed] = session.perturbed(&image, Pixels(8.0 / 255.0), 10).unwrap().unwrap();
            assert_eq!((clean.height, clean.width), (16, 16));
            let distance = clean.pixels.iter().zip(&perturbed.pixels).map(|(a, b)| a.abs_diff(*b)).max();
            assert!(distance <= Some(8), "{distance:?}");
            let [before, after] =
                [&clean, &perturbed].map(|image| session.classify(image, &Classify::default()).unwrap());
            // A network that nobody trained is sure of what it says; an attack still makes it less so.
            assert!(
                after.probabilities[before.label] < before.probabilities[before.label] || after.label != before.label
            );
            let [same, still] = session.perturbed(&image, Pixels(0.0), 3).unwrap().unwrap();
            assert_eq!(same, still);
        }
    }
}
