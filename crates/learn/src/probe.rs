//! Training of the linear head on features, with the gradient of softmax regression written out.

use crate::encoder::Head;
use burn::Tensor;
use burn::module::Module;
use burn::tensor::activation::softmax;
use burn::tensor::{Device, Int};

/// How a head's weights move.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// Adam (Kingma and Ba 2015), betas 0.9 and 0.999, epsilon 1e-8.
    Adam,
    /// SGD with momentum and weight decay, torch's form.
    Sgd {
        /// Momentum.
        momentum: f64,
        /// Weight decay.
        weight_decay: f64,
    },
}

/// A head in training.
#[derive(Clone, Debug)]
pub struct Regression {
    weight: Parameter<2>,
    bias: Parameter<1>,
    rule: Rule,
    steps: i32,
}

#[derive(Clone, Debug)]
struct Parameter<const D: usize> {
    value: Tensor<D>,
    first: Tensor<D>,
    second: Tensor<D>,
}

impl<const D: usize> Parameter<D> {
    fn new(value: Tensor<D>) -> Self {
        Self { first: value.zeros_like(), second: value.zeros_like(), value }
    }

    fn step(&mut self, rule: Rule, rate: f64, steps: i32, gradient: Tensor<D>) {
        match rule {
            Rule::Adam => {
                let (beta1, beta2) = (0.9f64, 0.999f64);
                self.first = self.first.clone().mul_scalar(beta1) + gradient.clone().mul_scalar(1.0 - beta1);
                self.second = self.second.clone().mul_scalar(beta2) + gradient.square().mul_scalar(1.0 - beta2);
                let first = self.first.clone().div_scalar(1.0 - beta1.powi(steps));
                let second = self.second.clone().div_scalar(1.0 - beta2.powi(steps));
                self.value = self.value.clone() - first.mul_scalar(rate) / second.sqrt().add_scalar(1e-8);
            }
            Rule::Sgd { momentum, weight_decay } => {
                let gradient = gradient + self.value.clone().mul_scalar(weight_decay);
                self.first = self.first.clone().mul_scalar(momentum) + gradient;
                self.value = self.value.clone() - self.first.clone().mul_scalar(rate);
            }
        }
    }
}

impl Regression {
    /// A head at torch's default start, on a device without autodiff.
    pub fn new(features: usize, classes: usize, seed: u64, rule: Rule, device: &Device) -> Self {
        let head = Head::init(features, classes, seed, &device.clone().inner());
        let mut tensors = crate::weights::flat(&head).into_iter().map(|(_, tensor)| tensor.inner());
        let mut next = || tensors.next().expect("a head has a weight and a bias");
        Self {
            weight: Parameter::new(next().reshape([classes, features])),
            bias: Parameter::new(next()),
            rule,
            steps: 0,
        }
    }

    /// One step on the mean cross-entropy; returns it, `[1]`.
    ///
    /// # Shapes
    /// - `feature`: `[batch, features]` without a graph, `labels`: `[batch]`
    #[allow(clippy::cast_precision_loss)]
    pub fn step(&mut self, feature: Tensor<2>, labels: Tensor<1, Int>, rate: f64) -> Tensor<1> {
        let [batch, _] = feature.dims();
        let [classes, _] = self.weight.value.dims();
        let logits =
            feature.clone().matmul(self.weight.value.clone().transpose()) + self.bias.value.clone().unsqueeze::<2>();
        let loss = crate::loss::cross_entropy(logits.clone(), labels.clone()).mean();
        let residual = (softmax(logits, 1) - labels.one_hot::<2>(classes).float()).div_scalar(batch as f64);
        self.steps += 1;
        self.weight.step(self.rule, rate, self.steps, residual.clone().transpose().matmul(feature));
        self.bias.step(self.rule, rate, self.steps, residual.sum_dim(0).reshape([classes]));
        loss
    }

    /// The head as it is now, without autodiff.
    pub fn head(&self) -> Head {
        Head::from_parts(self.weight.value.clone(), self.bias.value.clone()).valid()
    }
}

/// Weighted k nearest neighbours by cosine (Wu et al. 2018): each neighbour votes with `exp(cosine / temperature)`.
///
/// # Shapes
/// - `bank`: `[n, d]`, `bank_labels`: n labels, `queries`: `[m, d]`; output: m labels
pub fn nearest_neighbours(
    bank: Tensor<2>,
    bank_labels: &[u16],
    queries: Tensor<2>,
    classes: usize,
    k: usize,
    temperature: f32,
) -> Vec<u16> {
    let (bank, queries) = (crate::encoder::normalise(bank), crate::encoder::normalise(queries));
    let n = bank.dims()[0];
    let similarity = queries.matmul(bank.transpose()).into_data_as::<f32>();
    let similarity = similarity.as_slice::<f32>().expect("f32 was asked for");
    similarity
        .chunks_exact(n)
        .map(|row| {
            let mut order: Vec<usize> = (0..n).collect();
            let k = k.min(n);
            if k < n {
                order.select_nth_unstable_by(k, |&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
            }
            let mut votes = vec![0.0f32; classes];
            for &neighbour in &order[..k] {
                votes[usize::from(bank_labels[neighbour])] += ((row[neighbour] - 1.0) / temperature).exp();
            }
            let winner = (0..classes).max_by(|&a, &b| votes[a].total_cmp(&votes[b]).then(b.cmp(&a)));
            u16::try_from(winner.unwrap_or(0)).expect("class counts fit u16")
        })
        .collect()
}
