//! Linear layers with the weight in torch's layout, `y = x weight^T`, and their gradients.
//!
//! All three are the product of two row-major matrices, `C[m, n] = sum over d of A[m, d] B[d, n]`, the weight being one of
//! the three and read or written once, as it lies:
//!
//! | pass | `A` | `B` | `C` |
//! |---|---|---|---|
//! | forward | weight | `x` turned | `y` turned |
//! | input gradient | `dy` | weight | `dx` |
//! | weight gradient | `dy` turned | `x` | `dweight` |

mod product;
mod step;

pub use step::linear_lars;

use crate::scratch::Scratch;
use crate::{Level, Products};
use product::{Depth, Operand, Panels, Product, TASK_COLUMNS, TASK_ROWS};
use rayon::prelude::*;

/// The shape of what torch calls `Linear(inputs, outputs, bias=False)`, applied to some rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linear {
    /// Rows of `x` and of `y`.
    pub rows: usize,
    /// Values of a row of `x`.
    pub inputs: usize,
    /// Values of a row of `y`.
    pub outputs: usize,
}

impl Linear {
    /// Multiplications and additions of one pass (forward, input or weight gradient).
    pub fn flops(&self) -> usize {
        2 * self.rows * self.inputs * self.outputs
    }

    fn check(&self, x: usize, weight: usize, y: usize) {
        let Self { rows, inputs, outputs } = *self;
        assert!(inputs > 0 && outputs > 0, "a size of {self:?} is zero");
        assert_eq!(x, rows * inputs, "input values: given (left), wanted by {self:?} (right)");
        assert_eq!(weight, outputs * inputs, "weights: given (left), wanted by {self:?} (right)");
        assert_eq!(y, rows * outputs, "output values: given (left), wanted by {self:?} (right)");
    }
}

/// `y = x weight^T`.
///
/// # Shapes
/// - `x`: `[rows, inputs]`
/// - `weight`: `[outputs, inputs]`
/// - `y`: `[rows, outputs]`, overwritten
///
/// # Panics
/// When a slice's length is not that of its shape.
pub fn linear(linear: &Linear, products: Products, x: &[f32], weight: &[f32], y: &mut [f32]) {
    linear_at(Level::current(), linear, products, x, weight, y);
}

/// The gradient of a loss with respect to the input of [`linear`], given `dy`, its gradient with respect to the output.
///
/// # Shapes
/// - `dy`: `[rows, outputs]`
/// - `weight`: `[outputs, inputs]`
/// - `dx`: `[rows, inputs]`, overwritten
///
/// # Panics
/// When a slice's length is not that of its shape.
pub fn linear_input_grad(linear: &Linear, products: Products, dy: &[f32], weight: &[f32], dx: &mut [f32]) {
    linear_input_grad_at(Level::current(), linear, products, dy, weight, dx);
}

/// The gradient of a loss with respect to the weight of [`linear`], summed over the rows.
///
/// # Shapes
/// - `x`: `[rows, inputs]`
/// - `dy`: `[rows, outputs]`
/// - `dweight`: `[outputs, inputs]`, overwritten
///
/// # Panics
/// When a slice's length is not that of its shape.
pub fn linear_weight_grad(linear: &Linear, products: Products, x: &[f32], dy: &[f32], dweight: &mut [f32]) {
    linear_weight_grad_at(Level::current(), linear, products, x, dy, dweight);
}

fn linear_at(level: Level, linear: &Linear, products: Products, x: &[f32], weight: &[f32], y: &mut [f32]) {
    linear.check(x.len(), weight.len(), y.len());
    let &Linear { rows, inputs, outputs } = linear;
    if rows == 0 {
        return;
    }
    let depth = Depth { steps: inputs, bf16: products == Products::Bf16 };
    let (mut turned, mut out) = (Scratch::of(x.len()), Scratch::of(y.len()));
    turn(rows, inputs, x, turned.as_mut_slice());
    let panels = Panels::new(level, depth, turned.as_slice(), rows);
    let panels = panels.borrowed();
    out.as_mut_slice().par_chunks_mut(TASK_ROWS * rows).zip(weight.par_chunks(TASK_ROWS * inputs)).for_each(
        |(c, a)| depth.run(level, Product { depth, a, pitch: inputs, b: Operand::Packed(panels), columns: rows, c }),
    );
    turn(outputs, rows, out.as_slice(), y);
}

fn linear_input_grad_at(level: Level, linear: &Linear, products: Products, dy: &[f32], weight: &[f32], dx: &mut [f32]) {
    linear.check(dx.len(), weight.len(), dy.len());
    let &Linear { rows, inputs, outputs } = linear;
    if rows == 0 {
        return;
    }
    let depth = Depth { steps: outputs, bf16: products == Products::Bf16 };
    let mut out = Scratch::of(dx.len());
    out.as_mut_slice().par_chunks_mut(TASK_COLUMNS * rows).enumerate().for_each(|(task, c)| {
        let b = Operand::Weight { values: weight, pitch: inputs, first: task * TASK_COLUMNS };
        depth.run(level, Product { depth, a: dy, pitch: outputs, b, columns: c.len() / rows, c });
    });
    let out = out.as_slice();
    dx.par_chunks_mut(inputs).enumerate().for_each(|(row, dx)| {
        for (dx, block) in dx.chunks_mut(TASK_COLUMNS).zip(out.chunks(TASK_COLUMNS * rows)) {
            dx.copy_from_slice(&block[row * dx.len()..][..dx.len()]);
        }
    });
}

fn linear_weight_grad_at(level: Level, linear: &Linear, products: Products, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    linear.check(x.len(), dw.len(), dy.len());
    let &Linear { rows, inputs, outputs } = linear;
    if rows == 0 {
        return dw.fill(0.0);
    }
    let depth = Depth { steps: rows, bf16: products == Products::Bf16 };
    let mut turned = Scratch::of(dy.len());
    turn(rows, outputs, dy, turned.as_mut_slice());
    let panels = Panels::new(level, depth, x, inputs);
    let panels = panels.borrowed();
    dw.par_chunks_mut(TASK_ROWS * inputs).zip(turned.as_slice().par_chunks(TASK_ROWS * rows)).for_each(|(c, a)| {
        depth.run(level, Product { depth, a, pitch: rows, b: Operand::Packed(panels), columns: inputs, c });
    });
}

/// `[rows, columns]` to `[columns, rows]`.
fn turn(rows: usize, columns: usize, from: &[f32], to: &mut [f32]) {
    const TOGETHER: usize = 16;
    to.par_chunks_mut(TOGETHER * rows).enumerate().for_each(|(piece, to)| {
        for (row, from) in from.chunks_exact(columns).enumerate() {
            for (to, from) in to[row..].iter_mut().step_by(rows).zip(&from[piece * TOGETHER..]) {
                *to = *from;
            }
        }
    });
}

#[cfg(test)]
mod tests;
