//! What is attacked: anything that maps images to logits, and gives gradients back to the images.
//!
//! Attacks keep their state on the host, a few thousand numbers an image: what they do to an image then depends neither
//! on the device nor on which images share a batch, and an image that has fallen costs nothing more. Images go to the
//! network and gradients come back once a pass.

use burn::Tensor;
use burn::tensor::{Device, TensorData};
use gabion_kernels::Frozen;

/// The rows of one pass, for a classifier that draws something at random.
#[derive(Clone, Copy, Debug)]
pub struct Pass<'a> {
    /// Names of the images, one a row.
    pub images: &'a [u64],
    /// Which draw: another number, another draw; the same for all rows.
    pub draw: u64,
}

/// The first of the draws that no attack sees: those that a verdict is asked of.
pub const FRESH: u64 = 1 << 40;

/// The gradient with respect to images of a loss of their logits.
#[derive(Clone, Debug)]
pub struct Gradient {
    /// `[rows, classes]`.
    pub logits: Vec<f32>,
    /// `[rows, values of an image]`.
    pub x: Vec<f32>,
}

/// Anything that maps images to logits.
///
/// # Shapes
/// Images are rows of `3 * height * width` values in `[0, 1]`, channel by channel.
pub trait Classifier {
    /// Number of classes.
    fn classes(&self) -> usize;

    /// Whether another draw gives other logits. An attack then runs to its end, and whether it fooled the classifier is
    /// asked of a draw that it has not seen.
    fn random(&self) -> bool {
        false
    }

    /// The network whose last activations are the logits, where this is one and nothing else: a search that changes a
    /// few pixels at a time may keep its activations.
    fn network(&self) -> Option<&Frozen> {
        None
    }

    /// Why passes have had no numbers, which are not finite then; asked once.
    fn failed(&self) -> Option<String> {
        None
    }

    /// Logits `[rows, classes]`.
    fn logits(&self, x: &[f32], pass: Pass<'_>) -> Vec<f32>;

    /// Logits, and the gradient of `sum(logits * weights)`: `weights` gives `[rows, classes]` when told the logits.
    fn gradient(&self, x: &[f32], pass: Pass<'_>, weights: &mut dyn FnMut(&[f32]) -> Vec<f32>) -> Gradient;
}

impl<T: Classifier + ?Sized> Classifier for &T {
    fn classes(&self) -> usize {
        T::classes(self)
    }

    fn random(&self) -> bool {
        T::random(self)
    }

    fn network(&self) -> Option<&Frozen> {
        T::network(self)
    }

    fn failed(&self) -> Option<String> {
        T::failed(self)
    }

    fn logits(&self, x: &[f32], pass: Pass<'_>) -> Vec<f32> {
        T::logits(self, x, pass)
    }

    fn gradient(&self, x: &[f32], pass: Pass<'_>, weights: &mut dyn FnMut(&[f32]) -> Vec<f32>) -> Gradient {
        T::gradient(self, x, pass, weights)
    }
}

/// A function of tensors as a [`Classifier`], differentiated by Burn.
pub struct Network<F> {
    /// Images `[batch, 3, height, width]` to logits `[batch, classes]`, on the device that the images are on: an autodiff
    /// device where a gradient is wanted, else a plain one. A forward pass on an autodiff device without a backward one
    /// after it would keep what it computed.
    pub classify: F,
    /// Height and width.
    pub size: [usize; 2],
    /// Number of classes.
    pub classes: usize,
    /// Where it computes.
    pub device: Device,
}

impl<F: Fn(Tensor<4>) -> Tensor<2>> Network<F> {
    fn images(&self, x: &[f32], rows: usize) -> Tensor<4> {
        let [height, width] = self.size;
        assert!(x.len() == rows * 3 * height * width, "{} values are not {rows} images of {height}x{width}", x.len());
        let data = TensorData::new(x.to_vec(), [rows, 3, height, width]);
        Tensor::from_data(data, &self.device.clone().inner())
    }
}

impl<F: Fn(Tensor<4>) -> Tensor<2>> Classifier for Network<F> {
    fn classes(&self) -> usize {
        self.classes
    }

    fn logits(&self, x: &[f32], pass: Pass<'_>) -> Vec<f32> {
        host((self.classify)(self.images(x, pass.images.len())))
    }

    fn gradient(&self, x: &[f32], pass: Pass<'_>, weights: &mut dyn FnMut(&[f32]) -> Vec<f32>) -> Gradient {
        let rows = pass.images.len();
        let leaf = Tensor::from_inner(self.images(x, rows)).require_grad();
        let graph = (self.classify)(leaf.clone());
        let logits = host(graph.clone().inner());
        let weights = TensorData::new(weights(&logits), [rows, self.classes]);
        let weights = Tensor::from_inner(Tensor::from_data(weights, &self.device.clone().inner()));
        let mut gradients = (graph * weights).sum().backward();
        // A classifier that does not depend on its input has no gradient at all.
        let x = leaf.grad_remove(&mut gradients).map_or_else(|| vec![0.0; x.len()], host);
        Gradient { logits, x }
    }
}

fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data_as::<f32>().try_into_vec::<f32>().expect("f32 was asked for")
}

/// A network on the CPU, in which nothing of Burn takes part; its last activations are the logits.
impl Classifier for Frozen {
    fn classes(&self) -> usize {
        self.len_of(self.last())
    }

    fn network(&self) -> Option<&Frozen> {
        Some(self)
    }

    fn logits(&self, x: &[f32], pass: Pass<'_>) -> Vec<f32> {
        let mut logits = vec![0.0; pass.images.len() * self.classes()];
        self.forward(x, self.last(), &mut logits);
        logits
    }

    fn gradient(&self, x: &[f32], pass: Pass<'_>, weights: &mut dyn FnMut(&[f32]) -> Vec<f32>) -> Gradient {
        let mut logits = vec![0.0; pass.images.len() * self.classes()];
        let mut dx = vec![0.0; x.len()];
        Frozen::gradient(self, x, self.last(), weights, &mut logits, &mut dx);
        Gradient { logits, x: dx }
    }
}
