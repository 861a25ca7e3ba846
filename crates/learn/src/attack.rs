//! Attacks: within an L-infinity ball inside training, on the device; and on finished classifiers, image by image.
//!
//! [`pgd`] serves training and probing: it stays on the device, and waits for nothing. Everything that measures a finished
//! classifier goes through [`run`] and [`autoattack`]: state and random numbers belong to an image, so that what comes of it
//! depends on no other image; an image that has fallen costs nothing more; zero and saturated gradients and values that are
//! not finite are counted and never passed over.

mod apgd;
mod fab;
#[cfg(all(test, feature = "flex"))]
mod golden;
mod image;
mod objective;
mod region;
mod run;
mod square;
mod steps;
mod victim;

pub use image::{Found, Image, Passes};
pub use objective::first_of_greatest;
pub use region::Region;
pub use run::{Campaign, autoattack, notes, run};
pub use victim::{Classifier, FRESH, Gradient, Network, Pass};

use crate::init::Stream;
use crate::loss::cross_entropy;
use burn::Tensor;
use burn::tensor::{Device, Int, TensorData};

/// An L-infinity ball intersected with the box of valid pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ball {
    /// Radius in units of the pixel range.
    pub epsilon: f32,
}

impl Ball {
    /// The nearest perturbation of `x` that is within the radius and keeps every pixel in `[0, 1]`.
    pub fn project<const D: usize>(&self, x: Tensor<D>, delta: Tensor<D>) -> Tensor<D> {
        let delta = delta.clamp(-self.epsilon, self.epsilon);
        (x.clone() + delta).clamp(0.0, 1.0) - x
    }
}

/// Projected gradient descent (Madry et al. 2018) with the sign of the gradient.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pgd {
    /// Where it may go.
    pub ball: Ball,
    /// Length of a step in units of the pixel range.
    pub step: f32,
    /// Number of steps.
    pub steps: u32,
}

/// Attacks a classifier's cross-entropy and returns for each image the iterate of the greatest loss, the start
/// included: an attack that never lowers its own loss. What happens to an image does not depend on its batch.
///
/// # Shapes
/// - `classify`: images `[batch, 3, height, width]` on an autodiff device to logits `[batch, classes]`
/// - `x`, `start` (a perturbation within the ball), output: `[batch, 3, height, width]`, without a graph
/// - `labels`: `[batch]`
pub fn pgd(
    classify: impl Fn(Tensor<4>) -> Tensor<2>,
    x: Tensor<4>,
    labels: Tensor<1, Int>,
    start: Tensor<4>,
    attack: &Pgd,
) -> Tensor<4> {
    let device = x.device().autodiff();
    let x = x.inner();
    let batch = x.dims()[0];
    let mut delta = attack.ball.project(x.clone(), start.inner());
    let mut best = delta.clone();
    let mut best_loss = Tensor::<1>::full([batch], f32::NEG_INFINITY, &x.device());
    let (x_graph, labels) = (Tensor::from_inner(x.clone()), labels.to_device(&device));
    for step in 0..=attack.steps {
        let leaf = Tensor::from_inner(delta.clone()).require_grad();
        let losses = cross_entropy(classify(x_graph.clone() + leaf.clone()), labels.clone());
        let now = losses.clone().inner();
        let better = now.clone().greater(best_loss.clone());
        best_loss = best_loss.mask_where(better.clone(), now);
        best = best.mask_where(better.reshape([batch, 1, 1, 1]).expand(delta.dims()), delta.clone());
        if step < attack.steps {
            let gradient = leaf.grad_remove(&mut losses.sum().backward()).expect("the perturbation is a leaf");
            delta = attack.ball.project(x.clone(), delta + gradient.sign().mul_scalar(attack.step));
        }
    }
    x + best
}

/// Uniform random perturbations, one stream an image, so that a start does not depend on how images were batched.
///
/// # Shapes
/// - output: `[images.len(), 3, height, width]` within `[-epsilon, epsilon]`
#[allow(clippy::cast_possible_truncation)]
pub fn random_start(
    seed: u64,
    restart: u32,
    images: &[usize],
    [height, width]: [usize; 2],
    ball: Ball,
    device: &Device,
) -> Tensor<4> {
    let values: Vec<f32> = images
        .iter()
        .flat_map(|image| {
            let mut stream = Stream::new(seed, &format!("start.{restart}.{image}"));
            (0..3 * height * width)
                .map(move |_| (2.0 * stream.uniform() - 1.0) as f32 * ball.epsilon)
                .collect::<Vec<_>>()
        })
        .collect();
    Tensor::from_data(TensorData::new(values, [images.len(), 3, height, width]), device)
}
