//! The guard against catastrophic overfitting: a PGD probe on a fixed held-out batch that runs through training.

use crate::data::Images;
use crate::measure::{labels, pixels, predictions};
use burn::Tensor;
use burn::module::Module;
use burn::tensor::{Device, Int};
use gabion_learn::attack::{Ball, Pgd, pgd};
use gabion_learn::probe::{Regression, Rule};
use gabion_learn::{Mode, Model};
use gabion_spec::{Guard, Pretrain};

/// Steps and rate of the probe's classifier: enough to read the features, too few to matter.
const STEPS: usize = 60;
const RATE: f64 = 3e-3;

/// A fixed probe.
pub struct HeldOut {
    recipe: Guard,
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

impl HeldOut {
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
        let (train, test) = (Half::new(&self.train, &self.device), Half::new(&self.test, &self.device));
        let plain = model.valid();
        let feature = plain.feature(train.x, Mode::Eval);
        let [_, width] = feature.dims();
        let classes = self.train.classes.len();
        let mut head = Regression::new(width, classes, self.seed, Rule::Adam, &self.device);
        for _ in 0..STEPS {
            head.step(feature.clone(), train.labels.clone(), RATE);
        }
        let head = head.head();
        let Guard { epsilon, steps, .. } = self.recipe;
        let attack = Pgd { ball: Ball { epsilon: epsilon.0 }, step: epsilon.0 / 4.0, steps };
        let classify = |x| head.forward(model.feature(x, Mode::Frozen), Mode::Frozen);
        let attacked = pgd(classify, test.x.clone(), test.labels, test.x.zeros_like(), &attack);
        let accuracy = |x| {
            let logits = head.forward(plain.feature(x, Mode::Eval), Mode::Eval);
            // Logits that are not finite are nobody's class.
            let found = predictions(logits, "held-out", &test.indices).unwrap_or_default();
            let right = found.iter().zip(&self.test.labels).filter(|(found, label)| found == label).count();
            100.0 * right as f64 / self.test.len() as f64
        };
        let (x, attacked) = (test.x, attacked);
        Some(Verdict { clean: accuracy(x), robust: accuracy(attacked) })
    }
}

/// One half of the held-out images as tensors.
struct Half {
    indices: Vec<usize>,
    x: Tensor<4>,
    labels: Tensor<1, Int>,
}

impl Half {
    fn new(images: &Images, device: &Device) -> Self {
        let indices: Vec<usize> = (0..images.len()).collect();
        let x = Tensor::from_data(pixels(images, &indices), device);
        Self { x, labels: labels(images, &indices, device), indices }
    }
}
