//! A bundle's network prepared for the CPU: whole images to logits, and gradients of the pixels, without Burn.

use crate::weights::Tensor;
use crate::{BundleError, Stored};
use gabion_kernels::{Builder, Filter};
pub use gabion_kernels::{Frozen, Precision, Value};
use gabion_spec::{Encoder, Input, Stem};
use std::collections::BTreeMap;

/// torch's and torchvision's.
const BATCH_NORM_EPS: f64 = 1e-5;

/// A network from pixels to the feature and, where there is a head, on to the logits.
#[derive(Debug)]
pub struct Network {
    /// The layers.
    pub net: Frozen,
    /// The feature of which the head makes logits; without a head the last activation.
    pub feature: Value,
}

/// The network of a stored bundle on images of `input`'s size.
///
/// # Errors
/// When a folded weight is not finite.
///
/// # Panics
/// When a tensor is missing or has another shape, which [`Stored::read`] excludes.
pub fn network(stored: &Stored, input: Input) -> Result<Network, BundleError> {
    network_in(Precision::F32, stored, input)
}

/// [`network`], multiplying in `precision`.
///
/// # Errors
/// As it does; in int8, for which [`calibrated`] is.
///
/// # Panics
/// As it does.
pub fn network_in(precision: Precision, stored: &Stored, input: Input) -> Result<Network, BundleError> {
    if precision == Precision::Int8 {
        return Err(BundleError::Uncalibrated { name: stored.manifest.name.clone() });
    }
    prepared(stored, input, |net| net.with(precision))
}

/// [`network`] in int8, within the ranges that activations have over `views` `[n, 3, height, width]`; some hundred do.
///
/// # Errors
/// As it does; when there is no view.
///
/// # Panics
/// As it does; when `views` are of another size.
pub fn calibrated(stored: &Stored, input: Input, views: &[f32]) -> Result<Network, BundleError> {
    if views.is_empty() {
        return Err(BundleError::Uncalibrated { name: stored.manifest.name.clone() });
    }
    let ranges = network(stored, input)?.net.ranges(views);
    prepared(stored, input, |net| net.quantised(&ranges))
}

fn prepared(stored: &Stored, input: Input, how: impl FnOnce(Builder) -> Builder) -> Result<Network, BundleError> {
    let built = build(how, &stored.manifest.encoder, input, &stored.tensors);
    built.map_err(|layer| BundleError::Overflow { name: stored.manifest.name.clone(), layer })
}

/// The network, or the normalisation that overflows.
fn build(
    how: impl FnOnce(Builder) -> Builder,
    encoder: &Encoder,
    input: Input,
    tensors: &BTreeMap<String, Tensor>,
) -> Result<Network, String> {
    let size = [3, input.height as usize, input.width as usize];
    let (net, x) = Builder::new(size, &[1.0; 3], &[0.0; 3]);
    let mut layers = Layers { net: how(net), tensors, overflow: None };
    let (stem, pools) = match encoder.stem {
        Stem::Cifar => (Filter { kernel: 3, stride: 1, padding: 1 }, false),
        Stem::Imagenet => (Filter { kernel: 7, stride: 2, padding: 3 }, true),
    };
    let mut x = layers.conv(x, "encoder.conv1", "encoder.bn1", stem, None, true);
    if pools {
        x = layers.net.max_pool(x);
    }
    for (stage, blocks) in encoder.depth.blocks().into_iter().enumerate() {
        for block in 0..blocks {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            x = layers.block(x, &format!("encoder.layer{}.{block}", stage + 1), stride);
        }
    }
    x = layers.net.average_pool(x);
    let feature = layers.normalised_linear(x, "projector.pre_feature");
    if let (Some(weight), Some(bias)) = (tensors.get("head.weight"), tensors.get("head.bias")) {
        layers.net.linear(feature, &weight.values, &bias.values, false);
    }
    match layers.overflow {
        Some(layer) => Err(layer),
        None => Ok(Network { net: layers.net.build(), feature }),
    }
}

struct Layers<'a> {
    net: Builder,
    tensors: &'a BTreeMap<String, Tensor>,
    /// The first normalisation whose fold is not finite.
    overflow: Option<String>,
}

impl Layers<'_> {
    fn tensor(&self, name: &str) -> &Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("tensor `{name}` is missing"))
    }

    /// A BasicBlock, or with a third convolution a Bottleneck, whose stride is on its 3x3.
    fn block(&mut self, x: Value, name: &str, stride: usize) -> Value {
        let (one, three) = (Filter { kernel: 1, stride: 1, padding: 0 }, Filter { kernel: 3, stride: 1, padding: 1 });
        let bottleneck = self.tensors.contains_key(&format!("{name}.conv3.weight"));
        let (first, second) = match bottleneck {
            true => (one, Filter { stride, ..three }),
            false => (Filter { stride, ..three }, three),
        };
        let layer = |number: usize| (format!("{name}.conv{number}"), format!("{name}.bn{number}"));
        let around = if self.tensors.contains_key(&format!("{name}.downsample.0.weight")) {
            let (conv, norm) = (format!("{name}.downsample.0"), format!("{name}.downsample.1"));
            self.conv(x, &conv, &norm, Filter { stride, ..one }, None, false)
        } else {
            x
        };
        let [(conv1, bn1), (conv2, bn2), (conv3, bn3)] = [1, 2, 3].map(layer);
        let x = self.conv(x, &conv1, &bn1, first, None, true);
        if bottleneck {
            let x = self.conv(x, &conv2, &bn2, second, None, true);
            self.conv(x, &conv3, &bn3, one, Some(around), true)
        } else {
            self.conv(x, &conv2, &bn2, second, Some(around), true)
        }
    }

    fn conv(&mut self, x: Value, conv: &str, norm: &str, filter: Filter, residual: Option<Value>, relu: bool) -> Value {
        let weight = self.tensor(&format!("{conv}.weight")).values.clone();
        let (weight, bias) = self.fold(weight, None, norm);
        self.net.conv(x, filter, &weight, &bias, residual, relu)
    }

    /// Linear, batch normalisation, ReLU.
    fn normalised_linear(&mut self, x: Value, name: &str) -> Value {
        let weight = self.tensor(&format!("{name}.0.weight")).values.clone();
        let bias = self.tensor(&format!("{name}.0.bias")).values.clone();
        let (weight, bias) = self.fold(weight, Some(bias), &format!("{name}.1"));
        self.net.linear(x, &weight, &bias, true)
    }

    /// A batch normalisation by running statistics is a scale and a shift of each output, which the weights before it
    /// can bear. In f64, rounded once.
    #[allow(clippy::cast_possible_truncation)]
    fn fold(&mut self, mut weight: Vec<f32>, bias: Option<Vec<f32>>, norm: &str) -> (Vec<f32>, Vec<f32>) {
        let part = |what: &str| &self.tensor(&format!("{norm}.{what}")).values;
        let (gamma, beta, mean, var) = (part("weight"), part("bias"), part("running_mean"), part("running_var"));
        let outputs = gamma.len();
        let mut folded = Vec::with_capacity(outputs);
        let inputs = weight.len() / outputs;
        for (out, weight) in weight.chunks_exact_mut(inputs).enumerate() {
            let scale = f64::from(gamma[out]) / (f64::from(var[out]) + BATCH_NORM_EPS).sqrt();
            for value in weight {
                *value = (f64::from(*value) * scale) as f32;
            }
            let before = bias.as_ref().map_or(0.0, |bias| f64::from(bias[out])) - f64::from(mean[out]);
            folded.push((before * scale + f64::from(beta[out])) as f32);
        }
        if self.overflow.is_none() && !weight.iter().chain(&folded).all(|value| value.is_finite()) {
            self.overflow = Some(norm.into());
        }
        (weight, folded)
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;
    use crate::Bundle;
    use burn::tensor::{Device, TensorData};
    use gabion_learn::{Head, Mode, Model};
    use gabion_spec::{Depth, Projector};

    /// Every depth and stem against Burn's modules, which golden tests hold to torchvision's.
    #[test]
    fn logits_and_gradients_are_those_of_the_modules() {
        let plain = Device::flex();
        for (depth, stem, side) in [
            (Depth::Resnet18, Stem::Cifar, 20),
            (Depth::Resnet34, Stem::Imagenet, 37),
            (Depth::Resnet50, Stem::Cifar, 16),
            (Depth::Resnet50, Stem::Imagenet, 33),
        ] {
            let (encoder, projector) = (Encoder { depth, width: 5, stem }, Projector { hidden: 19, output: 4 });
            let device = plain.clone().autodiff();
            let model = Model::init(&encoder, &projector, 3, &device);
            let head = Head::init(19, 6, 4, &device);
            let x: Vec<f32> = (0..3 * 3 * side * side).map(|at| ((at * 7919) % 1000) as f32 / 1000.0).collect();
            let leaf = burn::Tensor::<4>::from_data(TensorData::new(x.clone(), [3, 3, side, side]), &device);
            // Statistics that are not those of a fresh network.
            model.forward(leaf.clone(), Mode::Train);
            let leaf = leaf.require_grad();
            let logits = head.forward(model.feature(leaf.clone(), Mode::Frozen), Mode::Frozen);
            let mut gradients = (logits.clone() * logits.clone()).sum().backward();
            let host = |data: TensorData| data.try_into_vec::<f32>().expect("f32");
            let expected = host(logits.inner().into_data_as::<f32>());
            let slope = host(leaf.grad_remove(&mut gradients).expect("a leaf").into_data_as::<f32>());

            let input = Input { height: side as u32, width: side as u32 };
            let manifest = crate::session::tests::manifest(encoder, projector, input, 6);
            let stored = Bundle { manifest, model, head: Some(head) }.stored();
            let Network { net, .. } = network(&stored, input).unwrap();
            let (mut found, mut dx) = (vec![0.0; 18], vec![0.0; x.len()]);
            let twice = |logits: &[f32]| logits.iter().map(|logit| 2.0 * logit).collect();
            net.gradient(&x, net.last(), &mut { twice }, &mut found, &mut dx);
            let close = |found: &[f32], expected: &[f32], what: &str| {
                let scale = expected.iter().fold(0f32, |most, value| most.max(value.abs()));
                for (found, expected) in found.iter().zip(expected) {
                    assert!((found - expected).abs() <= 2e-4 * scale, "{depth:?} {stem:?} {what}: {found}, {expected}");
                }
            };
            close(&found, &expected, "logits");
            close(&dx, &slope, "gradient");
        }
    }
}
