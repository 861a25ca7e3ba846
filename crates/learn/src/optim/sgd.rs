//! SGD with momentum as fine-tuning uses it.

use super::moved;
use burn::Tensor;
use burn::module::Module;
use burn::tensor::Gradients;
use std::collections::BTreeMap;

/// SGD with momentum and weight decay in torch's form (`dampening` 0, no Nesterov):
/// `v <- momentum v + (g + weight_decay p)`, `p <- p - rate v`. The decay falls on every parameter that has a gradient,
/// biases and norms included, as torch's does.
#[derive(Clone, Debug)]
pub struct Sgd {
    momentum: f64,
    weight_decay: f64,
    /// `v` by parameter name, flat.
    velocity: BTreeMap<String, Tensor<1>>,
}

impl Sgd {
    /// An optimizer at rest.
    pub fn new(momentum: f64, weight_decay: f64) -> Self {
        Self { momentum, weight_decay, velocity: BTreeMap::new() }
    }

    /// Moves every parameter of `module` that has a gradient in `grads`.
    pub fn step<M: Module>(&mut self, rate: f64, module: M, grads: &mut Gradients) -> M {
        moved(module, grads, |name, p, g, _| {
            let g = g.whole() + p.clone().mul_scalar(self.weight_decay);
            let velocity = match self.velocity.remove(name) {
                Some(velocity) => velocity.mul_scalar(self.momentum) + g,
                None => g,
            };
            let moved = p - velocity.clone().mul_scalar(rate);
            self.velocity.insert(name.to_string(), velocity);
            moved
        })
    }
}
