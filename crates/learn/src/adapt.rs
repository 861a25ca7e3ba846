//! Adaptation of a finished classifier: free adversarial training (Shafahi et al. 2019) of its head, of its last block
//! or of all of it, on a device whose memory is short.
//!
//! What is frozen runs without gradients of its weights while the gradient of the pixels goes through it, for the
//! perturbation lives there. A minibatch that does not fit into memory goes through in parts whose gradients are summed.
//! Cross-entropy is a mean over images; the coding rate of EMP-SSL is not one, so its gradient with respect to all
//! embeddings is taken first and carried through each part (Gao et al. 2021, <https://arxiv.org/abs/2101.06983>). At
//! running statistics both are exact.

use crate::attack::Ball;
use crate::finetune::Classifier;
use crate::loss::{cross_entropy, objective};
use crate::nn::{BATCH_NORM_MOMENTUM, Mode};
use crate::optim::{Lars, Sgd, WeightGradients};
use crate::weights::{flat, replace, tensor_of};
use burn::Tensor;
use burn::module::Module;
use burn::tensor::{Gradients, Int, TensorData};
use gabion_spec::{Descent, LocalObjective, Loss, Scope, Statistics};
use std::collections::BTreeMap;
use std::ops::Range;

/// How each part of a classifier is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Modes {
    /// The encoder below its last block.
    pub trunk: Mode,
    /// The last block and the projector.
    pub top: Mode,
    /// The head.
    pub head: Mode,
}

impl Modes {
    /// Nothing moves; gradients reach the pixels.
    pub const FROZEN: Self = Self { trunk: Mode::Frozen, top: Mode::Frozen, head: Mode::Frozen };

    /// What a scope moves is trained, the rest frozen.
    pub fn of(scope: Scope, statistics: Statistics) -> Self {
        let moving = if statistics == Statistics::Train { Mode::Train } else { Mode::Eval };
        let when = |moves| if moves { moving } else { Mode::Frozen };
        Self { trunk: when(scope == Scope::All), top: when(scope != Scope::Head), head: Mode::Train }
    }
}

/// What adaptation moves.
#[derive(Clone, Debug)]
pub struct State {
    /// On an autodiff device.
    pub classifier: Classifier,
    /// Its optimizer.
    pub optim: Optimizer,
    /// The carried perturbation `[rows, 3, height, width]`, without a graph.
    pub delta: Option<Tensor<4>>,
}

/// How the weights move.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // as in a recipe
pub enum Optimizer {
    Sgd(Sgd),
    Lars(Lars),
}

impl Optimizer {
    /// An optimizer at rest.
    pub fn new(descent: Descent) -> Self {
        match descent {
            Descent::Sgd { momentum, weight_decay } => Self::Sgd(Sgd::new(momentum, weight_decay)),
            Descent::Lars { momentum, weight_decay, trust_coefficient } => {
                let config = gabion_spec::Optimizer { momentum, weight_decay, trust_coefficient, ..Default::default() };
                Self::Lars(Lars::new(config))
            }
        }
    }

    fn step(&mut self, rate: f64, classifier: Classifier, grads: &mut Gradients) -> Classifier {
        match self {
            Self::Sgd(sgd) => sgd.step(rate, classifier, grads),
            Self::Lars(lars) => lars.step(rate, classifier, grads),
        }
    }
}

/// One minibatch, without a graph.
#[derive(Clone)]
pub struct Minibatch {
    /// What goes in.
    pub x: Input,
    /// What the outputs are compared with.
    pub targets: Targets,
    /// Source features in the head's loss.
    pub rehearsal: Option<Rehearsal>,
}

/// What goes into a classifier.
#[derive(Clone)]
pub enum Input {
    /// `[rows, 3, height, width]` in `[0, 1]`.
    Images(Tensor<4>),
    /// `[rows, hidden]`, where head alone moves and nothing perturbs the images.
    Features(Tensor<2>),
}

/// What outputs are compared with.
#[derive(Clone)]
#[allow(clippy::large_enum_variant)] // one a minibatch
pub enum Targets {
    /// `[rows]`, for cross-entropy of the logits.
    Labels(Tensor<1, Int>),
    /// Rows are views, view-major, of images without labels: EMP-SSL of the embeddings.
    Views(LocalObjective),
}

/// Features of images that the classifier was made from.
#[derive(Clone)]
pub struct Rehearsal {
    /// `[n, hidden]`.
    pub feature: Tensor<2>,
    /// `[n]`.
    pub labels: Tensor<1, Int>,
    /// Of the loss.
    pub share: f64,
}

/// How a replay perturbs its minibatch and cuts it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Replay {
    /// Where the perturbation may go.
    pub ball: Ball,
    /// Ascent step.
    pub step: f32,
    /// Most rows that go through the network at once.
    pub rows: usize,
    /// What is trained.
    pub modes: Modes,
}

/// One replay: one backward pass moves the weights down and the perturbation up. Returns the loss, `[1]`, before it.
pub fn replay(state: &mut State, recipe: &Replay, batch: &Minibatch, rate: f64) -> Tensor<1> {
    let mut gradients = WeightGradients::default();
    let share = batch.rehearsal.as_ref().map_or(0.0, |rehearsal| rehearsal.share);
    let pull = Pull::of(state, recipe, batch);
    let (mut total, mut last, mut ascended) = (None, None, Vec::new());
    for rows in parts(batch.rows(), recipe.rows) {
        let (x, leaf) = perturbed(state, recipe, batch, rows.clone());
        let out = outputs(&state.classifier, recipe.modes, x, &batch.targets);
        let loss = pull.loss(out, batch, rows.clone());
        let mut grads = loss.clone().mul_scalar(1.0 - share).backward();
        gradients.take(&state.classifier, &mut grads);
        if let Some((x, delta, leaf)) = leaf {
            let ascent = leaf.grad_remove(&mut grads).expect("the perturbation is a leaf").sign();
            ascended.push(recipe.ball.project(x, delta + ascent.mul_scalar(recipe.step)));
        }
        total = sum(total, loss.inner().mul_scalar(1.0 - share));
        last = Some(grads);
    }
    if let Some(rehearsal) = &batch.rehearsal {
        let loss = rehearse(&state.classifier, rehearsal).mul_scalar(share);
        let mut grads = loss.clone().backward();
        gradients.take(&state.classifier, &mut grads);
        total = sum(total, loss.inner());
    }
    let mut grads = last.expect("a minibatch has a row");
    gradients.give(&state.classifier, &mut grads);
    state.classifier = state.optim.step(rate, state.classifier.clone(), &mut grads);
    state.delta = (!ascended.is_empty()).then(|| Tensor::cat(ascended, 0));
    pull.value.or(total).expect("a minibatch has a row")
}

impl Minibatch {
    fn rows(&self) -> usize {
        match &self.x {
            Input::Images(x) => x.dims()[0],
            Input::Features(feature) => feature.dims()[0],
        }
    }
}

/// The rows of a minibatch in parts of at most `most`, as even as can be.
pub fn parts(rows: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    let count = rows.div_ceil(most.max(1)).max(1);
    (0..count).map(move |part| part * rows / count..(part + 1) * rows / count)
}

fn sum(total: Option<Tensor<1>>, loss: Tensor<1>) -> Option<Tensor<1>> {
    Some(match total {
        Some(total) => total + loss,
        None => loss,
    })
}

/// A part of the input as it goes into a network.
enum Part {
    /// In the graph, or on a plain device with a plain network.
    Images(Tensor<4>),
    /// Without a graph, that nothing perturbs.
    Still(Tensor<4>),
    Features(Tensor<2>),
}

/// What moves a perturbation: the images, the perturbation before, and its leaf in the graph.
type Leaf = (Tensor<4>, Tensor<4>, Tensor<4>);

/// Some rows of images and the perturbation that is carried to them, without a graph; none where none is allowed.
fn carried(state: &State, recipe: &Replay, x: &Tensor<4>, rows: Range<usize>) -> (Tensor<4>, Option<Tensor<4>>) {
    let x = x.clone().narrow(0, rows.start, rows.len());
    if recipe.ball.epsilon == 0.0 {
        return (x, None);
    }
    let delta = match &state.delta {
        // Carried by position into images whose box it may leave.
        Some(carried) => recipe.ball.project(x.clone(), carried.clone().narrow(0, rows.start, rows.len())),
        None => x.zeros_like(),
    };
    (x, Some(delta))
}

/// A part of the minibatch at the carried perturbation; without a graph where none is allowed.
fn perturbed(state: &State, recipe: &Replay, batch: &Minibatch, rows: Range<usize>) -> (Part, Option<Leaf>) {
    let x = match &batch.x {
        Input::Features(feature) => {
            let feature = feature.clone().narrow(0, rows.start, rows.len());
            return (Part::Features(Tensor::from_inner(feature)), None);
        }
        Input::Images(x) => x,
    };
    let (x, Some(delta)) = carried(state, recipe, x, rows.clone()) else {
        return (Part::Still(x.clone().narrow(0, rows.start, rows.len())), None);
    };
    let leaf = Tensor::from_inner(delta.clone()).require_grad();
    (Part::Images(Tensor::from_inner(x.clone()) + leaf.clone()), Some((x, delta, leaf)))
}

/// Logits, or embeddings.
fn outputs(classifier: &Classifier, modes: Modes, x: Part, targets: &Targets) -> Tensor<2> {
    let Classifier { model, head } = classifier;
    let feature = match x {
        Part::Images(x) => model.feature_of(model.trunk(x, modes.trunk), modes.top),
        // What is frozen below keeps nothing for a backward pass that does not reach it.
        Part::Still(x) if modes.trunk == Mode::Frozen => {
            let trunk = Tensor::from_inner(model.valid().trunk(x, Mode::Frozen));
            model.feature_of(trunk, modes.top)
        }
        Part::Still(x) => model.feature_of(model.trunk(Tensor::from_inner(x), modes.trunk), modes.top),
        Part::Features(feature) => feature,
    };
    match targets {
        Targets::Labels(_) => head.forward(feature, modes.head),
        Targets::Views(_) => model.project(feature, modes.top),
    }
}

/// What a loss of a whole minibatch asks of one part's outputs.
struct Pull {
    /// The gradient with respect to all embeddings, and
    slope: Option<Tensor<2>>,
    /// the loss, where parts have to know it first.
    value: Option<Tensor<1>>,
}

impl Pull {
    fn of(state: &State, recipe: &Replay, batch: &Minibatch) -> Self {
        let Targets::Views(local) = &batch.targets else { return Self { slope: None, value: None } };
        if batch.rows() <= recipe.rows {
            return Self { slope: None, value: None };
        }
        assert!(
            !recipe.modes.top.uses_batch_statistics() && !recipe.modes.trunk.uses_batch_statistics(),
            "statistics of a batch are not those of its parts"
        );
        let Input::Images(x) = &batch.x else { panic!("views are images") };
        // Without autodiff: a graph that no backward pass follows would keep what it computed.
        let plain = state.classifier.valid();
        let embeddings = parts(batch.rows(), recipe.rows).map(|rows| {
            let (x, delta) = carried(state, recipe, x, rows);
            let x = match delta {
                Some(delta) => x + delta,
                None => x,
            };
            outputs(&plain, Modes::FROZEN, Part::Images(x), &batch.targets)
        });
        let leaf = Tensor::from_inner(Tensor::cat(embeddings.collect(), 0)).require_grad();
        let loss = emp_ssl(*local, leaf.clone());
        let slope = leaf.grad_remove(&mut loss.clone().backward()).expect("the embeddings are a leaf");
        Self { slope: Some(slope), value: Some(loss.inner()) }
    }

    /// A loss whose gradient is this part's share of the minibatch's.
    #[allow(clippy::cast_precision_loss)] // rows are few
    fn loss(&self, out: Tensor<2>, batch: &Minibatch, rows: Range<usize>) -> Tensor<1> {
        match (&batch.targets, &self.slope) {
            (Targets::Labels(labels), _) => {
                let labels = labels.clone().narrow(0, rows.start, rows.len()).to_device(&out.device());
                cross_entropy(out, labels).sum().div_scalar(batch.rows() as f64)
            }
            (Targets::Views(local), None) => emp_ssl(*local, out),
            (Targets::Views(_), Some(slope)) => {
                (out * Tensor::from_inner(slope.clone().narrow(0, rows.start, rows.len()))).sum()
            }
        }
    }
}

fn emp_ssl(local: LocalObjective, embeddings: Tensor<2>) -> Tensor<1> {
    let LocalObjective::EmpSsl { views, invariance_weight, tcr_weight, distortion } = local else {
        panic!("{local:?} compares no views");
    };
    let loss = Loss::EmpSsl { invariance_weight, tcr_weight, distortion };
    objective(&loss, embeddings, views as usize).total
}

fn rehearse(classifier: &Classifier, rehearsal: &Rehearsal) -> Tensor<1> {
    let feature = Tensor::from_inner(rehearsal.feature.clone());
    let labels = rehearsal.labels.clone().to_device(&feature.device());
    cross_entropy(classifier.head.forward(feature, Mode::Train), labels).mean()
}

/// Loss of clean rows as a recipe's objective has it, without a graph or gradients; `classifier` lies on a plain device.
pub fn clean_loss(classifier: &Classifier, x: Tensor<4>, targets: &Targets) -> Tensor<1> {
    let out = outputs(classifier, Modes::FROZEN, Part::Images(x), targets);
    match targets {
        Targets::Labels(labels) => cross_entropy(out, labels.clone()).mean(),
        Targets::Views(local) => emp_ssl(*local, out),
    }
}

/// `classifier` with batch normalisation's running statistics moved by `share` towards the mean of the statistics of
/// these batches, each of which is normalised by its own. The classifier lies on a plain device.
///
/// # Shapes
/// - each of `batches`: `[rows, 3, height, width]` in `[0, 1]`, of 2 rows or more
pub fn re_estimate(classifier: Classifier, batches: impl IntoIterator<Item = Tensor<4>>, share: f64) -> Classifier {
    let running = |name: &str| name.ends_with(".running_mean") || name.ends_with(".running_var");
    // From statistics of 0 a pass leaves the momentum's share of the batch's.
    let empty = replace(classifier.clone(), |name, shape| {
        running(name).then(|| TensorData::new(vec![0.0f32; shape[0]], [shape[0]]))
    });
    let mut sums: BTreeMap<String, Tensor<1>> = BTreeMap::new();
    let mut count = 0.0;
    for x in batches {
        let once = empty.clone();
        let _ = once.model.forward(x, Mode::Train);
        for (name, tensor) in flat(&once).into_iter().filter(|(name, _)| running(name)) {
            let found = tensor.div_scalar(BATCH_NORM_MOMENTUM);
            if let Some(sum) = sum(sums.remove(&name), found) {
                sums.insert(name, sum);
            }
        }
        count += 1.0;
    }
    if count == 0.0 {
        return classifier;
    }
    let old: BTreeMap<String, Tensor<1>> = flat(&classifier).into_iter().collect();
    replace(classifier, |name, shape| {
        let local = sums.get(name)?.clone().div_scalar(count);
        Some(tensor_of(&(old[name].clone().mul_scalar(1.0 - share) + local.mul_scalar(share)), shape))
    })
}

/// The weighted mean of the weights of two classifiers, with `keep` the share of the earlier one: on the line between them
/// much of what was learned is there, and much less forgotten (WiSE-FT, Wortsman et al. 2022,
/// <https://arxiv.org/abs/2109.01903>).
pub fn between(before: &Classifier, after: Classifier, keep: f64) -> Classifier {
    let old: BTreeMap<String, Tensor<1>> = flat(before).into_iter().collect();
    let new: BTreeMap<String, Tensor<1>> = flat(&after).into_iter().collect();
    replace(after, |name, shape| {
        // Of equal weights it is those, to the bit.
        let new = new[name].clone();
        Some(tensor_of(&(new.clone() + (old[name].clone() - new).mul_scalar(keep)), shape))
    })
}

#[cfg(all(test, feature = "flex"))]
mod tests;
