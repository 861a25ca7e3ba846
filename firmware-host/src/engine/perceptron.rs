//! A perceptron with one hidden layer, its gradients written out.

use crate::random::Random;

/// Grey cells along a side of what it sees.
pub const CELLS: usize = 16;
/// Values that it sees.
pub const INPUTS: usize = CELLS * CELLS;
const HIDDEN: usize = 48;

/// Weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Perceptron {
    /// `[HIDDEN, INPUTS]`
    first: Vec<f32>,
    first_bias: Vec<f32>,
    /// `[classes, HIDDEN]`
    second: Vec<f32>,
    second_bias: Vec<f32>,
}

/// What a forward pass leaves.
#[derive(Clone, Debug)]
pub struct Pass {
    hidden: Vec<f32>,
    /// `[classes]`
    pub logits: Vec<f32>,
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    // Eight sums side by side, so that the compiler may use vectors and the order is fixed.
    let mut sums = [0.0; 8];
    for (a, b) in a.chunks_exact(8).zip(b.chunks_exact(8)) {
        for lane in 0..8 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum()
}

/// Adds `scale * b` to `a`.
fn add(a: &mut [f32], scale: f32, b: &[f32]) {
    a.iter_mut().zip(b).for_each(|(a, b)| *a += scale * b);
}

impl Perceptron {
    /// Small chance weights.
    pub fn new(classes: usize, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut weights = |count: usize, reach: f32| (0..count).map(|_| random.between(-reach, reach)).collect();
        let first = weights(HIDDEN * INPUTS, 0.1);
        let second = weights(classes * HIDDEN, 0.2);
        Self { first, first_bias: vec![0.0; HIDDEN], second, second_bias: vec![0.0; classes] }
    }

    /// `[INPUTS]` to logits.
    pub fn forward(&self, seen: &[f32]) -> Pass {
        let rows = self.first.chunks_exact(INPUTS).zip(&self.first_bias);
        let hidden: Vec<f32> = rows.map(|(row, bias)| (dot(row, seen) + bias).max(0.0)).collect();
        let rows = self.second.chunks_exact(HIDDEN).zip(&self.second_bias);
        let logits = rows.map(|(row, bias)| dot(row, &hidden) + bias).collect();
        Pass { hidden, logits }
    }

    /// The gradient of the cross-entropy with respect to the hidden layer before its ReLU, and to the logits.
    fn backward(&self, pass: &Pass, class: usize) -> (Vec<f32>, Vec<f32>) {
        let mut logits = softmax(&pass.logits);
        logits[class] -= 1.0;
        let mut hidden = vec![0.0; HIDDEN];
        for (row, &slope) in self.second.chunks_exact(HIDDEN).zip(&logits) {
            add(&mut hidden, slope, row);
        }
        hidden.iter_mut().zip(&pass.hidden).filter(|(_, value)| **value <= 0.0).for_each(|(slope, _)| *slope = 0.0);
        (hidden, logits)
    }

    /// The gradient of the cross-entropy with respect to what is seen.
    pub fn slope(&self, seen: &[f32], class: usize) -> Vec<f32> {
        let (hidden, _) = self.backward(&self.forward(seen), class);
        let mut slope = vec![0.0; INPUTS];
        for (row, &value) in self.first.chunks_exact(INPUTS).zip(&hidden) {
            add(&mut slope, value, row);
        }
        slope
    }

    /// One step down the cross-entropy.
    pub fn step(&mut self, seen: &[f32], class: usize, rate: f32) {
        let pass = self.forward(seen);
        let (hidden, logits) = self.backward(&pass, class);
        for (row, &slope) in self.second.chunks_exact_mut(HIDDEN).zip(&logits) {
            add(row, -rate * slope, &pass.hidden);
        }
        add(&mut self.second_bias, -rate, &logits);
        for (row, &slope) in self.first.chunks_exact_mut(INPUTS).zip(&hidden).filter(|(_, slope)| **slope != 0.0) {
            add(row, -rate * slope, seen);
        }
        add(&mut self.first_bias, -rate, &hidden);
    }
}

/// Probabilities.
pub fn softmax(logits: &[f32]) -> Vec<f32> {
    let greatest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f32> = logits.iter().map(|logit| (logit - greatest).exp()).collect();
    let sum: f32 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slope_is_that_of_finite_differences() {
        let net = Perceptron::new(3, 1);
        let mut random = Random::new(2);
        let seen: Vec<f32> = (0..INPUTS).map(|_| random.between(-1.0, 1.0)).collect();
        let loss = |seen: &[f32]| -softmax(&net.forward(seen).logits)[1].ln();
        let slope = net.slope(&seen, 1);
        for at in [0, 17, 100, 255] {
            let moved = |by: f32| {
                let mut seen = seen.clone();
                seen[at] += by;
                loss(&seen)
            };
            let measured = (moved(0.01) - moved(-0.01)) / 0.02;
            assert!((measured - slope[at]).abs() < 1e-3, "{at}: {measured} {}", slope[at]);
        }
    }
}
