//! The optimizer's step in one pass over a parameter, where it lies when nobody else holds it.

use super::{flat, plain};
use burn::Tensor;
use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::tensor::DType;
use gabion_kernels::{Lars, Linear, Products, alloc};

/// The moved parameter and the moved velocity, all flat.
pub(in super::super) fn lars(
    rule: &Lars,
    parameter: Tensor<1>,
    gradient: Tensor<1>,
    velocity: Option<Tensor<1>>,
) -> [Tensor<1>; 2] {
    let gradient = plain(gradient).to_contiguous();
    let gradient = gradient.as_slice::<f32>().expect("made contiguous");
    stepped(parameter, velocity, |p, v| gabion_kernels::lars(rule, p, gradient, v))
}

/// Parameter and velocity, which starts at 0, as `step` moves their values.
fn stepped(
    parameter: Tensor<1>,
    velocity: Option<Tensor<1>>,
    step: impl FnOnce(&mut [f32], &mut [f32]),
) -> [Tensor<1>; 2] {
    let mut parameter = plain(parameter).to_contiguous();
    let mut velocity = match velocity {
        Some(velocity) => plain(velocity).to_contiguous(),
        // Not Burn's zeros, which are there twice for a moment.
        None => flat(vec![0.0; parameter.layout().shape().num_elements()]),
    };
    step(flat_mut(&mut parameter), flat_mut(&mut velocity));
    [parameter, velocity].map(Tensor::from_primitive::<Flex>)
}

/// The gradient of a linear layer's weight as [`super::linear`] leaves it: the rows of `x`, of `dy` and a 1, each rounded
/// to bf16 where that is the arithmetic.
pub(crate) struct Factors {
    x: Vec<f32>,
    dy: Vec<f32>,
    shape: Linear,
    products: Products,
}

impl Factors {
    /// # Shapes
    /// - `left`: `[rows, in + out + 1]`
    ///
    /// # Panics
    /// For anything else, as when a weight was used twice.
    pub(in super::super) fn new(left: Tensor<2>, [outputs, inputs]: [usize; 2]) -> Self {
        let [rows, columns] = left.dims();
        assert_eq!(columns, inputs + outputs + 1, "columns of factors of a gradient of [{outputs}, {inputs}]");
        let products = if left.dtype() == DType::BF16 { Products::Bf16 } else { Products::F32 };
        let left = plain(left.cast(DType::F32)).to_contiguous();
        let left = left.as_slice::<f32>().expect("made contiguous");
        let (mut x, mut dy) = (Vec::with_capacity(rows * inputs), Vec::with_capacity(rows * outputs));
        for row in left.chunks_exact(columns) {
            let (of_x, of_dy) = row.split_at(inputs);
            let (of_dy, uses) = of_dy.split_at(outputs);
            assert!(uses == [1.0], "a weight whose gradient is left as factors was used {uses:?} times");
            x.extend_from_slice(of_x);
            dy.extend_from_slice(of_dy);
        }
        Self { x, dy, shape: Linear { rows, inputs, outputs }, products }
    }

    /// Multiplied out, flat.
    pub(in super::super) fn whole(self) -> Tensor<1> {
        let Self { x, dy, shape, products } = self;
        Tensor::from_primitive::<Flex>(flat(alloc::linear_weight_grad(&shape, products, &x, &dy)))
    }

    /// As [`lars`].
    pub(in super::super) fn lars(self, rule: &Lars, weight: Tensor<1>, velocity: Option<Tensor<1>>) -> [Tensor<1>; 2] {
        let Self { x, dy, shape, products } = self;
        stepped(weight, velocity, |p, v| gabion_kernels::linear_lars(&shape, products, rule, [&x, &dy], p, v))
    }
}

/// The values of a contiguous tensor, copied first when others read them.
fn flat_mut(x: &mut FlexTensor) -> &mut [f32] {
    let (start, end) = x.layout().contiguous_offsets().expect("made contiguous");
    &mut x.storage_mut::<f32>()[start..end]
}
