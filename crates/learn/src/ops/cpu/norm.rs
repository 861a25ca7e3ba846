//! Batch normalisation with residual and ReLU, whose output is made again when the way back asks for it.

use super::super::Normalised;
use super::{Tracked, channels_last, dims, flat, halves, owned, plain, tracked, values, values_mut, wrap};
use crate::nn::BATCH_NORM_EPS;
use burn::Tensor;
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::retro_forward::RetroForward;
use burn::backend::autodiff::checkpoint::state::BackwardStates;
use burn::backend::autodiff::checkpoint::strategy::BalancedCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::{Autodiff, Flex};
use burn::tensor::{DType, TensorData, bf16};
use gabion_kernels::alloc;
use gabion_kernels::{BatchNorm, Element, Statistics};
use std::borrow::Cow;

/// What is normalised, in channels-last order.
enum Rows<'a> {
    F32(Cow<'a, [f32]>),
    Bf16(&'a [bf16]),
}

impl<'a> Rows<'a> {
    fn of(x: &'a FlexTensor) -> Self {
        if x.dtype() == DType::BF16 { Self::Bf16(halves(x)) } else { Self::F32(channels_last(x)) }
    }
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
    /// What the ReLU let through, a bit a value.
    mask: Vec<u16>,
}

impl NormState {
    /// Gradients of input, weight, bias and, where there was one, residual.
    fn backward(self, dy: FlexTensor, with_residual: bool) -> [Option<FlexTensor>; 4] {
        let shape = dims(&dy);
        let mut dy = owned(dy);
        let found = match self.x.as_ref().map_or(Rows::F32(Cow::Borrowed(&[])), Rows::of) {
            Rows::F32(x) => self.backward_of(&x, values_mut(&mut dy), with_residual),
            Rows::Bf16(x) => self.backward_of(x, values_mut(&mut dy), with_residual),
        };
        let (dx, d_residual) = match found.dx {
            Some(dx) => (wrap(dx, shape), Some(dy)),
            None => (dy, None),
        };
        let parameter = |gradient: Vec<f32>| self.parameters.then(|| flat(gradient));
        [Some(dx), parameter(found.dgamma), parameter(found.dbeta), d_residual]
    }

    fn backward_of<X: Element>(&self, x: &[X], dy: &mut [f32], with_residual: bool) -> alloc::Normalised {
        let Self { norm, of_batch, statistics, weight, mask, parameters, .. } = self;
        alloc::batch_norm_backward(norm, *of_batch, x, statistics, weight, mask, dy, *parameters, with_residual)
    }

    fn register<const N: usize>(ops: Ops<Self, N>, grads: &mut Gradients) {
        let dy = grads.consume::<Flex>(&ops.node);
        let found = ops.state.backward(dy, N == 4);
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

/// Where an operand is when the output is made again: the graph keeps what is tracked.
#[derive(Debug)]
enum Operand {
    Node(NodeId),
    Value(FlexTensor),
}

impl Operand {
    fn new(x: &Tracked) -> Self {
        if x.is_tracked() { Self::Node(x.id()) } else { Self::Value(x.primitive().clone()) }
    }

    fn get(&self, states: &mut BackwardStates) -> FlexTensor {
        match self {
            Self::Node(node) => states.get_state(node),
            Self::Value(value) => value.clone(),
        }
    }
}

/// Makes the output again: the same pass over the same values, so the same bits.
#[derive(Debug)]
struct Again {
    norm: BatchNorm,
    statistics: Statistics,
    /// Input, weight and bias.
    operands: [Operand; 3],
    residual: Option<Operand>,
}

impl RetroForward for Again {
    fn forward(&self, states: &mut BackwardStates, out: NodeId) {
        let [x, weight, bias] = self.operands.each_ref().map(|operand| operand.get(states));
        let residual = self.residual.as_ref().map(|residual| residual.get(states));
        let (weight, bias) = (values(&weight), values(&bias));
        let residual = residual.as_ref().map(channels_last);
        let given = Some(&self.statistics);
        let (y, ..) = forward(&self.norm, given, &x, [&weight, &bias], residual.as_deref(), false);
        states.save(out, wrap(y, dims(&x)));
    }
}

/// The output, a mask where `masked` asks for one, and the statistics that were used.
fn forward(
    norm: &BatchNorm,
    given: Option<&Statistics>,
    x: &FlexTensor,
    parameters: [&[f32]; 2],
    residual: Option<&[f32]>,
    masked: bool,
) -> (Vec<f32>, Vec<u16>, Statistics) {
    match Rows::of(x) {
        Rows::F32(x) => forward_of(norm, given, &x, parameters, residual, masked),
        Rows::Bf16(x) => forward_of(norm, given, x, parameters, residual, masked),
    }
}

fn forward_of<X: Element>(
    norm: &BatchNorm,
    given: Option<&Statistics>,
    x: &[X],
    [weight, bias]: [&[f32]; 2],
    residual: Option<&[f32]>,
    masked: bool,
) -> (Vec<f32>, Vec<u16>, Statistics) {
    match given {
        None => alloc::batch_norm_train(norm, x, weight, bias, residual, masked),
        Some(given) => {
            let (y, mask) = alloc::batch_norm_frozen(norm, x, given, weight, bias, residual, masked);
            (y, mask, given.clone())
        }
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
    let normalised = |x: &FlexTensor, weight: &[f32], bias: &[f32], residual: Option<&FlexTensor>, masked: bool| {
        let residual = residual.map(channels_last);
        let (y, mask, statistics) = forward(&norm, given.as_ref(), x, [weight, bias], residual.as_deref(), masked);
        (wrap(y, shape), mask, statistics)
    };
    let graph = x.is_autodiff() || weight.is_autodiff() || residual.as_ref().is_some_and(Tensor::is_autodiff);
    if !graph {
        let (weight, bias) = (values(&plain(weight)), values(&plain(bias)));
        let (y, _, statistics) = normalised(&plain(x), &weight, &bias, residual.map(plain).as_ref(), false);
        return (Tensor::from_primitive::<Flex>(y), statistics);
    }
    let parameters = weight.is_tracked() || bias.is_tracked();
    let (x, weight, bias, residual) = (tracked(x), tracked(weight), tracked(bias), residual.map(tracked));
    let of_weight = values(weight.primitive());
    let (y, mask, statistics) = normalised(
        x.primitive(),
        &of_weight,
        &values(bias.primitive()),
        residual.as_ref().map(Tracked::primitive),
        relu,
    );
    let again = Again {
        norm,
        statistics: statistics.clone(),
        operands: [&x, &weight, &bias].map(Operand::new),
        residual: residual.as_ref().map(Operand::new),
    };
    let state = NormState {
        norm,
        of_batch,
        statistics: statistics.clone(),
        weight: of_weight,
        parameters,
        x: (of_batch || parameters).then(|| x.primitive().clone()),
        mask,
    };
    let out = match residual {
        None => record([x, weight, bias], again, state, y),
        Some(residual) => record([x, weight, bias, residual], again, state, y),
    };
    (Tensor::from_primitive::<Autodiff<Flex>>(out), statistics)
}

fn record<const N: usize>(parents: [Tracked; N], again: Again, state: NormState, y: FlexTensor) -> Tracked
where
    Normalise: Backward<Flex, N, State = NormState>,
{
    let nodes: [NodeGuard; N] = parents.each_ref().map(Tracked::node);
    let prep = Normalise.prepare::<BalancedCheckpointing>(nodes);
    let tracked = || parents.iter().filter(|parent| parent.is_tracked());
    let prep = match tracked().count() {
        0 => prep.compute_bound(),
        _ => prep.memory_bound().retro_forward(again).parents(tracked()),
    };
    match prep.stateful() {
        OpsKind::Tracked(prep) => prep.finish(state, y),
        OpsKind::UnTracked(prep) => prep.finish(y),
    }
}

pub(in super::super) fn batch_norm_train(
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

pub(in super::super) fn batch_norm_frozen(
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
