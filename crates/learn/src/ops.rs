//! The operations that training spends its time in, each with one meaning on every device: Burn's own, and on the
//! CPU device those of gabion-kernels, which golden tests hold to the same values.

#[cfg(feature = "flex")]
mod cpu;

use crate::nn::BATCH_NORM_EPS;
use burn::Tensor;
use burn::prelude::Shape;
use burn::tensor::activation::relu as rectify;
use burn::tensor::module;
use burn::tensor::ops::ConvOptions;
use gabion_spec::Arithmetic;

/// Convolution without bias. In bf16 its output is bf16, which [`batch_norm_train`] and [`batch_norm_frozen`] take; here and
/// below, other devices than the CPU compute everything in f32.
///
/// # Shapes
/// - `x`: `[batch, in, height, width]`, `weight`: `[out, in, kernel, kernel]`
pub(crate) fn conv2d(
    x: Tensor<4>,
    weight: Tensor<4>,
    stride: usize,
    padding: usize,
    arithmetic: Arithmetic,
) -> Tensor<4> {
    #[cfg(feature = "flex")]
    if cpu::serves(&x) {
        return cpu::conv2d(x, weight, stride, padding, arithmetic);
    }
    let _ = arithmetic;
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
    if cpu::normalises(&x) {
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
    if cpu::normalises(&x) {
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

/// How [`matmul_transposed`] hands over the gradient of its weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum WeightGradient {
    /// `[out, in]`.
    #[default]
    Whole,
    /// On the CPU device, and where they are smaller by far, as what [`Gradient::of`] recognises.
    Factors,
}

/// `x weight^T`.
///
/// # Shapes
/// - `x`: `[batch, in]`, `weight`: `[out, in]`, output: `[batch, out]`
pub(crate) fn matmul_transposed(
    x: Tensor<2>,
    weight: Tensor<2>,
    arithmetic: Arithmetic,
    gradient: WeightGradient,
) -> Tensor<2> {
    #[cfg(feature = "flex")]
    if cpu::serves(&x) {
        return cpu::matmul_transposed(x, weight, arithmetic, gradient);
    }
    let _ = (arithmetic, gradient);
    x.matmul(weight.transpose())
}

/// A gradient that a backward pass left for a parameter.
#[allow(clippy::large_enum_variant)] // one at a time, for a moment
pub(crate) enum Gradient {
    /// Flat.
    Whole(Tensor<1>),
    /// Of a linear layer's weight.
    #[cfg(feature = "flex")]
    Factors(cpu::Factors),
}

impl Gradient {
    /// `gradient` as it was left for a parameter of a shape.
    pub(crate) fn of<const D: usize>(gradient: Tensor<D>, shape: &Shape) -> Self {
        let found = gradient.shape();
        if found == *shape {
            return Self::Whole(gradient.reshape([shape.num_elements()]));
        }
        #[cfg(feature = "flex")]
        if let ([rows, _], [outputs, inputs]) = (&found[..], &shape[..]) {
            return Self::Factors(cpu::Factors::new(gradient.reshape([*rows, found[1]]), [*outputs, *inputs]));
        }
        panic!("a gradient of shape {found:?} for a parameter of shape {shape:?}");
    }

    /// Multiplied out where it is factors, flat.
    pub(crate) fn whole(self) -> Tensor<1> {
        match self {
            Self::Whole(gradient) => gradient,
            #[cfg(feature = "flex")]
            Self::Factors(factors) => factors.whole(),
        }
    }
}

/// One step of LARS in clip mode (see [`crate::optim::Lars`]): the moved parameter and the moved momentum, which starts
/// at 0 when there is none.
///
/// # Shapes
/// - all flat, `dimensions` those of the parameter
pub(crate) fn lars(
    config: &gabion_spec::Optimizer,
    rate: f64,
    dimensions: usize,
    p: Tensor<1>,
    gradient: Gradient,
    buffer: Option<Tensor<1>>,
) -> [Tensor<1>; 2] {
    let gabion_spec::Optimizer { momentum, weight_decay, trust_coefficient, .. } = *config;
    #[cfg(feature = "flex")]
    if cpu::serves(&p) {
        #[allow(clippy::cast_possible_truncation)] // as Burn does with scalars
        let [rate, momentum, weight_decay, trust] = [rate, momentum, weight_decay, trust_coefficient].map(|x| x as f32);
        let trust = (dimensions > 1).then_some(trust);
        let rule = gabion_kernels::Lars { rate, momentum, weight_decay, trust };
        return match gradient {
            Gradient::Whole(gradient) => cpu::lars(&rule, p, gradient, buffer),
            Gradient::Factors(factors) => factors.lars(&rule, p, buffer),
        };
    }
    let mut g = gradient.whole();
    if dimensions > 1 {
        let length = |x: &Tensor<1>| x.clone().square().sum().sqrt();
        let (p_length, g_length) = (length(&p), length(&g));
        let alive = (p_length.clone() * g_length.clone()).greater_elem(0.0).float();
        let bound = p_length.clone().mul_scalar(trust_coefficient)
            / (g_length + p_length.mul_scalar(weight_decay).add_scalar(1e-8));
        // rate = 0 divides to infinity, hence 1.
        let scale = if rate > 0.0 { bound.div_scalar(rate).clamp_max(1.0) } else { bound.ones_like() };
        // Alive: scale (g + wd p). Else: g.
        let scale = scale * alive.clone() + alive.clone().neg().add_scalar(1.0);
        g = (g + p.clone() * alive.mul_scalar(weight_decay)) * scale;
    }
    let buffer = match buffer {
        Some(buffer) => buffer.mul_scalar(momentum) + g.clone(),
        None => g.clone(),
    };
    let step = g + buffer.clone().mul_scalar(momentum);
    [p - step.mul_scalar(rate), buffer]
}
