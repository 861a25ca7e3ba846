//! Products with a weight in torch's layout, whose gradient comes in that layout too: Burn's own comes turned, and
//! turning the largest parameters of a network takes as much memory again.

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
    /// Kept when the input wants one.
    weight: Option<FlexTensor>,
}

impl Backward<Flex, 2> for Multiply {
    type State = State;

    fn backward(self, ops: Ops<State, 2>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let State { shape, products, x, weight } = ops.state;
        let dy = grads.consume::<Flex>(&ops.node).to_contiguous();
        let dy = flat(&dy);
        let [of_x, of_weight] = ops.parents;
        if let (Some(node), Some(x)) = (of_weight, x) {
            let x = checkpointer.retrieve_node_output::<FlexTensor>(x).to_contiguous();
            let dweight = alloc::linear_weight_grad(&shape, products, flat(&x), dy);
            grads.register::<Flex>(node.id, rows(dweight, [shape.outputs, shape.inputs]));
        }
        if let (Some(node), Some(weight)) = (of_x, weight) {
            let dx = alloc::linear_input_grad(&shape, products, dy, flat(&weight));
            grads.register::<Flex>(node.id, rows(dx, [shape.rows, shape.inputs]));
        }
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
pub(in super::super) fn matmul_transposed(x: Tensor<2>, weight: Tensor<2>, arithmetic: Arithmetic) -> Tensor<2> {
    let ([batch, inputs], [outputs, _]) = (x.dims(), weight.dims());
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
            prep.finish(State { shape, products, x, weight: x_wants.then_some(weight) }, y)
        }
        OpsKind::UnTracked(prep) => prep.finish(y),
    };
    Tensor::from_primitive::<Autodiff<Flex>>(out)
}
