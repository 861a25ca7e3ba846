//! Classifiers made of a classifier: known-broken twins that a trust report has to see through, and one that shows an
//! attack no more of an image than a patch.

use gabion_learn::attack::{Classifier, Gradient, Pass};
use std::collections::BTreeMap;

/// The classifier on images whose values are rounded to a few levels: its gradient is 0 almost everywhere, which hides it
/// from whoever follows gradients and protects nothing (Athalye et al. 2018, shattered gradients).
pub(super) struct Quantised<'a> {
    pub(super) victim: &'a dyn Classifier,
    /// Levels of a value.
    pub(super) levels: f32,
}

impl Classifier for Quantised<'_> {
    fn classes(&self) -> usize {
        self.victim.classes()
    }

    fn logits(&self, x: &[f32], pass: Pass<'_>) -> Vec<f32> {
        let steps = self.levels - 1.0;
        let rounded: Vec<f32> = x.iter().map(|value| (value * steps).round() / steps).collect();
        self.victim.logits(&rounded, pass)
    }

    fn gradient(&self, x: &[f32], pass: Pass<'_>, weights: &mut dyn FnMut(&[f32]) -> Vec<f32>) -> Gradient {
        let logits = self.logits(x, pass);
        weights(&logits);
        Gradient { logits, x: vec![0.0; x.len()] }
    }
}

/// Softmax regression on pixels: an undefended model that takes a moment to train.
pub(super) struct Pixelwise {
    /// `[classes, values]`.
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Pixelwise {
    /// Trained by gradient descent on `[images, values]` and their labels.
    pub(super) fn trained(x: &[f32], labels: &[usize], classes: usize) -> Self {
        let length = x.len() / labels.len().max(1);
        let mut model = Self { weight: vec![0.0; classes * length], bias: vec![0.0; classes] };
        let mut speed = vec![0.0f32; classes * length];
        for _ in 0..60 {
            let logits = model.rows(x);
            let mut slope = vec![0.0f32; classes * length];
            for ((x, logits), &label) in x.chunks_exact(length).zip(logits.chunks_exact(classes)).zip(labels) {
                let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let powers: Vec<f32> = logits.iter().map(|logit| (logit - most).exp()).collect();
                let sum: f32 = powers.iter().sum();
                for (class, slope) in slope.chunks_exact_mut(length).enumerate() {
                    let error = powers[class] / sum - f32::from(u8::from(class == label));
                    slope.iter_mut().zip(x).for_each(|(slope, x)| *slope += error * (x - 0.5));
                }
            }
            let rate = 2.0 / labels.len() as f32 / (length as f32).sqrt();
            for ((weight, speed), slope) in model.weight.iter_mut().zip(&mut speed).zip(slope) {
                *speed = 0.9 * *speed - rate * slope;
                *weight += *speed;
            }
            // On pixels around their middle, which converges sooner.
            for (bias, weight) in model.bias.iter_mut().zip(model.weight.chunks_exact(length)) {
                *bias = -0.5 * weight.iter().sum::<f32>();
            }
        }
        model
    }

    /// The least lead of the label over another class within L-infinity `epsilon` and the box: exact, for it is linear.
    pub(super) fn worst_margin(&self, x: &[f32], label: usize, epsilon: f32) -> f64 {
        let row = |class: usize| &self.weight[class * x.len()..][..x.len()];
        let least = |rival: usize| -> f64 {
            let change = |((own, other), x): ((&f32, &f32), &f32)| {
                let w = f64::from(*own) - f64::from(*other);
                let [low, high] = [(x - epsilon).max(0.0), (x + epsilon).min(1.0)].map(f64::from);
                (w * low).min(w * high)
            };
            let moved: f64 = row(label).iter().zip(row(rival)).zip(x).map(change).sum();
            moved + f64::from(self.bias[label]) - f64::from(self.bias[rival])
        };
        (0..self.bias.len()).filter(|&rival| rival != label).map(least).fold(f64::INFINITY, f64::min)
    }

    fn rows(&self, x: &[f32]) -> Vec<f32> {
        let length = self.weight.len() / self.bias.len();
        let dot = |weight: &[f32], x: &[f32]| weight.iter().zip(x).map(|(w, x)| w * x).sum::<f32>();
        let row = |x: &[f32]| -> Vec<f32> {
            self.weight.chunks_exact(length).zip(&self.bias).map(|(weight, bias)| dot(weight, x) + bias).collect()
        };
        x.chunks_exact(length).flat_map(row).collect()
    }
}

impl Classifier for Pixelwise {
    fn classes(&self) -> usize {
        self.bias.len()
    }

    fn logits(&self, x: &[f32], _: Pass<'_>) -> Vec<f32> {
        self.rows(x)
    }

    fn gradient(&self, x: &[f32], _: Pass<'_>, weights: &mut dyn FnMut(&[f32]) -> Vec<f32>) -> Gradient {
        let logits = self.rows(x);
        let length = self.weight.len() / self.bias.len();
        let back = |row: &[f32]| {
            let mut gradient = vec![0.0f32; length];
            for (weight, row) in self.weight.chunks_exact(length).zip(row) {
                gradient.iter_mut().zip(weight).for_each(|(gradient, weight)| *gradient += row * weight);
            }
            gradient
        };
        let x = weights(&logits).chunks_exact(self.bias.len()).flat_map(back).collect();
        Gradient { logits, x }
    }
}

/// A square of an image that an attacker may paint as it likes; the rest stays as it is. A row is `[3, side, side]`.
pub(super) struct Patched<'a> {
    pub(super) victim: &'a dyn Classifier,
    /// Whole images by name, `[3, height, width]`, and where their patches lie: top and left.
    pub(super) images: BTreeMap<u64, (Vec<f32>, [usize; 2])>,
    pub(super) side: usize,
    pub(super) size: [usize; 2],
}

impl Patched<'_> {
    /// Where the values of a patch lie in the image.
    fn places(&self, [top, left]: [usize; 2]) -> impl Iterator<Item = usize> + use<> {
        let (side, [height, width]) = (self.side, self.size);
        (0..3).flat_map(move |channel| {
            (0..side).flat_map(move |row| {
                let start = (channel * height + top + row) * width + left;
                start..start + side
            })
        })
    }

    /// The patch as the image has it.
    pub(super) fn cut(&self, name: u64) -> Vec<f32> {
        let (image, place) = &self.images[&name];
        self.places(*place).map(|at| image[at]).collect()
    }

    /// The image with a patch.
    pub(super) fn painted(&self, name: u64, patch: &[f32]) -> Vec<f32> {
        let (image, place) = &self.images[&name];
        let mut image = image.clone();
        self.places(*place).zip(patch).for_each(|(at, value)| image[at] = *value);
        image
    }

    fn whole(&self, x: &[f32], names: &[u64]) -> Vec<f32> {
        let length = 3 * self.side * self.side;
        names.iter().zip(x.chunks_exact(length)).flat_map(|(&name, patch)| self.painted(name, patch)).collect()
    }
}

impl Classifier for Patched<'_> {
    fn classes(&self) -> usize {
        self.victim.classes()
    }

    fn logits(&self, x: &[f32], pass: Pass<'_>) -> Vec<f32> {
        self.victim.logits(&self.whole(x, pass.images), pass)
    }

    fn gradient(&self, x: &[f32], pass: Pass<'_>, weights: &mut dyn FnMut(&[f32]) -> Vec<f32>) -> Gradient {
        let Gradient { logits, x } = self.victim.gradient(&self.whole(x, pass.images), pass, weights);
        let length = 3 * self.size[0] * self.size[1];
        let of_patch = |(name, gradient): (&u64, &[f32])| -> Vec<f32> {
            self.places(self.images[name].1).map(|at| gradient[at]).collect()
        };
        Gradient { logits, x: pass.images.iter().zip(x.chunks_exact(length)).flat_map(of_patch).collect() }
    }
}
