//! What probes share: features, the training of a head on them, and the count of what it classifies right.

use super::Progress;
use crate::data::Split;
use crate::data::order::permutation;
use crate::features::{Features, Frozen, View};
use crate::measure::{Error, Result, host, labels, pixels, predictions};
use burn::Tensor;
use burn::module::Module;
use gabion_learn::attack::{Pgd, pgd};
use gabion_learn::probe::{Regression, Rule, nearest_neighbours};
use gabion_learn::{Head, Mode};
use std::path::Path;

/// How a head is trained.
pub(super) struct Plan<'a> {
    pub(super) batch: u32,
    pub(super) epochs: u32,
    pub(super) rule: Rule,
    /// (0-based step, steps in all) to the learning rate.
    pub(super) rate: &'a dyn Fn(u64, u64) -> f64,
}

/// What every probe works on.
pub(super) struct Work<'a> {
    pub(super) encoder: Frozen,
    /// Of a feature.
    pub(super) length: usize,
    pub(super) data: &'a Split,
    pub(super) seed: u64,
    pub(super) cache: Option<&'a Path>,
}

/// The features of some training images for the head as it is, `[indices.len(), hidden]`.
pub(super) type Source<'a> = dyn Fn(&Regression, &[usize]) -> Tensor<2> + 'a;

/// Test images of one pass through a head.
const ROWS: usize = 1024;
/// Most similarities that are held at once.
const SIMILARITIES: usize = 1 << 25;

impl Work<'_> {
    pub(super) fn features(
        &self,
        part: &'static str,
        view: &View,
        observer: &mut dyn FnMut(Progress),
    ) -> Result<Features> {
        let images = if part == "train" { &self.data.train } else { &self.data.test };
        self.encoder.features((part, images), view, self.cache, &mut |done| {
            observer(match done {
                Some(done) => Progress::Features { part, done, total: images.len() },
                None => Progress::Cached { part },
            });
        })
    }

    pub(super) fn rows(&self, features: &Features, indices: &[usize]) -> Tensor<2> {
        features.rows(indices, &self.encoder.device)
    }

    /// Features of training images attacked through the frozen encoder and the head as it is, from a zero start.
    pub(super) fn attacked(&self, attack: Pgd) -> impl Fn(&Regression, &[usize]) -> Tensor<2> {
        let graph = self.encoder.model.clone().train();
        move |regression, indices| {
            let head = regression.head().train();
            let x = Tensor::from_data(pixels(&self.data.train, indices), &self.encoder.device);
            let labels = labels(&self.data.train, indices, &self.encoder.device);
            let classify = |x| head.forward(graph.feature(x, Mode::Frozen), Mode::Frozen);
            let x = pgd(classify, x.clone(), labels, x.zeros_like(), &attack);
            self.encoder.model.feature(x, Mode::Eval)
        }
    }

    /// The head, and the mean loss of each epoch.
    pub(super) fn train(
        &self,
        plan: &Plan,
        source: &Source,
        observer: &mut dyn FnMut(Progress),
    ) -> Result<(Head, Vec<f64>)> {
        let (train, device) = (&self.data.train, &self.encoder.device);
        let (images, batch) = (train.len(), plan.batch as usize);
        if images < batch {
            return Err(Error::FewImages { images, batch });
        }
        let steps = u64::from(plan.epochs) * images.div_ceil(batch) as u64;
        let mut head = Regression::new(self.length, train.classes.len(), self.seed, plan.rule, device);
        let (mut step, mut losses) = (0, Vec::new());
        for epoch in 0..plan.epochs {
            let order: Vec<usize> =
                permutation(self.seed, epoch.into(), images).into_iter().map(|index| index as usize).collect();
            let mut sum = Tensor::<1>::zeros([1], device);
            for indices in order.chunks(batch) {
                let feature = source(&head, indices);
                let loss = head.step(feature, labels(train, indices, device), (plan.rate)(step, steps));
                // Summed on the device: reading each loss would wait for it.
                sum = sum + loss.mul_scalar(indices.len() as f64 / images as f64);
                step += 1;
                observer(Progress::Step { done: step, total: steps });
            }
            let loss = f64::from(host(sum)[0]);
            let epoch = epoch + 1;
            if !loss.is_finite() {
                return Err(Error::Diverged { epoch });
            }
            losses.push(loss);
            observer(Progress::Epoch { epoch, epochs: plan.epochs, loss });
        }
        Ok((head.head(), losses))
    }

    /// Test images that the head classifies right.
    pub(super) fn right(&self, head: &Head, view: &View, observer: &mut dyn FnMut(Progress)) -> Result<u64> {
        let test = self.features("test", view, observer)?;
        self.count(ROWS, observer, |indices| {
            predictions(head.forward(self.rows(&test, indices), Mode::Eval), "test", indices)
        })
    }

    /// Test images that their neighbours classify right.
    #[allow(clippy::cast_possible_truncation)] // a temperature has no use for f64's precision
    pub(super) fn neighbours(&self, k: u32, temperature: f64, observer: &mut dyn FnMut(Progress)) -> Result<u64> {
        let train = self.features("train", &View::Whole, observer)?;
        let test = self.features("test", &View::Whole, observer)?;
        let all: Vec<usize> = (0..self.data.train.len()).collect();
        let bank = self.rows(&train, &all);
        let (labels, classes) = (&self.data.train.labels, self.data.train.classes.len());
        drop(train);
        self.count((SIMILARITIES / all.len()).clamp(1, ROWS), observer, |indices| {
            let queries = self.rows(&test, indices);
            Ok(nearest_neighbours(bank.clone(), labels, queries, classes, k as usize, temperature as f32))
        })
    }

    fn count(
        &self,
        rows: usize,
        observer: &mut dyn FnMut(Progress),
        classify: impl Fn(&[usize]) -> Result<Vec<u16>>,
    ) -> Result<u64> {
        let test = &self.data.test;
        let (indices, mut right) = ((0..test.len()).collect::<Vec<_>>(), 0);
        for indices in indices.chunks(rows) {
            let found = classify(indices)?;
            right += indices.iter().zip(found).filter(|&(&index, class)| test.labels[index] == class).count() as u64;
            observer(Progress::Test { done: indices.last().map_or(0, |&last| last + 1), total: test.len() });
        }
        Ok(right)
    }
}
