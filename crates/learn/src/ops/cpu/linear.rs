//! Products with a weight in torch's layout, whose gradient comes in that layout too: Burn's own comes turned, and
//! turning the largest parameters of a network takes as much memory again.

use super::super::WeightGradient;
use super::{plain, products, tracked};
use burn::Tensor;
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::{Autodiff, Flex};
use burn::tensor::TensorData;
use gabion_kernels::{Linear, Products, alloc};
use gabion_spec::Arithmetic;

#[derive(Debug)]
struct Multiply;

#[derive(Clone, Debug)]
struct State {
    shape: Linear,
    products: Products,
    /// Asked for when the weight wants a gradient.
    x: Option<NodeId>,
    /// Leaves that gradient as its factors.
    factors: bool,
    /// Kept when the input wants one.
    weight: Option<FlexTensor>,
}

impl Backward<Flex, 2> for Multiply {
    type State = State;

    fn backward(self, ops: Ops<State, 2>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let State { shape, products, x, factors, weight } = ops.state;
        let dy = grads.consume::<Flex>(&ops.node).to_contiguous();
        let dy = flat(&dy);
        let [of_x, of_weight] = ops.parents;
        if let (Some(node), Some(x)) = (of_weight, x) {
            let x = checkpointer.retrieve_node_output::<FlexTensor>(x).to_contiguous();
            let gradient = if factors {
                left(&shape, products, flat(&x), dy)
            } else {
                let dweight = alloc::linear_weight_grad(&shape, products, flat(&x), dy);
                rows(dweight, [shape.outputs, shape.inputs])
            };
            grads.register::<Flex>(node.id, gradient);
        }
        if let (Some(node), Some(weight)) = (of_x, weight) {
            let dx = alloc::linear_input_grad(&shape, products, dy, flat(&weight));
            grads.register::<Flex>(node.id, rows(dx, [shape.rows, shape.inputs]));
        }
    }
}

/// What [`super::Factors`] reads. The 1 counts uses: Burn adds what two of them leave.
fn left(shape: &Linear, products: Products, x: &[f32], dy: &[f32]) -> FlexTensor {
    let columns = shape.inputs + shape.outputs + 1;
    let mut values = Vec::with_capacity(shape.rows * columns);
    for (x, dy) in x.chunks_exact(shape.inputs).zip(dy.chunks_exact(shape.outputs)) {
        values.extend_from_slice(x);
        values.extend_from_slice(dy);
        values.push(1.0);
    }
    match products {
        Products::F32 => rows(values, [shape.rows, columns]),
        Products::Bf16 => FlexTensor::from_data(TensorData::new(alloc::to_bf16(&values), [shape.rows, columns])),
    }
}

/// The values of a contiguous tensor.
fn flat(x: &FlexTensor) -> &[f32] {
    x.as_slice::<f32>().expect("made contiguous")
}

fn rows(values: Vec<f32>, shape: [usize; 2]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}

/// `x weight^T`.
pub(in super::super) fn matmul_transposed(
    x: Tensor<2>,
    weight: Tensor<2>,
    arithmetic: Arithmetic,
    gradient: WeightGradient,
) -> Tensor<2> {
    let ([batch, inputs], [outputs, _]) = (x.dims(), weight.dims());
    // More rows are as much work again, for their length and their step.
    let few = batch * (inputs + outputs) <= inputs * outputs / 2;
    let factors = gradient == WeightGradient::Factors && few;
    let (shape, products) = (Linear { rows: batch, inputs, outputs }, products(arithmetic));
    let forward = |x: &FlexTensor, weight: &FlexTensor| {
        let y = alloc::linear(&shape, products, flat(&x.to_contiguous()), flat(weight));
        rows(y, [batch, outputs])
    };
    if !x.is_autodiff() && !weight.is_autodiff() {
        return Tensor::from_primitive::<Flex>(forward(&plain(x), &plain(weight).to_contiguous()));
    }
    let (x_wants, weight_wants) = (x.is_tracked(), weight.is_tracked());
    let x = tracked(x);
    let (weight, weight_node) = tracked(weight).into_parts();
    let weight = weight.to_contiguous();
    let y = forward(x.primitive(), &weight);
    let out = match Multiply.prepare::<NoCheckpointing>([x.node(), weight_node]).compute_bound().stateful() {
        OpsKind::Tracked(mut prep) => {
            let x = weight_wants.then(|| prep.checkpoint(&x));
            prep.finish(State { shape, products, x, factors, weight: x_wants.then_some(weight) }, y)
        }
        OpsKind::UnTracked(prep) => prep.finish(y),
    };
    Tensor::from_primitive::<Autodiff<Flex>>(out)
}
