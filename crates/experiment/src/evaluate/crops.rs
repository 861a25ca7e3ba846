//! The classifier over many crops, as it is used: the head on the mean feature of views of an image. Attacked in two ways.
//!
//! [`Crops`] draws fresh views in every pass and gives gradients back through crop, resize and flip to the image: the honest
//! attack, because an attacker owns the image and not the draws. [`DrawnCrops`] perturbs every view by itself as it was
//! drawn, as the reference code does: an attacker that nobody has, and whose views fit no image.

use super::subject::{Parts, Subject};
use crate::measure::{Error, Result};
use burn::Tensor;
use burn::tensor::{Device, TensorData};
use gabion_augment::{Draw, ViewId, sample};
use gabion_learn::Mode;
use gabion_learn::attack::{Classifier, Gradient, Pass};
use gabion_runtime::Pipeline;
use gabion_runtime::frozen::Frozen;
use gabion_runtime::pipeline::Source;
use std::cell::RefCell;
use std::sync::Arc;

/// Views that go through the network at once.
const TOGETHER: usize = 512;

/// From logits to the weights of a gradient: see [`Classifier::gradient`].
type Weights<'a> = &'a mut dyn FnMut(&[f32]) -> Vec<f32>;

/// What both are made of.
pub(super) struct Over {
    parts: Arc<Parts>,
    /// Views of an image.
    views: usize,
    pub(super) size: [u32; 2],
    classes: usize,
    device: Device,
    pub(super) seed: u64,
    pipeline: Pipeline,
    /// What made a pass fail; there is no number from then on.
    failed: RefCell<Option<String>>,
}

impl Over {
    /// `views` crops of an image, drawn by `seed`.
    pub(super) fn new(subject: &Subject, views: u32, seed: u64) -> Result<Self> {
        let parts = subject.parts.clone().ok_or_else(|| Error::NoViews { name: subject.name.clone() })?;
        let device = subject.device().clone();
        Ok(Self {
            parts,
            views: views as usize,
            size: [subject.input.height, subject.input.width],
            classes: subject.outputs,
            pipeline: Pipeline::cpu(device.clone()),
            device,
            seed,
            failed: RefCell::new(None),
        })
    }

    /// How crops are drawn, for people.
    pub(super) fn described(&self) -> String {
        format!("{} views of {:?}", self.views, self.parts.augment)
    }

    fn length(&self) -> usize {
        3 * (self.size[0] * self.size[1]) as usize
    }

    /// The views of a draw, image-major.
    pub(super) fn draws(&self, pass: Pass<'_>) -> Vec<Draw> {
        let narrow = |value: u64| u32::try_from(value & u64::from(u32::MAX)).expect("masked");
        // A draw is an epoch of the sampler; numbers beyond 32 bits get a seed of their own.
        let seed = self.seed ^ (pass.draw >> 32).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let one = |place: usize, image: u64, view: usize| {
            let id = ViewId { seed, epoch: narrow(pass.draw), image: narrow(image), view: narrow(view as u64) };
            Draw { image: narrow(place as u64), ..sample(&self.parts.augment, id, self.size) }
        };
        let images = pass.images.iter().enumerate();
        images
            .flat_map(|(place, &image)| (0..self.views).map(move |view| (place, image, view)))
            .map(|(place, image, view)| one(place, image, view))
            .collect()
    }

    /// Logits of images from their views `[rows * views, 3, height, width]`, image-major.
    fn classify(&self, views: Tensor<4>) -> Tensor<2> {
        let [rows, ..] = views.dims();
        let Parts { plain, graph, .. } = &*self.parts;
        let (model, head) = if views.device().is_autodiff() { graph } else { plain };
        let feature = model.feature(views, Mode::Frozen);
        let [_, length] = feature.dims();
        let mean = feature.reshape([rows / self.views, self.views, length]).mean_dim(1);
        head.forward(mean.reshape([rows / self.views, length]), Mode::Frozen)
    }

    /// Logits, and where `weights` are given the gradient with respect to the views.
    fn back(&self, views: Tensor<4>, weights: Option<Weights<'_>>) -> (Vec<f32>, Option<Tensor<4>>) {
        if let Some(frozen) = &self.parts.frozen {
            return self.back_on_cpu(frozen, views, weights);
        }
        let Some(weights) = weights else { return (host(self.classify(views)), None) };
        let leaf = Tensor::from_inner(views).require_grad();
        let graph = self.classify(leaf.clone());
        let logits = host(graph.clone().inner());
        let data = TensorData::new(weights(&logits), graph.dims());
        let weights = Tensor::from_inner(Tensor::from_data(data, &self.device));
        let mut gradients = (graph * weights).sum().backward();
        let gradient = leaf.grad_remove(&mut gradients).unwrap_or_else(|| leaf.inner().zeros_like());
        (logits, Some(gradient))
    }

    /// The same where the network is prepared: the head is linear, so that the mean of the views' logits are those of
    /// their mean feature.
    fn back_on_cpu(
        &self,
        frozen: &Frozen,
        views: Tensor<4>,
        weights: Option<Weights<'_>>,
    ) -> (Vec<f32>, Option<Tensor<4>>) {
        let shape = views.dims();
        let x = host(views);
        let mean = |each: &[f32]| -> Vec<f32> {
            let means = each.chunks_exact(self.views * self.classes).flat_map(|views| {
                let sum =
                    |class: usize| views.iter().skip(class).step_by(self.classes).map(|&v| f64::from(v)).sum::<f64>();
                (0..self.classes).map(move |class| (sum(class) / self.views as f64) as f32)
            });
            means.collect()
        };
        let mut each = vec![0.0; shape[0] * self.classes];
        let Some(weights) = weights else {
            frozen.forward(&x, frozen.last(), &mut each);
            return (mean(&each), None);
        };
        let mut dx = vec![0.0; x.len()];
        let mut logits = Vec::new();
        let mut of_each = |each: &[f32]| -> Vec<f32> {
            logits = mean(each);
            let shared = weights(&logits);
            let of_view = |image: &[f32]| image.iter().map(|weight| weight / self.views as f32).collect::<Vec<_>>();
            shared.chunks_exact(self.classes).flat_map(|image| of_view(image).repeat(self.views)).collect()
        };
        frozen.gradient(&x, frozen.last(), &mut of_each, &mut each, &mut dx);
        (logits, Some(Tensor::from_data(TensorData::new(dx, shape), &self.device)))
    }

    /// Some images at a time, so that memory stays bounded.
    fn chunks(&self, rows: usize) -> impl Iterator<Item = std::ops::Range<usize>> + use<> {
        let together = (TOGETHER / self.views).max(1);
        (0..rows).step_by(together).map(move |start| start..rows.min(start + together))
    }
}

/// Fresh views in every pass.
pub(super) struct Crops(pub(super) Over);

impl Crops {
    fn pass(
        &self,
        x: &[f32],
        pass: Pass<'_>,
        weights: Option<Weights<'_>>,
    ) -> std::result::Result<(Vec<f32>, Vec<f32>), String> {
        let over = &self.0;
        let sources: Vec<Source<'_>> = x.chunks_exact(over.length()).map(|x| Source::floats(x, over.size)).collect();
        let draws = over.draws(pass);
        let told = |error: gabion_runtime::PipelineError| error.to_string();
        let sources = over.pipeline.sources(&sources).map_err(told)?;
        let views = over.pipeline.views(&sources, &draws, over.size).map_err(told)?;
        let (logits, gradient) = over.back(views, weights);
        let gradient = match gradient {
            Some(gradient) => host(over.pipeline.backward(&sources, &draws, gradient).map_err(told)?),
            None => Vec::new(),
        };
        Ok((logits, gradient))
    }

    /// The same some images at a time.
    fn passes(&self, x: &[f32], pass: Pass<'_>, mut weights: Option<Weights<'_>>) -> (Vec<f32>, Vec<f32>) {
        let (mut logits, mut gradients) = (Vec::new(), Vec::new());
        let length = self.0.length();
        // Weights are asked for once, of all rows: so the forward pass comes first where there are several chunks.
        let chunks: Vec<_> = self.0.chunks(pass.images.len()).collect();
        let run = |weights: Option<Weights<'_>>, range: std::ops::Range<usize>| {
            let part = Pass { images: &pass.images[range.clone()], draw: pass.draw };
            self.pass(&x[range.start * length..range.end * length], part, weights).unwrap_or_else(|why| {
                self.0.failed.borrow_mut().get_or_insert(why);
                (vec![f32::NAN; range.len() * self.0.classes], vec![0.0; range.len() * length])
            })
        };
        if chunks.len() == 1 || weights.is_none() {
            for range in chunks {
                let weights = weights.as_mut().map(|weights| &mut **weights as Weights<'_>);
                let (some_logits, some_gradients) = run(weights, range);
                logits.extend(some_logits);
                gradients.extend(some_gradients);
            }
            return (logits, gradients);
        }
        for range in chunks.clone() {
            logits.extend(run(None, range).0);
        }
        let all = weights.map_or_else(Vec::new, |weights| weights(&logits));
        let classes = self.0.classes;
        for range in chunks {
            let mine = &all[range.start * classes..range.end * classes];
            gradients.extend(run(Some(&mut |_| mine.to_vec()), range).1);
        }
        (logits, gradients)
    }
}

impl Classifier for Crops {
    fn classes(&self) -> usize {
        self.0.classes
    }

    fn random(&self) -> bool {
        true
    }

    fn failed(&self) -> Option<String> {
        self.0.failed.borrow_mut().take()
    }

    fn logits(&self, x: &[f32], pass: Pass<'_>) -> Vec<f32> {
        self.passes(x, pass, None).0
    }

    fn gradient(&self, x: &[f32], pass: Pass<'_>, weights: &mut dyn FnMut(&[f32]) -> Vec<f32>) -> Gradient {
        let (logits, x) = self.passes(x, pass, Some(weights));
        Gradient { logits, x }
    }
}

/// Views as they were drawn, each perturbed by itself: an image's row is `[views, 3, height, width]`.
pub(super) struct DrawnCrops(pub(super) Over);

impl DrawnCrops {
    /// The views of images at a draw, one row an image.
    pub(super) fn rows(&self, x: &[f32], pass: Pass<'_>) -> Vec<f32> {
        let over = &self.0;
        let sources: Vec<Source<'_>> = x.chunks_exact(over.length()).map(|x| Source::floats(x, over.size)).collect();
        let draws = over.draws(pass);
        let mut views = vec![0.0; draws.len() * over.length()];
        gabion_augment::cpu::apply_batch(&sources, &draws, over.size, &mut views);
        views
    }

    fn tensor(&self, rows: &[f32]) -> Tensor<4> {
        let [height, width] = self.0.size.map(|side| side as usize);
        let shape = [rows.len() / self.0.length(), 3, height, width];
        Tensor::from_data(TensorData::new(rows.to_vec(), shape), &self.0.device)
    }
}

impl Classifier for DrawnCrops {
    fn classes(&self) -> usize {
        self.0.classes
    }

    fn logits(&self, x: &[f32], pass: Pass<'_>) -> Vec<f32> {
        let stride = x.len() / pass.images.len().max(1);
        let chunks = self.0.chunks(pass.images.len());
        chunks
            .flat_map(|range| self.0.back(self.tensor(&x[range.start * stride..range.end * stride]), None).0)
            .collect()
    }

    fn gradient(&self, x: &[f32], pass: Pass<'_>, weights: &mut dyn FnMut(&[f32]) -> Vec<f32>) -> Gradient {
        let rows = pass.images.len();
        let stride = x.len() / rows.max(1);
        if rows * self.0.views <= TOGETHER {
            let (logits, gradient) = self.0.back(self.tensor(x), Some(weights));
            return Gradient { logits, x: gradient.map_or_else(Vec::new, host) };
        }
        let logits = self.logits(x, pass);
        let all = weights(&logits);
        let classes = self.0.classes;
        let chunks = self.0.chunks(rows).map(|range| {
            let mine = &all[range.start * classes..range.end * classes];
            let views = self.tensor(&x[range.start * stride..range.end * stride]);
            self.0.back(views, Some(&mut |_: &[f32]| mine.to_vec())).1.map_or_else(Vec::new, host)
        });
        let x = chunks.collect::<Vec<_>>().concat();
        Gradient { logits, x }
    }
}

fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    crate::measure::host(tensor)
}
