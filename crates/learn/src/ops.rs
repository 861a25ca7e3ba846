//! The operations that training spends its time in, each with one meaning on every device: Burn's own, and on the
//! CPU device those of gabion-kernels, which golden tests hold to the same values.

#[cfg(feature = "flex")]
mod cpu;

use crate::nn::BATCH_NORM_EPS;
use burn::Tensor;
use burn::tensor::activation::relu as rectify;
use burn::tensor::module;
use burn::tensor::ops::ConvOptions;

/// Convolution without bias.
///
/// # Shapes
/// - `x`: `[batch, in, height, width]`, `weight`: `[out, in, kernel, kernel]`
pub(crate) fn conv2d(x: Tensor<4>, weight: Tensor<4>, stride: usize, padding: usize) -> Tensor<4> {
    #[cfg(feature = "flex")]
    if cpu::serves(&x) {
        return cpu::conv2d(x, weight, stride, padding);
    }
    module::conv2d(x, weight, None, ConvOptions::new([stride; 2], [padding; 2], [1, 1], 1))
}

/// What [`batch_norm_train`] gives.
pub(crate) struct Normalised {
    /// `[batch, channels, height, width]`.
    pub(crate) y: Tensor<4>,
    /// `[channels]`, of the batch.
    pub(crate) mean: Tensor<1>,
    /// `[channels]`, biased, of the batch.
    pub(crate) var: Tensor<1>,
}

/// Normalises by the statistics of the batch, then adds `residual` and rectifies where asked.
pub(crate) fn batch_norm_train(
    x: Tensor<4>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    residual: Option<Tensor<4>>,
    relu: bool,
) -> Normalised {
    #[cfg(feature = "flex")]
    if cpu::serves(&x) {
        return cpu::batch_norm_train(x, weight, bias, residual, relu);
    }
    let result = module::batch_norm_train(x, weight, bias, BATCH_NORM_EPS);
    Normalised { y: finish(result.output, residual, relu), mean: result.mean.detach(), var: result.variance.detach() }
}

/// The same by given statistics.
pub(crate) fn batch_norm_frozen(
    x: Tensor<4>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    [mean, var]: [Tensor<1>; 2],
    residual: Option<Tensor<4>>,
    relu: bool,
) -> Tensor<4> {
    #[cfg(feature = "flex")]
    if cpu::serves(&x) {
        return cpu::batch_norm_frozen(x, weight, bias, [mean, var], residual, relu);
    }
    finish(module::batch_norm(x, weight, bias, mean, var, BATCH_NORM_EPS), residual, relu)
}

fn finish(y: Tensor<4>, residual: Option<Tensor<4>>, relu: bool) -> Tensor<4> {
    let y = match residual {
        Some(residual) => y + residual,
        None => y,
    };
    if relu { rectify(y) } else { y }
}

/// A tensor for two uses, both of which reach the loss.
pub(crate) fn fork(x: Tensor<4>) -> [Tensor<4>; 2] {
    #[cfg(feature = "flex")]
    if cpu::serves(&x) {
        return cpu::fork(x);
    }
    [x.clone(), x]
}

/// Mean over height and width.
///
/// # Shapes
/// - `x`: `[batch, channels, height, width]`, output: `[batch, channels]`
pub(crate) fn global_average_pool(x: Tensor<4>) -> Tensor<2> {
    #[cfg(feature = "flex")]
    if cpu::serves(&x) {
        return cpu::global_average_pool(x);
    }
    let [batch, channels, height, width] = x.dims();
    x.reshape([batch, channels, height * width]).mean_dim(2).reshape([batch, channels])
}
