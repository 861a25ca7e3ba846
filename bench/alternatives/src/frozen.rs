//! What Gabion classifies with: a network prepared once, its normalisations folded into its convolutions.

use crate::case::{Case, EPSILON, Layer, Operands, Work};
use gabion_kernels::{Builder, Filter, Frozen};

/// A case of inference by `gabion_kernels::Frozen`.
pub struct Prepared {
    case: Case,
    net: Frozen,
    /// `[batch, channels, rows, columns]`.
    x: Vec<f32>,
    /// `[batch, rows, columns, channels]`.
    y: Vec<f32>,
}

impl Prepared {
    pub fn new(case: Case, operands: Operands) -> Self {
        let Case { width, side, .. } = case;
        let (mut net, x) = Builder::new([width, side, side], &vec![1.0; width], &vec![0.0; width]);
        let filter = Filter { kernel: 3, stride: 1, padding: 1 };
        match case.work {
            Work::Conv => {
                net.conv(x, filter, &operands.layers[0].weight, &vec![0.0; width], None, false);
            }
            Work::Block => {
                let [first, second] = operands.layers.each_ref().map(folded);
                let y = net.conv(x, filter, &first.0, &first.1, None, true);
                net.conv(y, filter, &second.0, &second.1, Some(x), true);
            }
        }
        Self { case, net: net.build(), x: operands.x, y: vec![0.0; case.activation()] }
    }

    pub fn pass(&mut self) {
        self.net.forward(&self.x, self.net.last(), &mut self.y);
    }

    /// In torch's order of axes.
    pub fn values(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.y.len()];
        gabion_kernels::nhwc_to_nchw(self.case.width, self.case.side * self.case.side, &self.y, &mut values);
        values
    }
}

/// Weights and bias of a convolution with its normalisation.
fn folded(layer: &Layer) -> (Vec<f32>, Vec<f32>) {
    let statistics = layer.gamma.iter().zip(&layer.beta).zip(layer.mean.iter().zip(&layer.var));
    let per_output = layer.weight.len() / layer.gamma.len();
    let (mut weights, mut biases) = (Vec::new(), Vec::new());
    for (weight, ((gamma, beta), (mean, var))) in layer.weight.chunks_exact(per_output).zip(statistics) {
        let scale = f64::from(*gamma) / (f64::from(*var) + EPSILON).sqrt();
        weights.extend(weight.iter().map(|weight| (f64::from(*weight) * scale) as f32));
        biases.push((f64::from(*beta) - f64::from(*mean) * scale) as f32);
    }
    (weights, biases)
}
