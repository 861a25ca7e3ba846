//! The CPU device's own operations: gabion-kernels under Burn's autodiff.
//!
//! Activations stay channels-last in memory from the first convolution to the pooling while Burn sees
//! `[batch, channels, height, width]` with permuted strides. Batch normalisation, residual and ReLU are one pass
//! forward and two backward. Of a training step's activations only what convolutions put out is kept, once, in bf16 where
//! that is the arithmetic: what normalisation makes of it is made again on the way back, bit for bit, from that and the
//! statistics.

mod fork;
mod linear;
mod norm;
mod optim;

pub(super) use fork::fork;
pub(super) use linear::matmul_transposed;
pub(super) use norm::{batch_norm_frozen, batch_norm_train};
pub(super) use optim::{Factors, lars};

use burn::Tensor;
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::{Autodiff, DispatchDevice, Flex};
use burn::tensor::{DType, Element, TensorData, bf16};
use gabion_kernels::{self as kernels, Conv2d, Products};
use gabion_spec::Arithmetic;
use std::borrow::Cow;
use std::ops::Range;

type Tracked = <Autodiff<Flex> as burn::backend::BackendTypes>::FloatTensorPrimitive;

/// Whether a tensor is f32 on the CPU device.
pub(super) fn serves<const D: usize>(x: &Tensor<D>) -> bool {
    lies_here(x) && x.dtype() == DType::F32
}

/// Whether it is what a convolution puts out there.
pub(super) fn normalises<const D: usize>(x: &Tensor<D>) -> bool {
    lies_here(x) && matches!(x.dtype(), DType::F32 | DType::BF16)
}

fn lies_here<const D: usize>(x: &Tensor<D>) -> bool {
    matches!(x.device().inner().as_dispatch(), DispatchDevice::Flex(_))
}

fn products(arithmetic: Arithmetic) -> Products {
    match arithmetic {
        Arithmetic::F32 => Products::F32,
        Arithmetic::Bf16 => Products::Bf16,
    }
}

fn plain<const D: usize>(x: Tensor<D>) -> FlexTensor {
    x.without_autodiff().try_into_primitive::<Flex>().expect("the caller asked `serves`")
}

fn tracked<const D: usize>(x: Tensor<D>) -> Tracked {
    let x = if x.is_autodiff() { x } else { Tensor::from_inner(x) };
    x.try_into_primitive::<Autodiff<Flex>>().expect("the caller asked `serves`")
}

fn dims(x: &FlexTensor) -> [usize; 4] {
    std::array::from_fn(|axis| x.layout().shape()[axis])
}

/// Where the values lie in the storage, if they lie in channels-last order.
fn lies_channels_last(x: &FlexTensor) -> Option<Range<usize>> {
    let [batch, channels, height, width] = dims(x);
    let layout = x.layout();
    let strides = [height * width * channels, 1, width * channels, channels].map(usize::cast_signed);
    let lies = layout.shape().iter().zip(layout.strides()).zip(strides).all(|((&n, &s), t)| n == 1 || s == t);
    let start = layout.start_offset();
    lies.then_some(start..start + batch * channels * height * width)
}

/// The values in channels-last order; copied only when they lie otherwise.
fn channels_last(x: &FlexTensor) -> Cow<'_, [f32]> {
    if let Some(range) = lies_channels_last(x) {
        return Cow::Borrowed(&x.storage::<f32>()[range]);
    }
    let [_, channels, height, width] = dims(x);
    let pixels = height * width;
    let contiguous = x.to_contiguous();
    let from = contiguous.as_slice::<f32>().expect("made contiguous");
    Cow::Owned(kernels::alloc::nchw_to_nhwc(channels, pixels, from))
}

/// The values of a bf16 tensor in channels-last order, which a convolution left there.
fn halves(x: &FlexTensor) -> &[bf16] {
    let range = lies_channels_last(x).expect("a convolution's output lies channels-last");
    &x.storage::<bf16>()[range]
}

/// Channels-last values under Burn's order of axes.
fn wrap<E: Element>(values: Vec<E>, [batch, channels, height, width]: [usize; 4]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, [batch, height, width, channels])).permute(&[0, 3, 1, 2])
}

/// The tensor, with values that lie in channels-last order and that nobody else reads.
fn owned(x: FlexTensor) -> FlexTensor {
    match lies_channels_last(&x) {
        Some(_) if x.is_unique() => x,
        _ => wrap(channels_last(&x).into_owned(), dims(&x)),
    }
}

/// The values of a tensor that [`owned`] gave.
fn values_mut(x: &mut FlexTensor) -> &mut [f32] {
    let range = lies_channels_last(x).expect("owned");
    &mut x.storage_mut::<f32>()[range]
}

fn flat(values: Vec<f32>) -> FlexTensor {
    let length = values.len();
    FlexTensor::from_data(TensorData::new(values, [length]))
}

fn values(x: &FlexTensor) -> Vec<f32> {
    x.to_contiguous().as_slice::<f32>().expect("made contiguous").to_vec()
}

#[derive(Debug)]
struct Convolve;

#[derive(Clone, Debug)]
struct ConvState {
    conv: Conv2d,
    /// Asked for when the weight wants a gradient.
    x: Option<NodeId>,
    /// Kept when the input wants one.
    weight: Option<FlexTensor>,
    products: Products,
}

impl Backward<Flex, 2> for Convolve {
    type State = ConvState;

    fn backward(self, ops: Ops<ConvState, 2>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let ConvState { conv, x, weight, products } = ops.state;
        let dy = grads.consume::<Flex>(&ops.node);
        let dy = channels_last(&dy);
        let [of_x, of_weight] = ops.parents;
        if let (Some(node), Some(x)) = (of_weight, x) {
            let x: FlexTensor = checkpointer.retrieve_node_output(x);
            let mut dw = vec![0.0; conv.weight_len()];
            kernels::conv2d_weight_grad(&conv, products, &channels_last(&x), &dy, &mut dw);
            let shape = [conv.channels_out, conv.channels_in, conv.kernel, conv.kernel];
            grads.register::<Flex>(node.id, FlexTensor::from_data(TensorData::new(dw, shape)));
        }
        if let (Some(node), Some(weight)) = (of_x, weight) {
            let dx = kernels::alloc::conv2d_input_grad(&conv, products, &dy, &values(&weight));
            let shape = [conv.batch, conv.channels_in, conv.height, conv.width];
            grads.register::<Flex>(node.id, wrap(dx, shape));
        }
    }
}

pub(super) fn conv2d(
    x: Tensor<4>,
    weight: Tensor<4>,
    stride: usize,
    padding: usize,
    arithmetic: Arithmetic,
) -> Tensor<4> {
    let products = products(arithmetic);
    let [batch, channels_in, height, width] = x.dims();
    let [channels_out, _, kernel, _] = weight.dims();
    let conv = Conv2d { batch, height, width, channels_in, channels_out, kernel, stride, padding };
    let forward = |x: &FlexTensor, weight: &FlexTensor| {
        let y = kernels::alloc::conv2d(&conv, products, &channels_last(x), &values(weight));
        let shape = [batch, channels_out, conv.out_height(), conv.out_width()];
        match arithmetic {
            Arithmetic::F32 => wrap(y, shape),
            Arithmetic::Bf16 => wrap(kernels::alloc::to_bf16(&y), shape),
        }
    };
    if !x.is_autodiff() && !weight.is_autodiff() {
        return Tensor::from_primitive::<Flex>(forward(&plain(x), &plain(weight)));
    }
    let (x_wants, weight_wants) = (x.is_tracked(), weight.is_tracked());
    let x = tracked(x);
    let (weight, weight_node) = tracked(weight).into_parts();
    let y = forward(x.primitive(), &weight);
    let out = match Convolve.prepare::<NoCheckpointing>([x.node(), weight_node]).compute_bound().stateful() {
        OpsKind::Tracked(mut prep) => {
            let x = weight_wants.then(|| prep.checkpoint(&x));
            prep.finish(ConvState { conv, x, weight: x_wants.then_some(weight), products }, y)
        }
        OpsKind::UnTracked(prep) => prep.finish(y),
    };
    Tensor::from_primitive::<Autodiff<Flex>>(out)
}

#[derive(Debug)]
struct Pool;

impl Backward<Flex, 1> for Pool {
    type State = [usize; 4];

    fn backward(self, ops: Ops<[usize; 4], 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [_, channels, height, width] = ops.state;
        let dy = values(&grads.consume::<Flex>(&ops.node));
        let [Some(node)] = ops.parents else { return };
        let dx = kernels::alloc::global_average_pool_backward(height * width, channels, &dy);
        grads.register::<Flex>(node.id, wrap(dx, ops.state));
    }
}

pub(super) fn global_average_pool(x: Tensor<4>) -> Tensor<2> {
    let shape @ [batch, channels, height, width] = x.dims();
    let forward = |x: &FlexTensor| {
        let mut y = vec![0.0; batch * channels];
        kernels::global_average_pool(height * width, channels, &channels_last(x), &mut y);
        FlexTensor::from_data(TensorData::new(y, [batch, channels]))
    };
    if !x.is_autodiff() {
        return Tensor::from_primitive::<Flex>(forward(&plain(x)));
    }
    let (x, node) = tracked(x).into_parts();
    let out = match Pool.prepare::<NoCheckpointing>([node]).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish(shape, forward(&x)),
        OpsKind::UnTracked(prep) => prep.finish(forward(&x)),
    };
    Tensor::from_primitive::<Autodiff<Flex>>(out)
}
