//! The same networks prepared for the CPU.

use super::{Affine, Conv, Linear, Network};
use crate::nn::BATCH_NORM_EPS;
use burn::Tensor;
use gabion_kernels::{Builder, Filter, Frozen, Precision, Value};

impl Network {
    /// Prepared for images of `size` = `[height, width]`; what follows a convolution is folded into it.
    pub fn freeze(&self, size: [usize; 2]) -> Frozen {
        self.freeze_in(Precision::F32, size)
    }

    /// [`Network::freeze`], multiplying in `precision`.
    pub fn freeze_in(&self, precision: Precision, [height, width]: [usize; 2]) -> Frozen {
        let (scale, shift) = match &self.normalise {
            Some(affine) => affine.line(),
            None => (vec![1.0; 3], vec![0.0; 3]),
        };
        let narrow = |values: &[f64]| values.iter().map(|&value| value as f32).collect::<Vec<f32>>();
        let (net, mut x) = Builder::new([3, height, width], &narrow(&scale), &narrow(&shift));
        let mut net = net.with(precision);
        for conv in &self.stem {
            x = conv.freeze(&mut net, x, None, true);
        }
        for block in &self.blocks {
            let around = match &block.shortcut {
                Some(shortcut) => shortcut.freeze(&mut net, x, None, false),
                None => x,
            };
            let mid = block.conv1.freeze(&mut net, x, None, true);
            x = block.conv2.freeze(&mut net, mid, Some(around), true);
        }
        if self.pool {
            x = net.average_pool(x);
        }
        for (at, Linear { weight, bias }) in self.linears.iter().enumerate() {
            let weight = host(weight.clone().transpose());
            x = net.linear(x, &weight, &host(bias.clone()), at + 1 < self.linears.len());
        }
        net.build()
    }
}

impl Conv {
    fn freeze(&self, net: &mut Builder, x: Value, residual: Option<Value>, relu: bool) -> Value {
        let [out, _, kernel, _] = self.weight.dims();
        let filter = Filter { kernel, stride: self.stride, padding: self.padding };
        let mut weight = host(self.weight.clone());
        let Some(affine) = &self.affine else { return net.conv(x, filter, &weight, &vec![0.0; out], None, false) };
        let (scale, shift) = affine.line();
        let inputs = weight.len() / out;
        for (weight, scale) in weight.chunks_exact_mut(inputs).zip(&scale) {
            weight.iter_mut().for_each(|weight| *weight = (f64::from(*weight) * scale) as f32);
        }
        let bias: Vec<f32> = shift.iter().map(|&shift| shift as f32).collect();
        net.conv(x, filter, &weight, &bias, residual, relu)
    }
}

impl Affine {
    /// What it multiplies each channel by, and what it then adds.
    fn line(&self) -> (Vec<f64>, Vec<f64>) {
        let [weight, bias, mean, var] =
            [&self.weight, &self.bias, &self.mean, &self.var].map(|part| host(part.clone()));
        let scale: Vec<f64> = weight
            .iter()
            .zip(&var)
            .map(|(weight, var)| f64::from(*weight) / (f64::from(*var) + BATCH_NORM_EPS).sqrt())
            .collect();
        let shift = bias.iter().zip(&mean).zip(&scale).map(|((b, m), s)| f64::from(*b) - f64::from(*m) * s).collect();
        (scale, shift)
    }
}

fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data_as::<f32>().try_into_vec::<f32>().expect("f32 was asked for")
}
