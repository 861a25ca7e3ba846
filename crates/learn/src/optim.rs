//! SGD with Nesterov momentum under LARS in clip mode, the cosine schedule, and a running average of the weights.

mod sgd;

pub use sgd::Sgd;

use crate::ops::{self, Gradient};
use crate::weights::{Path, tensor_of};
use burn::Tensor;
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Gradients, TensorData};
use gabion_spec as spec;
use std::collections::BTreeMap;
use std::f64::consts::PI;

/// Optimizer steps until the cosine reaches 0, for `batches` minibatches in all.
pub fn schedule_length(schedule: spec::Schedule, batches: u64, replays: u32) -> u64 {
    match schedule {
        spec::Schedule::PerStepLength => batches * u64::from(replays),
        spec::Schedule::PerBatchLength => batches,
    }
}

/// The rate of the 0-based optimizer step `step`; past `length` it rises and falls with period `2 * length`.
#[allow(clippy::cast_precision_loss)]
pub fn cosine_rate(base: f64, step: u64, length: u64) -> f64 {
    base * 0.5 * (1.0 + (PI * step as f64 / length as f64).cos())
}

/// SGD with Nesterov momentum 0.9, each parameter of more than one dimension rescaled by LARS in clip mode
/// (You et al. 2017; the form of <https://github.com/kakaobrain/torchlars> that the reference code carries).
///
/// `g <- scale (g + weight_decay p)` with `scale = min(trust |p| / (|g| + weight_decay |p| + 1e-8) / rate, 1)`, so that
/// the rate is a cap. Left alone when either norm is 0. Biases and norm parameters get plain SGD without weight decay.
#[derive(Clone, Debug)]
pub struct Lars {
    config: spec::Optimizer,
    /// Momentum by parameter name, flat.
    momentum: BTreeMap<String, Tensor<1>>,
}

impl Lars {
    /// An optimizer without momentum yet.
    pub fn new(config: spec::Optimizer) -> Self {
        Self { config, momentum: BTreeMap::new() }
    }

    /// Moves every parameter of `module` that has a gradient in `grads`; on the CPU device where it lies, when nothing else
    /// holds it.
    pub fn step<M: Module>(&mut self, rate: f64, module: M, grads: &mut Gradients) -> M {
        moved(module, grads, |name, p, g, dimensions| self.moved(name, p, g, rate, dimensions))
    }

    /// The momentum by parameter name, flat, for a checkpoint.
    pub fn state(&self) -> BTreeMap<String, TensorData> {
        self.momentum.iter().map(|(name, tensor)| (name.clone(), tensor.to_data_as::<f32>())).collect()
    }

    /// Takes up the momentum of a checkpoint.
    pub fn load(&mut self, state: &BTreeMap<String, TensorData>, device: &burn::tensor::Device) {
        self.momentum =
            state.iter().map(|(name, data)| (name.clone(), Tensor::from_data(data.clone(), device))).collect();
    }

    fn moved(&mut self, name: &str, p: Tensor<1>, g: Gradient, rate: f64, dimensions: usize) -> Tensor<1> {
        let buffer = self.momentum.remove(name);
        let [moved, buffer] = ops::lars(&self.config, rate, dimensions, p, g, buffer);
        self.momentum.insert(name.to_string(), buffer);
        moved
    }
}

/// `module` with every parameter that has a gradient replaced by what `each` makes of its name, its value and its
/// gradient, and the number of its dimensions; values are flat.
fn moved<M: Module>(
    module: M,
    grads: &mut Gradients,
    each: impl FnMut(&str, Tensor<1>, Gradient, usize) -> Tensor<1>,
) -> M {
    module.map(&mut Step { each, grads, path: Path::default() })
}

struct Step<'a, F> {
    each: F,
    grads: &'a mut Gradients,
    path: Path,
}

impl<F: FnMut(&str, Tensor<1>, Gradient, usize) -> Tensor<1>> ModuleMapper for Step<'_, F> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(gradient) = param.val().grad_remove(self.grads) else { return param };
        let name = self.path.torch_name();
        param.map(|p| {
            let shape = p.shape();
            let gradient = Gradient::of(gradient, &shape);
            let moved = (self.each)(&name, p.inner().reshape([shape.num_elements()]), gradient, D);
            Tensor::from_inner(moved.reshape(shape)).require_grad()
        })
    }
}

/// Takes a module out of its place, where one with the same names and hardly a value stays: what the optimizer moves has
/// no second owner then.
pub(crate) fn take<M: Module>(module: &mut M) -> M {
    struct Hollow;
    impl ModuleMapper for Hollow {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|p| Tensor::zeros([1; D], &p.device()))
        }
    }
    let hollow = module.clone().map(&mut Hollow);
    std::mem::replace(module, hollow)
}

/// Weight gradients summed over several backward passes, by parameter name.
#[derive(Default)]
pub struct WeightGradients(BTreeMap<String, Tensor<1>>);

impl WeightGradients {
    /// Adds the gradients of `module`'s parameters and takes them out of `grads`.
    pub fn take<M: Module>(&mut self, module: &M, grads: &mut Gradients) {
        module.visit(&mut Gather {
            path: Path::default(),
            each: |name: String, gradient: Option<Tensor<1>>| {
                if let Some(gradient) = gradient {
                    let sum = match self.0.remove(&name) {
                        Some(sum) => sum + gradient,
                        None => gradient,
                    };
                    self.0.insert(name, sum);
                }
                None
            },
            grads,
        });
    }

    /// Adds the sums to the gradients of `module`'s parameters in `grads`.
    pub fn give<M: Module>(mut self, module: &M, grads: &mut Gradients) {
        if self.0.is_empty() {
            return;
        }
        module.visit(&mut Gather {
            path: Path::default(),
            each: |name: String, gradient: Option<Tensor<1>>| match (self.0.remove(&name), gradient) {
                (Some(sum), Some(gradient)) => Some(sum + gradient),
                (sum, gradient) => sum.or(gradient),
            },
            grads,
        });
    }
}

/// Takes every parameter's gradient out and puts back what `each` makes of it.
struct Gather<'a, F> {
    path: Path,
    each: F,
    grads: &'a mut Gradients,
}

impl<F: FnMut(String, Option<Tensor<1>>) -> Option<Tensor<1>>> ModuleVisitor for Gather<'_, F> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        if !value.is_require_grad() {
            return;
        }
        let shape = value.shape();
        let gradient = value.grad_remove(self.grads).map(|gradient| Gradient::of(gradient, &shape).whole());
        if let Some(gradient) = (self.each)(self.path.torch_name(), gradient) {
            value.grad_replace(self.grads, gradient.reshape(shape));
        }
    }
}

/// A running average of the weights: `average <- decay * average + (1 - decay) * weights` after each optimizer step.
#[derive(Clone, Debug)]
pub struct Average {
    decay: f64,
    tensors: BTreeMap<String, Tensor<1>>,
}

impl Average {
    /// An average that starts at the first weights that it sees.
    pub fn new(decay: f64) -> Self {
        Self { decay, tensors: BTreeMap::new() }
    }

    /// Moves towards the weights (and running statistics) of `module`.
    pub fn update<M: Module>(&mut self, module: &M) {
        let decay = self.decay;
        for (name, tensor) in crate::weights::flat(module) {
            let moved = match self.tensors.remove(&name) {
                Some(average) => average.mul_scalar(decay) + tensor.mul_scalar(1.0 - decay),
                None => tensor,
            };
            self.tensors.insert(name, moved);
        }
    }

    /// `module` with the averaged weights.
    pub fn apply<M: Module>(&self, module: M) -> M {
        crate::weights::replace(module, |name, shape| self.tensors.get(name).map(|flat| tensor_of(flat, shape)))
    }

    /// The averages by name, flat, for a checkpoint.
    pub fn state(&self) -> BTreeMap<String, TensorData> {
        self.tensors.iter().map(|(name, tensor)| (name.clone(), tensor.to_data_as::<f32>())).collect()
    }

    /// Takes up the averages of a checkpoint.
    pub fn load(&mut self, state: &BTreeMap<String, TensorData>, device: &burn::tensor::Device) {
        self.tensors =
            state.iter().map(|(name, data)| (name.clone(), Tensor::from_data(data.clone(), device))).collect();
    }
}
