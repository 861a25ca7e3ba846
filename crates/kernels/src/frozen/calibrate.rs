//! How large activations become, for a network in int8.

use super::{Extent, Frozen};
use crate::frozen::pass::memory;
use rayon::prelude::*;

/// Of an image's values of an activation, the share that a range covers: the rest is cut off for finer steps.
const COVERED: f64 = 0.9999;

impl Frozen {
    /// The range of each activation over some images: the greatest over them of what covers all but one in ten thousand of
    /// an image's values. It depends on nothing but the images and the weights (and on the level, to rounding).
    ///
    /// # Shapes
    /// - `x`: `[images, channels, height, width]`
    ///
    /// # Panics
    /// When `x` is not images.
    pub fn ranges(&self, x: &[f32]) -> Vec<f32> {
        assert!(x.len().is_multiple_of(self.input_len()), "{} values are not images of {}", x.len(), self.input_len());
        let none = || vec![0f32; self.values.len()];
        let greater = |a: Vec<f32>, b: Vec<f32>| a.iter().zip(b).map(|(a, b)| a.max(b)).collect();
        x.par_chunks(self.input_len()).map(|image| self.ranges_of_one(image)).reduce(none, greater)
    }

    fn ranges_of_one(&self, image: &[f32]) -> Vec<f32> {
        let mut places = memory(&self.forward, 1);
        let mut sorted = Vec::new();
        let mut range = |values: &[f32]| {
            sorted.clear();
            sorted.extend_from_slice(values);
            #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let place = ((values.len() - 1) as f64 * COVERED).ceil() as usize;
            *sorted.select_nth_unstable_by(place, f32::total_cmp).1
        };
        let mut ranges = Vec::with_capacity(self.values.len());
        let Extent { forward, .. } = self.values[0];
        let length = self.input_len();
        self.enter(image, &mut places[forward].as_mut_slice()[..length]);
        ranges.push(range(&places[forward].as_slice()[..length]));
        for number in 0..self.layers.len() {
            self.layer(number, 1, &mut places, &mut [], false);
            let made = self.values[number + 1];
            ranges.push(range(&places[made.forward].as_slice()[..made.len()]));
        }
        ranges
    }
}
