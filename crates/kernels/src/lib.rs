//! CPU kernels for training small residual networks: convolution, linear layers, batch normalisation, pooling, layout and
//! the optimizer's step, in f32 and, where asked, with products and kept activations of bf16.
//!
//! Activations are contiguous and channels-last, `[batch, height, width, channels]` (NHWC), so that a batch norm is a
//! walk over rows of channels and a convolution keeps its output channels in vector lanes. Convolution weights stay in
//! torch's `[out, in, kernel, kernel]` (OIHW). Slices come in, slices go out; nothing here knows of tensors or modules.
//!
//! Work is split over images with rayon. Whatever the number of threads, the same inputs give the same bits on one
//! machine: outputs that are sums over the batch are summed over pieces whose bounds depend on the shape alone.
//! Different instruction sets ([`Level`]) may round differently; `GABION_LEVEL=portable` (`avx2`, `avx512`, `neon`)
//! forces one.
//!
//! [`Frozen`] is a whole network of these, prepared once for inference and for gradients of the pixels.
//!
//! `cargo run --release -p gabion-kernels --example roofline` measures every convolution of a ResNet-18 against the
//! machine's multiply-add peak.

// Vector intrinsics and register tiles over raw pointers are what this crate is for; everything public is safe and
// checks its slices before a pointer is made.
#![allow(unsafe_code)]
// Register tiles are loops with constant bounds over arrays; an index says so, and iterators unroll less surely.
#![allow(clippy::needless_range_loop)]

pub mod alloc;
mod batch_norm;
mod conv;
mod frozen;
mod layout;
mod level;
mod linear;
mod optim;
mod pool;
mod scratch;
mod vector;

pub use batch_norm::{
    BatchNorm, BatchNormGrads, Statistics, batch_norm_frozen, batch_norm_frozen_backward, batch_norm_train,
    batch_norm_train_backward,
};
pub use conv::{Conv2d, Products, Window, conv2d, conv2d_input_grad, conv2d_weight_grad};
pub use frozen::{Builder, Filter, Frozen, Precision, Trace, Value};
pub use layout::{add_assign, nchw_to_nhwc, nhwc_to_nchw, to_bf16};
pub use level::{Level, LevelError, VARIABLE};
pub use linear::{Linear, linear, linear_input_grad, linear_lars, linear_weight_grad};
pub use optim::{Lars, lars};
pub use pool::{global_average_pool, global_average_pool_backward};
pub use vector::Element;
