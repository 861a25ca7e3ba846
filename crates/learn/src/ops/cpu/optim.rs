//! The optimizer's step in one pass over a parameter, in the gradient's own memory.

use super::{flat, plain};
use burn::Tensor;
use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use gabion_kernels::Lars;

/// The moved parameter and the moved velocity, all flat.
pub(in super::super) fn lars(
    rule: &Lars,
    parameter: Tensor<1>,
    gradient: Tensor<1>,
    velocity: Option<Tensor<1>>,
) -> [Tensor<1>; 2] {
    let parameter = plain(parameter).to_contiguous();
    let mut gradient = plain(gradient).to_contiguous();
    let mut velocity = match velocity {
        Some(velocity) => plain(velocity).to_contiguous(),
        // Not Burn's zeros, which are there twice for a moment.
        None => flat(vec![0.0; gradient.layout().shape().num_elements()]),
    };
    let parameter = parameter.as_slice::<f32>().expect("made contiguous");
    gabion_kernels::lars(rule, parameter, flat_mut(&mut gradient), flat_mut(&mut velocity));
    [gradient, velocity].map(Tensor::from_primitive::<Flex>)
}

/// The values of a contiguous tensor, copied first when others read them.
fn flat_mut(x: &mut FlexTensor) -> &mut [f32] {
    let (start, end) = x.layout().contiguous_offsets().expect("made contiguous");
    &mut x.storage_mut::<f32>()[start..end]
}
