//! The guard against catastrophic overfitting: a PGD probe on a fixed held-out batch that runs through training.

use crate::data::Images;
use crate::tensors;
use burn::tensor::Device;
use gabion_learn::attack::{Ball, Pgd, pgd};
use gabion_learn::probe::{Regression, Rule};
use gabion_learn::{Mode, Model};
use gabion_spec::Pretrain;

/// Steps and rate of the probe's classifier: enough to read the features, too few to matter.
const STEPS: usize = 60;
const RATE: f64 = 3e-3;

/// A fixed probe.
pub struct Guard {
    recipe: gabion_spec::Guard,
    seed: u64,
    train: Images,
    test: Images,
    device: Device,
}

/// Accuracy of the probe in percent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict {
    /// Without an attack.
    pub clean: f64,
    /// Under PGD.
    pub robust: f64,
}

impl Guard {
    /// The probe that a recipe asks for: one half of the held-out images trains a classifier, the other is attacked.
    pub fn new(recipe: &Pretrain, held_out: &Images, device: &Device) -> Self {
        // Sorted by place, so even and odd ones have the same mix of classes.
        let half = |odd| held_out.select(&(0..held_out.len()).filter(|i| i % 2 == odd).collect::<Vec<_>>());
        Self { recipe: recipe.guard, seed: recipe.seed, train: half(0), test: half(1), device: device.clone() }
    }

    /// Probes after every so many minibatches.
    #[allow(clippy::cast_precision_loss)]
    pub fn probe(&self, model: &Model, minibatches: u64) -> Option<Verdict> {
        if !minibatches.is_multiple_of(u64::from(self.recipe.every)) {
            return None;
        }
        let classes = self.train.classes.len();
        let plain = burn::module::Module::valid(model);
        let all = |images: &Images| (0..images.len()).collect::<Vec<_>>();
        let x = tensors::images(&self.train, &all(&self.train), &self.device);
        let labels = tensors::labels(&self.train, &all(&self.train), &self.device);
        let feature = plain.feature(x, Mode::Eval);
        let width = feature.dims()[1];
        let mut head = Regression::new(width, classes, self.seed, Rule::Adam, &self.device);
        for _ in 0..STEPS {
            head.step(feature.clone(), labels.clone(), RATE);
        }
        let head = head.head();
        let x = tensors::images(&self.test, &all(&self.test), &self.device);
        let labels = tensors::labels(&self.test, &all(&self.test), &self.device);
        let attack = Pgd {
            ball: Ball { epsilon: self.recipe.epsilon.0 },
            step: self.recipe.epsilon.0 / 4.0,
            steps: self.recipe.steps,
        };
        let classify = |x| head.forward(model.feature(x, Mode::Frozen), Mode::Frozen);
        let attacked = pgd(classify, x.clone(), labels, x.zeros_like(), &attack);
        let accuracy = |x| {
            let logits = head.forward(plain.feature(x, Mode::Eval), Mode::Eval);
            let found = tensors::argmax(logits);
            let right = found.iter().zip(&self.test.labels).filter(|(found, label)| found == label).count();
            100.0 * right as f64 / self.test.len() as f64
        };
        Some(Verdict { clean: accuracy(x), robust: accuracy(attacked) })
    }
}
