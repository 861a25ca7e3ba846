//! One minibatch of training under each threat model. The loss is a function, so EMP-SSL and SimCLR share these loops.

use crate::attack::Ball;
use crate::encoder::Model;
use crate::loss::Loss;
use crate::nn::Mode;
use crate::optim::{self, Average, Lars, WeightGradients};
use burn::Tensor;
use burn::tensor::Gradients;
use gabion_spec as spec;

/// What training moves.
#[derive(Clone, Debug)]
pub struct State {
    /// The network, on an autodiff device.
    pub model: Model,
    /// Its optimizer.
    pub optim: Lars,
    /// The running average of its weights, where the recipe wants one.
    pub average: Option<Average>,
    /// The carried perturbation of free adversarial training, without a graph.
    pub delta: Option<Tensor<4>>,
}

/// The loss of a model on views.
pub type Objective<'a> = dyn Fn(&Model, Tensor<4>, Mode) -> Loss + 'a;

/// The objective of a recipe as a function of model and views `[views * batch, 3, height, width]`, view-major.
pub fn objective(loss: spec::Loss, views: usize) -> impl Fn(&Model, Tensor<4>, Mode) -> Loss {
    move |model, x, mode| crate::loss::objective(&loss, model.forward(x, mode).projection, views)
}

/// Leading views that stay clean under attack: SimCLR compares a perturbed view with a clean one.
pub fn clean_views(loss: &spec::Loss) -> usize {
    match loss {
        spec::Loss::EmpSsl { .. } => 0,
        spec::Loss::SimClr { .. } => 1,
    }
}

/// The views of one minibatch.
#[derive(Clone)]
pub struct Minibatch {
    /// `[views * batch, 3, height, width]` in `[0, 1]`, view-major, without a graph.
    pub x: Tensor<4>,
    /// Leading rows that stay clean under attack.
    pub clean: usize,
}

impl Minibatch {
    /// The rows that may be perturbed.
    fn attacked(&self) -> Tensor<4> {
        let rows = self.x.dims()[0];
        if self.clean == 0 { self.x.clone() } else { self.x.clone().narrow(0, self.clean, rows - self.clean) }
    }

    /// The views on the autodiff device, perturbed where they may be.
    fn perturbed(&self, delta: Tensor<4>) -> Tensor<4> {
        let attacked = Tensor::from_inner(self.attacked()) + delta;
        if self.clean == 0 {
            return attacked;
        }
        Tensor::cat(vec![Tensor::from_inner(self.x.clone().narrow(0, 0, self.clean)), attacked], 0)
    }
}

impl State {
    fn descend(&mut self, grads: &mut Gradients, rate: f64) {
        self.model = self.optim.step(rate, optim::take(&mut self.model), grads);
        if let Some(average) = &mut self.average {
            average.update(&self.model);
        }
    }
}

/// One step on clean views.
pub fn standard(state: &mut State, loss: &Objective<'_>, batch: &Minibatch, rate: f64) -> Loss {
    let value = loss(&state.model, Tensor::from_inner(batch.x.clone()), Mode::Train);
    state.descend(&mut value.total.backward(), rate);
    value
}

/// PGD adversarial training: ascend the same loss from a zero start, then one step at the last perturbation.
#[derive(Clone, Copy, Debug)]
pub struct PgdAt {
    /// Where the perturbation may go.
    pub ball: Ball,
    /// Ascent step.
    pub step: f32,
    /// Ascent steps.
    pub steps: u32,
    /// Sum the attack's weight gradients into the update, as the reference code does.
    pub accumulate_attack_gradients: bool,
}

/// One minibatch of PGD adversarial training (Madry et al. 2018).
pub fn pgd_at(state: &mut State, loss: &Objective<'_>, batch: &Minibatch, rate: f64, threat: &PgdAt) -> Loss {
    let x = batch.attacked();
    let mut delta = x.zeros_like();
    let mut attack_gradients = WeightGradients::default();
    let mode = if threat.accumulate_attack_gradients { Mode::Train } else { Mode::Attack };
    for _ in 0..threat.steps {
        let leaf = Tensor::from_inner(delta.clone()).require_grad();
        let value = loss(&state.model, batch.perturbed(leaf.clone()), mode);
        let mut grads = value.total.backward();
        let gradient = leaf.grad_remove(&mut grads).expect("delta is a leaf");
        if threat.accumulate_attack_gradients {
            attack_gradients.take(&state.model, &mut grads);
        }
        delta = threat.ball.project(x.clone(), delta + gradient.sign().mul_scalar(threat.step));
    }
    let value = loss(&state.model, batch.perturbed(Tensor::from_inner(delta)), Mode::Train);
    let mut grads = value.total.backward();
    attack_gradients.give(&state.model, &mut grads);
    state.descend(&mut grads, rate);
    value
}

/// Free adversarial training: every replay's one backward pass moves the weights down and the perturbation up.
#[derive(Clone, Copy, Debug)]
pub struct FreeAt {
    /// Where the perturbation may go.
    pub ball: Ball,
    /// Ascent step.
    pub step: f32,
    /// Project the carried perturbation into the new minibatch's box before its first replay.
    pub project_first: bool,
    /// Forget the carried perturbation.
    pub reset: bool,
}

/// One minibatch of free adversarial training (Shafahi et al. 2019), replayed once for each of `rates`.
pub fn free_at(
    state: &mut State,
    loss: &Objective<'_>,
    batch: &Minibatch,
    rates: impl IntoIterator<Item = f64>,
    threat: &FreeAt,
) -> Vec<Loss> {
    let x = batch.attacked();
    let mut delta = match state.delta.take() {
        Some(carried) if !threat.reset => carried,
        _ => x.zeros_like(),
    };
    if threat.project_first {
        delta = threat.ball.project(x.clone(), delta);
    }
    let values = rates
        .into_iter()
        .map(|rate| {
            let leaf = Tensor::from_inner(delta.clone()).require_grad();
            let value = loss(&state.model, batch.perturbed(leaf.clone()), Mode::Train);
            let mut grads = value.total.backward();
            state.descend(&mut grads, rate);
            let ascent = leaf.grad_remove(&mut grads).expect("delta is a leaf").sign();
            delta = threat.ball.project(x.clone(), delta.clone() + ascent.mul_scalar(threat.step));
            value
        })
        .collect();
    state.delta = Some(delta);
    values
}

/// One minibatch under the recipe's threat model, with a rate for each replay.
pub fn minibatch(
    state: &mut State,
    loss: &Objective<'_>,
    batch: &Minibatch,
    threat: &spec::Threat,
    rates: &[f64],
) -> Vec<Loss> {
    match *threat {
        spec::Threat::Standard => vec![standard(state, loss, batch, rates[0])],
        spec::Threat::Pgd { epsilon, step, steps, accumulate_attack_gradients } => {
            let threat = PgdAt { ball: Ball { epsilon: epsilon.0 }, step: step.0, steps, accumulate_attack_gradients };
            vec![pgd_at(state, loss, batch, rates[0], &threat)]
        }
        spec::Threat::Free { epsilon, step, project_first, delta_reset, .. } => {
            let reset = delta_reset == spec::DeltaReset::PerBatch;
            let threat = FreeAt { ball: Ball { epsilon: epsilon.0 }, step: step.0, project_first, reset };
            free_at(state, loss, batch, rates.iter().copied(), &threat)
        }
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests;
