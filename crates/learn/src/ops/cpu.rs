//! The CPU device's own operations: gabion-kernels under Burn's autodiff.
//!
//! Activations stay channels-last in memory from the first convolution to the pooling while Burn sees
//! `[batch, channels, height, width]` with permuted strides. Batch normalisation, residual and ReLU are one pass
//! forward and two backward, and keep nothing but their input and output.

use super::Normalised;
use crate::nn::BATCH_NORM_EPS;
use burn::Tensor;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::{Autodiff, DispatchDevice, Flex};
use burn::tensor::{DType, TensorData};
use gabion_kernels::{self as kernels, BatchNorm, Conv2d, Statistics};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

type Tracked = <Autodiff<Flex> as burn::backend::BackendTypes>::FloatTensorPrimitive;

/// Whether a tensor is f32 on the CPU device.
pub(super) fn serves<const D: usize>(x: &Tensor<D>) -> bool {
    matches!(x.device().inner().as_dispatch(), DispatchDevice::Flex(_)) && x.dtype() == DType::F32
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

/// Channels-last values under Burn's order of axes.
fn wrap(values: Vec<f32>, [batch, channels, height, width]: [usize; 4]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, [batch, height, width, channels])).permute(&[0, 3, 1, 2])
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
    /// Kept when the weight wants a gradient.
    x: Option<FlexTensor>,
    /// Kept when the input wants one.
    weight: Option<FlexTensor>,
}

impl Backward<Flex, 2> for Convolve {
    type State = ConvState;

    fn backward(self, ops: Ops<ConvState, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let ConvState { conv, x, weight } = ops.state;
        let dy = grads.consume::<Flex>(&ops.node);
        let dy = channels_last(&dy);
        let [of_x, of_weight] = ops.parents;
        if let (Some(node), Some(x)) = (of_weight, x) {
            let mut dw = vec![0.0; conv.weight_len()];
            kernels::conv2d_weight_grad(&conv, &channels_last(&x), &dy, &mut dw);
            let shape = [conv.channels_out, conv.channels_in, conv.kernel, conv.kernel];
            grads.register::<Flex>(node.id, FlexTensor::from_data(TensorData::new(dw, shape)));
        }
        if let (Some(node), Some(weight)) = (of_x, weight) {
            let dx = kernels::alloc::conv2d_input_grad(&conv, &dy, &values(&weight));
            let shape = [conv.batch, conv.channels_in, conv.height, conv.width];
            grads.register::<Flex>(node.id, wrap(dx, shape));
        }
    }
}

pub(super) fn conv2d(x: Tensor<4>, weight: Tensor<4>, stride: usize, padding: usize) -> Tensor<4> {
    let [batch, channels_in, height, width] = x.dims();
    let [channels_out, _, kernel, _] = weight.dims();
    let conv = Conv2d { batch, height, width, channels_in, channels_out, kernel, stride, padding };
    let forward = |x: &FlexTensor, weight: &FlexTensor| {
        let y = kernels::alloc::conv2d(&conv, &channels_last(x), &values(weight));
        wrap(y, [batch, channels_out, conv.out_height(), conv.out_width()])
    };
    if !x.is_autodiff() && !weight.is_autodiff() {
        return Tensor::from_primitive::<Flex>(forward(&plain(x), &plain(weight)));
    }
    let (x_wants, weight_wants) = (x.is_tracked(), weight.is_tracked());
    let (x, x_node) = tracked(x).into_parts();
    let (weight, weight_node) = tracked(weight).into_parts();
    let y = forward(&x, &weight);
    let out = match Convolve.prepare::<NoCheckpointing>([x_node, weight_node]).compute_bound().stateful() {
        OpsKind::Tracked(prep) => {
            let state = ConvState { conv, x: weight_wants.then_some(x), weight: x_wants.then_some(weight) };
            prep.finish(state, y)
        }
        OpsKind::UnTracked(prep) => prep.finish(y),
    };
    Tensor::from_primitive::<Autodiff<Flex>>(out)
}

#[derive(Debug)]
struct Normalise;

#[derive(Clone, Debug)]
struct NormState {
    norm: BatchNorm,
    /// Statistics that move with the batch, or given ones.
    of_batch: bool,
    statistics: Statistics,
    weight: Vec<f32>,
    /// Whether weight and bias want gradients.
    parameters: bool,
    x: Option<FlexTensor>,
    /// The output, which is the ReLU's mask.
    y: Option<FlexTensor>,
}

impl NormState {
    /// Gradients of input, weight, bias and, where there was one, residual.
    fn backward(&self, dy: &FlexTensor, with_residual: bool) -> [Option<FlexTensor>; 4] {
        let shape = dims(dy);
        let dy = channels_last(dy);
        let x = self.x.as_ref().map_or(Cow::Borrowed(&[][..]), channels_last);
        let y = self.y.as_ref().map_or(Cow::Borrowed(&[][..]), channels_last);
        let found = kernels::alloc::batch_norm_backward(
            &self.norm,
            self.of_batch,
            &x,
            &self.statistics,
            &self.weight,
            &y,
            &dy,
            self.parameters,
            with_residual,
        );
        [
            Some(wrap(found.dx, shape)),
            self.parameters.then(|| flat(found.dgamma)),
            self.parameters.then(|| flat(found.dbeta)),
            found.d_residual.map(|d_residual| wrap(d_residual, shape)),
        ]
    }

    fn register<const N: usize>(ops: Ops<Self, N>, grads: &mut Gradients) {
        let dy = grads.consume::<Flex>(&ops.node);
        let found = ops.state.backward(&dy, N == 4);
        for (node, gradient) in ops.parents.into_iter().zip(found) {
            if let (Some(node), Some(gradient)) = (node, gradient) {
                grads.register::<Flex>(node.id, gradient);
            }
        }
    }
}

impl Backward<Flex, 3> for Normalise {
    type State = NormState;

    fn backward(self, ops: Ops<NormState, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        NormState::register(ops, grads);
    }
}

impl Backward<Flex, 4> for Normalise {
    type State = NormState;

    fn backward(self, ops: Ops<NormState, 4>, grads: &mut Gradients, _: &mut Checkpointer) {
        NormState::register(ops, grads);
    }
}

/// Normalises by the batch's statistics, or by given ones; returns those that were used.
#[allow(clippy::cast_possible_truncation)]
fn batch_norm(
    x: Tensor<4>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    given: Option<Statistics>,
    residual: Option<Tensor<4>>,
    relu: bool,
) -> (Tensor<4>, Statistics) {
    let shape = x.dims();
    let norm = BatchNorm { channels: shape[1], epsilon: BATCH_NORM_EPS as f32, relu };
    let of_batch = given.is_none();
    let forward = |x: &FlexTensor, weight: &[f32], bias: &[f32], residual: Option<&FlexTensor>| {
        let residual = residual.map(channels_last);
        let x = channels_last(x);
        let (y, statistics) = match given {
            None => kernels::alloc::batch_norm_train(&norm, &x, weight, bias, residual.as_deref()),
            Some(given) => {
                let y = kernels::alloc::batch_norm_frozen(&norm, &x, &given, weight, bias, residual.as_deref());
                (y, given)
            }
        };
        (wrap(y, shape), statistics)
    };
    let graph = x.is_autodiff() || weight.is_autodiff() || residual.as_ref().is_some_and(Tensor::is_autodiff);
    if !graph {
        let (weight, bias) = (values(&plain(weight)), values(&plain(bias)));
        let (y, statistics) = forward(&plain(x), &weight, &bias, residual.map(plain).as_ref());
        return (Tensor::from_primitive::<Flex>(y), statistics);
    }
    let parameters = weight.is_tracked() || bias.is_tracked();
    let (x, x_node) = tracked(x).into_parts();
    let (weight, weight_node) = tracked(weight).into_parts();
    let (bias, bias_node) = tracked(bias).into_parts();
    let (weight, bias) = (values(&weight), values(&bias));
    let residual = residual.map(|residual| tracked(residual).into_parts());
    let (y, statistics) = forward(&x, &weight, &bias, residual.as_ref().map(|(residual, _)| residual));
    let state = |y: &FlexTensor| NormState {
        norm,
        of_batch,
        statistics: statistics.clone(),
        weight,
        parameters,
        x: (of_batch || parameters).then_some(x),
        y: relu.then(|| y.clone()),
    };
    let out = match residual {
        None => {
            let nodes = [x_node, weight_node, bias_node];
            match Normalise.prepare::<NoCheckpointing>(nodes).compute_bound().stateful() {
                OpsKind::Tracked(prep) => prep.finish(state(&y), y),
                OpsKind::UnTracked(prep) => prep.finish(y),
            }
        }
        Some((_, residual_node)) => {
            let nodes = [x_node, weight_node, bias_node, residual_node];
            match Normalise.prepare::<NoCheckpointing>(nodes).compute_bound().stateful() {
                OpsKind::Tracked(prep) => prep.finish(state(&y), y),
                OpsKind::UnTracked(prep) => prep.finish(y),
            }
        }
    };
    (Tensor::from_primitive::<Autodiff<Flex>>(out), statistics)
}

pub(super) fn batch_norm_train(
    x: Tensor<4>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    residual: Option<Tensor<4>>,
    relu: bool,
) -> Normalised {
    let device = x.device();
    let (y, statistics) = batch_norm(x, weight, bias, None, residual, relu);
    let statistic = |values: Vec<f32>| Tensor::<1>::from_data(TensorData::new(values, [y.dims()[1]]), &device);
    Normalised { mean: statistic(statistics.mean), var: statistic(statistics.var), y }
}

pub(super) fn batch_norm_frozen(
    x: Tensor<4>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    [mean, var]: [Tensor<1>; 2],
    residual: Option<Tensor<4>>,
    relu: bool,
) -> Tensor<4> {
    let given = Statistics { mean: values(&plain(mean)), var: values(&plain(var)) };
    batch_norm(x, weight, bias, Some(given), residual, relu).0
}

/// One of the two uses of a tensor. Burn adds their gradients on one thread, into another order of axes, which then
/// has to be turned back; here the first to come waits for the second and they are added where they lie.
#[derive(Debug)]
struct Fork;

type Waiting = Arc<Mutex<Option<FlexTensor>>>;

impl Backward<Flex, 1> for Fork {
    type State = Waiting;

    fn backward(self, ops: Ops<Waiting, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<Flex>(&ops.node);
        let [Some(node)] = ops.parents else { return };
        let mut waiting = ops.state.lock().unwrap_or_else(PoisonError::into_inner);
        match waiting.take() {
            None => *waiting = Some(dy),
            Some(first) => grads.register::<Flex>(node.id, sum(first, dy)),
        }
    }
}

/// The sum, in channels-last order.
fn sum(mut to: FlexTensor, from: FlexTensor) -> FlexTensor {
    let (mut to, from) = match lies_channels_last(&to) {
        Some(_) if to.is_unique() => (to, from),
        _ if from.is_unique() && lies_channels_last(&from).is_some() => (from, to),
        _ => {
            to = wrap(channels_last(&to).into_owned(), dims(&to));
            (to, from)
        }
    };
    let range = lies_channels_last(&to).expect("chosen or made so");
    kernels::add_assign(&mut to.storage_mut::<f32>()[range], &channels_last(&from));
    to
}

/// The tensor twice, for two uses that both reach the loss.
pub(super) fn fork(x: Tensor<4>) -> [Tensor<4>; 2] {
    if !x.is_tracked() {
        return [x.clone(), x];
    }
    let waiting = Waiting::default();
    [x.clone(), x].map(|x| {
        let (x, node) = tracked(x).into_parts();
        let out = match Fork.prepare::<NoCheckpointing>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(waiting.clone(), x),
            OpsKind::UnTracked(prep) => prep.finish(x),
        };
        Tensor::from_primitive::<Autodiff<Flex>>(out)
    })
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
