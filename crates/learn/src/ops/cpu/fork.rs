//! A tensor's two uses.

use super::{Tracked, channels_last, lies_channels_last, owned, tracked, values_mut};
use burn::Tensor;
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::retro_forward::RetroForward;
use burn::backend::autodiff::checkpoint::state::BackwardStates;
use burn::backend::autodiff::checkpoint::strategy::BalancedCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::{Autodiff, Flex};
use std::sync::{Arc, Mutex, PoisonError};

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
fn sum(to: FlexTensor, from: FlexTensor) -> FlexTensor {
    let may_hold = |x: &FlexTensor| x.is_unique() && lies_channels_last(x).is_some();
    let (to, from) = if !may_hold(&to) && may_hold(&from) { (from, to) } else { (to, from) };
    let mut to = owned(to);
    gabion_kernels::add_assign(values_mut(&mut to), &channels_last(&from));
    to
}

/// A use's values are the tensor's, which may itself have to be made again.
#[derive(Debug)]
struct Same(NodeId);

impl RetroForward for Same {
    fn forward(&self, states: &mut BackwardStates, out: NodeId) {
        let x = states.get_state::<FlexTensor>(&self.0);
        states.save(out, x);
    }
}

/// The tensor twice, for two uses that both reach the loss.
pub(in super::super) fn fork(x: Tensor<4>) -> [Tensor<4>; 2] {
    if !x.is_tracked() {
        return [x.clone(), x];
    }
    let waiting = Waiting::default();
    [x.clone(), x].map(|x| {
        let x: Tracked = tracked(x);
        let prep = Fork.prepare::<BalancedCheckpointing>([x.node()]).memory_bound();
        let out = match prep.retro_forward(Same(x.id())).parents([&x]).stateful() {
            OpsKind::Tracked(prep) => prep.finish(waiting.clone(), x.into_primitive()),
            OpsKind::UnTracked(prep) => prep.finish(x.into_primitive()),
        };
        Tensor::from_primitive::<Autodiff<Flex>>(out)
    })
}
