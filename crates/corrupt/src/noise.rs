//! Noise: normal, Poisson, and values lost.

use crate::levels::{WHITE, truncated};
use crate::random::Random;

/// Adds normal noise of standard deviation `scale`, a part of white.
pub(crate) fn gaussian_noise(image: &[u8], scale: f32, mut normal: impl FnMut() -> f32, out: &mut [u8]) {
    for (out, &value) in out.iter_mut().zip(image) {
        *out = truncated(f32::from(value) + WHITE * scale * normal());
    }
}

/// Counts photons, of which a white value has `photons` on average.
pub(crate) fn shot_noise(image: &[u8], photons: f32, random: &mut Random, out: &mut [u8]) {
    for (out, &value) in out.iter_mut().zip(image) {
        let count = random.poisson(f64::from(value) / 255.0 * f64::from(photons));
        *out = truncated(WHITE * (count as f32 / photons));
    }
}

/// Replaces a share `amount` of the values, half by white and half by black. `unit` is asked twice for every value.
pub(crate) fn impulse_noise(image: &[u8], amount: f32, mut unit: impl FnMut() -> f32, out: &mut [u8]) {
    for (out, &value) in out.iter_mut().zip(image) {
        let (flipped, salted) = (unit() <= amount, unit() <= 0.5);
        *out = match (flipped, salted) {
            (true, true) => u8::MAX,
            (true, false) => 0,
            (false, _) => value,
        };
    }
}
