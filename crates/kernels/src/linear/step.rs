//! The optimizer's step of a linear layer's weight by the two factors of its gradient, which is never there as a whole: of
//! the largest parameters of a network the gradient takes as much memory as they do, its factors a few rows.

use super::product::{Depth, Operand, Packed, Panels, Product, TASK_ROWS};
use super::{Linear, linear_at, turn};
use crate::optim::{self, Move, Step};
use crate::scratch::Scratch;
use crate::{Lars, Level, Products};
use rayon::prelude::*;

/// What the products of rows may lose by cancellation before the gradient is multiplied out for its length.
const LOSS: f64 = 64.0;

/// As [`crate::lars`] with the gradient of [`super::linear_weight_grad`].
///
/// # Shapes
/// - `x`: `[rows, inputs]`
/// - `dy`: `[rows, outputs]`
/// - `weight`, `velocity`: `[outputs, inputs]`, moved
///
/// # Panics
/// When a slice's length is not that of its shape.
pub fn linear_lars(
    linear: &Linear,
    products: Products,
    rule: &Lars,
    [x, dy]: [&[f32]; 2],
    weight: &mut [f32],
    velocity: &mut [f32],
) {
    linear_lars_at(Level::current(), linear, products, rule, [x, dy], weight, velocity);
}

pub(super) fn linear_lars_at(
    level: Level,
    linear: &Linear,
    products: Products,
    rule: &Lars,
    [x, dy]: [&[f32]; 2],
    weight: &mut [f32],
    velocity: &mut [f32],
) {
    linear.check(x.len(), weight.len(), dy.len());
    assert_eq!(velocity.len(), weight.len(), "values of the velocity (left), of the weight (right)");
    let &Linear { rows, inputs, outputs } = linear;
    if rows == 0 {
        return optim::lars(rule, weight, &vec![0.0; weight.len()], velocity);
    }
    let depth = Depth { steps: rows, bf16: products == Products::Bf16 };
    let mut turned = Scratch::of(dy.len());
    turn(rows, outputs, dy, turned.as_mut_slice());
    let panels = Panels::new(level, depth, x, inputs);
    let gradient = Gradient { level, depth, dy: turned.as_slice(), x: panels.borrowed(), inputs };
    let length = || match length_by_rows(level, linear, products, x, dy) {
        Some(length) => length,
        None => gradient.length(outputs),
    };
    let step = Step::new(rule, || optim::norm(level, weight), length);
    let tasks = weight.par_chunks_mut(TASK_ROWS * inputs).zip(velocity.par_chunks_mut(TASK_ROWS * inputs));
    tasks.enumerate().for_each(|(task, (p, v))| {
        let g = gradient.rows(task, p.len());
        level.run(Move { step, p, g: g.as_slice(), v });
    });
}

/// A gradient that is multiplied out some rows at a time.
struct Gradient<'a> {
    level: Level,
    depth: Depth,
    /// `[outputs, rows]`.
    dy: &'a [f32],
    x: Packed<'a>,
    inputs: usize,
}

impl Gradient<'_> {
    /// `count` values of the rows of a task.
    fn rows(&self, task: usize, count: usize) -> Scratch {
        let Self { level, depth, dy, x, inputs } = *self;
        let mut values = Scratch::of(count);
        let a = &dy[task * TASK_ROWS * depth.steps..][..count / inputs * depth.steps];
        let c = values.as_mut_slice();
        depth.run(level, Product { depth, a, pitch: depth.steps, b: Operand::Packed(x), columns: inputs, c });
        values
    }

    fn length(&self, outputs: usize) -> f32 {
        let rows: Vec<usize> = (0..outputs).step_by(TASK_ROWS).collect();
        let task = |(task, row): (usize, &usize)| {
            let values = self.rows(task, TASK_ROWS.min(outputs - row) * self.inputs);
            let rows = values.as_slice().chunks(self.inputs);
            rows.map(|row| f64::from(optim::squares(self.level, row))).sum::<f64>()
        };
        let parts: Vec<f64> = rows.par_iter().enumerate().map(task).collect();
        parts.iter().sum::<f64>().sqrt() as f32
    }
}

/// `|dy^T x|`, whose square is the sum over two rows `i` and `j` of `(x_i . x_j) (dy_i . dy_j)`: few products where rows are
/// few. None where so much of it cancels that the rounding shows.
fn length_by_rows(level: Level, linear: &Linear, products: Products, x: &[f32], dy: &[f32]) -> Option<f32> {
    let rows = linear.rows;
    let with_itself = |values: &[f32]| {
        let mut all = Scratch::of(rows * rows);
        let shape = Linear { rows, inputs: values.len() / rows, outputs: rows };
        linear_at(level, &shape, products, values, values, all.as_mut_slice());
        all
    };
    let (of_x, of_dy) = (with_itself(x), with_itself(dy));
    let (mut sum, mut magnitude) = (0.0, 0.0);
    for (x, dy) in of_x.as_slice().iter().zip(of_dy.as_slice()) {
        let product = f64::from(*x) * f64::from(*dy);
        sum += product;
        magnitude += product.abs();
    }
    (sum * LOSS >= magnitude).then(|| sum.sqrt() as f32)
}
