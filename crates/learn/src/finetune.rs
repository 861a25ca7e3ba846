//! Adversarial fine-tuning of a classifier: TRADES (Zhang et al. 2019, <https://github.com/yaodongyu/TRADES>) and plain
//! adversarial training (Madry et al. 2018), with the encoder frozen or moving.
//!
//! An example is made at running statistics and against the weights as they are; the step after it normalises by the
//! batch where the encoder moves, as the literature's code does.

use crate::attack::{Ball, Pgd, random_start};
use crate::encoder::{Head, Model};
use crate::init::Stream;
use crate::loss::{Loss, cross_entropy};
use crate::nn::Mode;
use crate::optim::Sgd;
use burn::Tensor;
use burn::module::Module;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, TensorData};
use gabion_spec::AdversarialLoss;

/// Encoder, projector and head.
#[derive(Module, Debug)]
pub struct Classifier {
    /// Encoder and projector; the projection is not used and never moves.
    pub model: Model,
    /// The classifier on the feature.
    pub head: Head,
}

impl Classifier {
    /// # Shapes
    /// - `x`: `[batch, 3, height, width]` in `[0, 1]`
    /// - output: logits `[batch, classes]`
    pub fn forward(&self, x: Tensor<4>, encoder: Mode, head: Mode) -> Tensor<2> {
        self.head.forward(self.model.feature(x, encoder), head)
    }
}

/// What of a classifier moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moves {
    /// The head; the encoder keeps its weights and its running statistics.
    Head,
    /// Everything that the logits depend on.
    All,
}

impl Moves {
    fn encoder(self) -> Mode {
        match self {
            Self::Head => Mode::Frozen,
            Self::All => Mode::Train,
        }
    }
}

/// How a classifier is fine-tuned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FineTune {
    /// What is minimised, and what the attack ascends.
    pub objective: AdversarialLoss,
    /// The attack.
    pub attack: Pgd,
    /// What moves.
    pub moves: Moves,
}

/// What fine-tuning moves.
#[derive(Clone, Debug)]
pub struct State {
    /// On an autodiff device.
    pub classifier: Classifier,
    /// Its optimizer.
    pub optim: Sgd,
}

/// Images with the perturbations that their attack starts at.
#[derive(Clone)]
pub struct Minibatch {
    /// `[batch, 3, height, width]` in `[0, 1]`, without a graph.
    pub x: Tensor<4>,
    /// `[batch]`.
    pub labels: Tensor<1, Int>,
    /// `[batch, 3, height, width]`, without a graph; see [`start`].
    pub start: Tensor<4>,
}

/// Kullback-Leibler divergence `KL(softmax(p) || softmax(q))` of each image. Gradients reach both sides.
///
/// # Shapes
/// - `p`, `q`: logits `[batch, classes]`; output: `[batch]`
pub fn divergence(p: Tensor<2>, q: Tensor<2>) -> Tensor<1> {
    let [batch, _] = p.dims();
    let (p, q) = (log_softmax(p, 1), log_softmax(q, 1));
    (p.clone().exp() * (p - q)).sum_dim(1).reshape([batch])
}

/// The loss of TRADES, `cross-entropy(clean) + beta KL(clean || attacked)`, means over the batch (equation 5 of the
/// paper). As in its code, the divergence moves the clean logits too.
///
/// # Shapes
/// - `clean`, `attacked`: logits `[batch, classes]`, `labels`: `[batch]`
pub fn trades(clean: Tensor<2>, attacked: Tensor<2>, labels: Tensor<1, Int>, beta: f64) -> Loss {
    let natural = cross_entropy(clean.clone(), labels).mean();
    let robust = divergence(clean, attacked).mean();
    Loss {
        total: natural.clone() + robust.clone().mul_scalar(beta),
        terms: vec![("natural", natural.detach()), ("divergence", robust.detach())],
    }
}

/// Deviation of the noise that TRADES starts its attack at.
const NOISE: f64 = 0.001;

/// Where the attack on each image starts: anywhere in the ball, or at normal noise of deviation 0.001 for TRADES, whose
/// divergence has no gradient at the image itself. One stream an image and epoch, whatever the batch.
///
/// # Shapes
/// - output: `[images.len(), 3, height, width]`
#[allow(clippy::cast_possible_truncation)]
pub fn start(
    objective: AdversarialLoss,
    (seed, epoch): (u64, u32),
    images: &[usize],
    [height, width]: [usize; 2],
    ball: Ball,
    device: &Device,
) -> Tensor<4> {
    match objective {
        AdversarialLoss::Plain => random_start(seed, epoch, images, [height, width], ball, device),
        AdversarialLoss::Trades { .. } => {
            let mut values = Vec::with_capacity(images.len() * 3 * height * width);
            for image in images {
                let mut stream = Stream::new(seed, &format!("noise.{epoch}.{image}"));
                values.extend((0..3 * height * width).map(|_| (NOISE * stream.normal()) as f32));
            }
            Tensor::from_data(TensorData::new(values, [images.len(), 3, height, width]), device)
        }
    }
}

/// Images that ascend the objective's inner loss from their starts: the last iterate, as in the literature's code. The
/// weights get no gradient and batch normalisation uses its running statistics, so an image's fate is its own.
///
/// # Shapes
/// - output: `[batch, 3, height, width]` in `[0, 1]`, without a graph
pub fn attacked(classifier: &Classifier, objective: AdversarialLoss, batch: &Minibatch, attack: &Pgd) -> Tensor<4> {
    let labels = batch.labels.clone().to_device(&batch.x.device().autodiff());
    let logits = |x| classifier.forward(x, Mode::Frozen, Mode::Frozen);
    match objective {
        AdversarialLoss::Plain => ascend(|x| cross_entropy(logits(x), labels.clone()), batch, attack),
        AdversarialLoss::Trades { .. } => {
            let clean = logits(Tensor::from_inner(batch.x.clone())).detach();
            ascend(|x| divergence(clean.clone(), logits(x)), batch, attack)
        }
    }
}

/// Signed gradient ascent on a loss of each image.
fn ascend(losses: impl Fn(Tensor<4>) -> Tensor<1>, batch: &Minibatch, attack: &Pgd) -> Tensor<4> {
    let x = batch.x.clone();
    let mut delta = attack.ball.project(x.clone(), batch.start.clone());
    for _ in 0..attack.steps {
        let leaf = Tensor::from_inner(delta.clone()).require_grad();
        let losses = losses(Tensor::from_inner(x.clone()) + leaf.clone());
        let ascent = leaf.grad_remove(&mut losses.sum().backward()).expect("the perturbation is a leaf").sign();
        delta = attack.ball.project(x.clone(), delta + ascent.mul_scalar(attack.step));
    }
    x + delta
}

/// The objective on images and their attacked twins.
pub fn loss(classifier: &Classifier, recipe: &FineTune, batch: &Minibatch, attacked: Tensor<4>) -> Loss {
    let labels = batch.labels.clone().to_device(&batch.x.device().autodiff());
    let logits = |x| classifier.forward(Tensor::from_inner(x), recipe.moves.encoder(), Mode::Train);
    match recipe.objective {
        AdversarialLoss::Plain => Loss { total: cross_entropy(logits(attacked), labels).mean(), terms: Vec::new() },
        // The clean half first: both move the running statistics.
        AdversarialLoss::Trades { beta } => trades(logits(batch.x.clone()), logits(attacked), labels, beta),
    }
}

/// One step of adversarial fine-tuning: attack, then descend.
pub fn step(state: &mut State, recipe: &FineTune, batch: &Minibatch, rate: f64) -> Loss {
    let attacked = attacked(&state.classifier, recipe.objective, batch, &recipe.attack);
    let value = loss(&state.classifier, recipe, batch, attacked);
    let mut grads = value.total.backward();
    state.classifier = state.optim.step(rate, state.classifier.clone(), &mut grads);
    value
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;

    fn tensor<const D: usize>(values: [[f32; 3]; 2]) -> Tensor<D> {
        Tensor::from_data(TensorData::new(values.concat(), [2, 3]), &Device::flex())
    }

    #[test]
    fn a_divergence_is_0_of_equal_logits_and_else_above() {
        let (p, q) =
            (tensor::<2>([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]), tensor::<2>([[2.0, 3.0, 4.0], [90.0, 0.0, -90.0]]));
        let found = divergence(p.clone(), q).into_data();
        let [shifted, far] = found.as_slice::<f32>().unwrap() else { panic!("{found:?}") };
        // Logits count up to a constant; a third of 0, 90 and 180 less log 3.
        assert!(shifted.abs() < 1e-6 && (far - (90.0 - 3f32.ln())).abs() < 1e-3, "{found:?}");
        assert!(divergence(p.clone(), p).into_data().iter::<f32>().all(|value| value == 0.0));
    }

    #[test]
    fn a_start_belongs_to_its_image_and_epoch() {
        let (size, ball, device) = ([4, 5], Ball { epsilon: 0.03 }, Device::flex());
        for (objective, bound) in [(AdversarialLoss::Plain, 0.03), (AdversarialLoss::TRADES, 0.006)] {
            let at = |epoch, images: &[usize]| start(objective, (7, epoch), images, size, ball, &device).into_data();
            let both = at(1, &[3, 9]);
            let both = both.as_slice::<f32>().unwrap();
            assert_eq!(at(1, &[9]).as_slice::<f32>().unwrap(), &both[60..]);
            assert_ne!(at(2, &[9]).as_slice::<f32>().unwrap(), &both[60..]);
            let largest = both.iter().fold(0f32, |most, value| most.max(value.abs()));
            assert!(bound / 4.0 < largest && largest <= bound, "{objective:?}: {largest}");
        }
    }
}
