//! Products with a weight in torch's layout, whose gradient comes in that layout too: Burn's own comes turned, and
//! turning the largest parameters of a network takes as much memory again.

use super::{plain, tracked};
use burn::Tensor;
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::ops::FloatTensorOps;
use burn::backend::{Autodiff, Flex};
use burn::tensor::TensorData;

#[derive(Debug)]
struct Multiply;

#[derive(Clone, Debug)]
struct State {
    /// Asked for when the weight wants a gradient.
    x: Option<NodeId>,
    /// Kept when the input wants one.
    weight: Option<FlexTensor>,
}

impl Backward<Flex, 2> for Multiply {
    type State = State;

    fn backward(self, ops: Ops<State, 2>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let State { x, weight } = ops.state;
        let dy = grads.consume::<Flex>(&ops.node);
        let [of_x, of_weight] = ops.parents;
        if let (Some(node), Some(x)) = (of_weight, x) {
            let x: FlexTensor = checkpointer.retrieve_node_output(x);
            grads.register::<Flex>(node.id, weight_grad(&dy, &x));
        }
        if let (Some(node), Some(weight)) = (of_x, weight) {
            grads.register::<Flex>(node.id, Flex::float_matmul(dy, weight));
        }
    }
}

/// Values of a weight gradient that are computed at a time.
const PIECE: usize = 1 << 20;

/// `dy^T x`, some rows at a time: Burn's product holds its result twice for a moment, and this one may be the largest
/// tensor of a network.
fn weight_grad(dy: &FlexTensor, x: &FlexTensor) -> FlexTensor {
    let [out, length] = [dy.layout().shape()[1], x.layout().shape()[1]];
    let rows = (PIECE / length).max(1);
    let mut values = Vec::with_capacity(out * length);
    for first in (0..out).step_by(rows) {
        let dy = dy.narrow(1, first, rows.min(out - first)).transpose(0, 1);
        let piece = Flex::float_matmul(dy, x.clone());
        values.extend_from_slice(piece.as_slice::<f32>().expect("a new product is contiguous"));
    }
    FlexTensor::from_data(TensorData::new(values, [out, length]))
}

/// `x weight^T`.
pub(in super::super) fn matmul_transposed(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    let forward = |x: FlexTensor, weight: &FlexTensor| Flex::float_matmul(x, weight.transpose(0, 1));
    if !x.is_autodiff() && !weight.is_autodiff() {
        return Tensor::from_primitive::<Flex>(forward(plain(x), &plain(weight)));
    }
    let (x_wants, weight_wants) = (x.is_tracked(), weight.is_tracked());
    let x = tracked(x);
    let (weight, weight_node) = tracked(weight).into_parts();
    let y = forward(x.primitive().clone(), &weight);
    let out = match Multiply.prepare::<NoCheckpointing>([x.node(), weight_node]).compute_bound().stateful() {
        OpsKind::Tracked(mut prep) => {
            let x = weight_wants.then(|| prep.checkpoint(&x));
            prep.finish(State { x, weight: x_wants.then_some(weight) }, y)
        }
        OpsKind::UnTracked(prep) => prep.finish(y),
    };
    Tensor::from_primitive::<Autodiff<Flex>>(out)
}
