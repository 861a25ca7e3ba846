//! The same operations into new memory, which is written once: filling it with zeros first is work for one thread.

use crate::{BatchNorm, BatchNormGrads, Conv2d, Element, Linear, Products, Statistics};
use half::bf16;

/// `length` values that `write` makes.
///
/// # Safety
/// `write` overwrites every value and reads none before. Each kernel that is called below says "overwritten" of its
/// output, and means it.
unsafe fn overwritten<X: Element, R>(length: usize, write: impl FnOnce(&mut [X]) -> R) -> (Vec<X>, R) {
    let mut values = Vec::<X>::with_capacity(length);
    // SAFETY: the capacity is there, any bits are an `Element`, and by this function's contract nobody looks at them.
    let result = write(unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr(), length) });
    // SAFETY: by this function's contract all of them are written.
    unsafe { values.set_len(length) };
    (values, result)
}

/// [`crate::conv2d`]; returns `y`.
///
/// # Panics
/// As it does.
pub fn conv2d(conv: &Conv2d, products: Products, x: &[f32], weights: &[f32]) -> Vec<f32> {
    // SAFETY: the output is overwritten.
    unsafe { overwritten(conv.output_len(), |y| crate::conv2d(conv, products, x, weights, y)).0 }
}

/// [`crate::conv2d_input_grad`]; returns `dx`.
///
/// # Panics
/// As it does.
pub fn conv2d_input_grad(conv: &Conv2d, products: Products, dy: &[f32], weights: &[f32]) -> Vec<f32> {
    // SAFETY: the output is overwritten.
    unsafe { overwritten(conv.input_len(), |dx| crate::conv2d_input_grad(conv, products, dy, weights, dx)).0 }
}

/// [`crate::linear`]; returns `y`.
///
/// # Panics
/// As it does.
pub fn linear(linear: &Linear, products: Products, x: &[f32], weight: &[f32]) -> Vec<f32> {
    // SAFETY: the output is overwritten.
    unsafe { overwritten(linear.rows * linear.outputs, |y| crate::linear(linear, products, x, weight, y)).0 }
}

/// [`crate::linear_input_grad`]; returns `dx`.
///
/// # Panics
/// As it does.
pub fn linear_input_grad(linear: &Linear, products: Products, dy: &[f32], weight: &[f32]) -> Vec<f32> {
    let length = linear.rows * linear.inputs;
    // SAFETY: the output is overwritten.
    unsafe { overwritten(length, |dx| crate::linear_input_grad(linear, products, dy, weight, dx)).0 }
}

/// [`crate::linear_weight_grad`]; returns `dweight`.
///
/// # Panics
/// As it does.
pub fn linear_weight_grad(linear: &Linear, products: Products, x: &[f32], dy: &[f32]) -> Vec<f32> {
    let length = linear.outputs * linear.inputs;
    // SAFETY: the output is overwritten.
    unsafe { overwritten(length, |dw| crate::linear_weight_grad(linear, products, x, dy, dw)).0 }
}

/// [`crate::nchw_to_nhwc`]; returns `to`.
///
/// # Panics
/// As it does.
pub fn nchw_to_nhwc(channels: usize, pixels: usize, from: &[f32]) -> Vec<f32> {
    // SAFETY: the output is overwritten.
    unsafe { overwritten(from.len(), |to| crate::nchw_to_nhwc(channels, pixels, from, to)).0 }
}

/// [`crate::to_bf16`]; returns `to`.
pub fn to_bf16(x: &[f32]) -> Vec<bf16> {
    // SAFETY: the output is overwritten.
    unsafe { overwritten(x.len(), |to| crate::to_bf16(x, to)).0 }
}

/// [`crate::batch_norm_train`]; returns `y` too, and with `masked` its mask.
///
/// # Panics
/// As it does.
pub fn batch_norm_train<X: Element>(
    norm: &BatchNorm,
    x: &[X],
    gamma: &[f32],
    beta: &[f32],
    residual: Option<&[f32]>,
    masked: bool,
) -> (Vec<f32>, Vec<u16>, Statistics) {
    let mut mask = mask(norm, x, masked);
    // SAFETY: the output is overwritten.
    let (y, statistics) =
        unsafe { overwritten(x.len(), |y| crate::batch_norm_train(norm, x, gamma, beta, residual, y, &mut mask)) };
    (y, mask, statistics)
}

/// [`crate::batch_norm_frozen`]; returns `y`, and with `masked` its mask.
///
/// # Panics
/// As it does.
pub fn batch_norm_frozen<X: Element>(
    norm: &BatchNorm,
    x: &[X],
    statistics: &Statistics,
    gamma: &[f32],
    beta: &[f32],
    residual: Option<&[f32]>,
    masked: bool,
) -> (Vec<f32>, Vec<u16>) {
    let mut mask = mask(norm, x, masked);
    // SAFETY: the output is overwritten.
    let (y, ()) = unsafe {
        overwritten(x.len(), |y| crate::batch_norm_frozen(norm, x, statistics, gamma, beta, residual, y, &mut mask))
    };
    (y, mask)
}

fn mask<X>(norm: &BatchNorm, x: &[X], masked: bool) -> Vec<u16> {
    vec![0; if masked { norm.mask_len(x.len()) } else { 0 }]
}

/// The gradients of a normalisation; that of the input, or of the residual where there was one, is in `dy`.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalised {
    /// `[rows, channels]`, where there was a residual
    pub dx: Option<Vec<f32>>,
    /// `[channels]`, or empty where not wanted
    pub dgamma: Vec<f32>,
    /// `[channels]`, or empty where not wanted
    pub dbeta: Vec<f32>,
}

/// [`crate::batch_norm_train_backward`] where the statistics are the batch's (`of_batch`), else
/// [`crate::batch_norm_frozen_backward`], which leaves `dgamma` and `dbeta` out without `parameters`.
///
/// # Panics
/// As they do.
#[allow(clippy::too_many_arguments, clippy::fn_params_excessive_bools)] // the operands of one formula
pub fn batch_norm_backward<X: Element>(
    norm: &BatchNorm,
    of_batch: bool,
    x: &[X],
    statistics: &Statistics,
    gamma: &[f32],
    mask: &[u16],
    dy: &mut [f32],
    parameters: bool,
    with_residual: bool,
) -> Normalised {
    let backward = if of_batch { crate::batch_norm_train_backward } else { crate::batch_norm_frozen_backward };
    let channels = if parameters || of_batch { norm.channels } else { 0 };
    let (mut dgamma, mut dbeta) = (vec![0.0; channels], vec![0.0; channels]);
    let length = dy.len();
    let mut into = |dx: &mut [f32]| {
        let grads = BatchNormGrads { dy, dx, dgamma: &mut dgamma, dbeta: &mut dbeta };
        backward(norm, x, statistics, gamma, mask, grads);
    };
    let dx = if with_residual {
        // SAFETY: the output is overwritten.
        Some(unsafe { overwritten(length, into) }.0)
    } else {
        into(&mut []);
        None
    };
    Normalised { dx, dgamma, dbeta }
}

/// [`crate::global_average_pool_backward`]; returns `dx`.
///
/// # Panics
/// As it does.
pub fn global_average_pool_backward(pixels: usize, channels: usize, dy: &[f32]) -> Vec<f32> {
    // SAFETY: the output is overwritten.
    unsafe { overwritten(dy.len() * pixels, |dx| crate::global_average_pool_backward(pixels, channels, dy, dx)).0 }
}
