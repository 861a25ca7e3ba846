//! A bundle that classifies: the whole image, or the mean feature over many random crops of it.

use crate::pipeline::{Pipeline, PipelineError, Sources, Wanted, Work};
use crate::{Bundle, BundleError, Offered, Rgb};
use burn::Tensor;
use burn::module::Module;
use burn::tensor::{Device, TensorData};
use gabion_augment::cpu::Source;
use gabion_augment::{Augment, Draw, ViewId, sample};
use gabion_learn::{Head, Mode, Model};
use gabion_spec::{Crop, Manifest};
use std::ops::Range;
use std::sync::OnceLock;
use std::time::Instant;

/// Most views of an image.
pub const MOST_VIEWS: u32 = 4096;

/// Views that go through the network at once.
const BATCH: u32 = 64;

/// How an image is classified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Classify {
    /// 1 for the whole image, more for the mean feature over so many random crops.
    pub views: u32,
    /// Seeds the crops; equal seeds give equal predictions.
    pub seed: u64,
}

impl Default for Classify {
    fn default() -> Self {
        Self { views: 1, seed: 0 }
    }
}

/// What a session says of an image.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// Every class with its probability, the most probable first.
    pub classes: Vec<(String, f32)>,
    /// Views that it rests on.
    pub views: u32,
    /// Share of the views whose own first class is the final one; 1 for a single view.
    pub agreement: f32,
    /// Time from the pixels to the probabilities.
    pub milliseconds: f64,
}

/// One view's part in a prediction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Vote {
    /// Left, top, right and bottom of its crop as shares of the image's sides.
    pub area: [f32; 4],
    /// The class that the view alone is taken for, an index into the manifest's classes.
    pub class: usize,
}

/// Why an image cannot be classified: one line each, with what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClassifyError {
    /// A prediction from nothing, or from more than is sensible.
    #[error("views is {views}: use 1 for the whole image, or 2 to {MOST_VIEWS} for the mean over random crops")]
    Views {
        /// What was asked for.
        views: u32,
    },
    /// Pixels that are no image.
    #[error("{bytes} bytes are not an image of {width}x{height} RGB pixels: give 3 bytes for each of 1 or more pixels")]
    Pixels {
        /// Columns.
        width: usize,
        /// Rows.
        height: usize,
        /// Bytes there.
        bytes: usize,
    },
    /// The crops could not be made.
    #[error(transparent)]
    Crops(#[from] PipelineError),
}

/// An opened bundle with a head, ready to classify.
#[derive(Debug)]
pub struct Session {
    manifest: Manifest,
    model: Model,
    head: Head,
    device: Device,
    wanted: Option<(Wanted, Offered)>,
    pipeline: OnceLock<(Pipeline, String)>,
}

impl Session {
    /// A session on the bundle's device, without autodiff.
    ///
    /// # Errors
    /// When the bundle has no head.
    pub fn new(bundle: Bundle) -> Result<Self, BundleError> {
        let Bundle { manifest, mut model, head } = bundle;
        let Some(mut head) = head else { return Err(BundleError::NoHead { name: manifest.name }) };
        let mut device = head.devices().into_iter().next().expect("a head has parameters");
        if device.is_autodiff() {
            (model, head, device) = (model.valid(), head.valid(), device.without_autodiff());
        }
        Ok(Self { manifest, model, head, device, wanted: None, pipeline: OnceLock::new() })
    }

    /// Crops are made as wanted, on the device that `offered` describes; without this the CPU makes them.
    #[must_use]
    pub fn with_pipeline(self, wanted: Wanted, offered: &Offered) -> Self {
        Self { wanted: Some((wanted, offered.clone())), pipeline: OnceLock::new(), ..self }
    }

    /// What makes the crops and why, once some were made.
    pub fn pipeline(&self) -> Option<&str> {
        self.pipeline.get().map(|(_, why)| why.as_str())
    }

    /// Chosen on the first crops.
    fn pipeline_for(&self, work: &Work<'_>) -> Result<&Pipeline, PipelineError> {
        if self.pipeline.get().is_none() {
            let chosen = match &self.wanted {
                None => (Pipeline::cpu(self.device.clone()), "views: cpu pipeline".into()),
                Some((wanted, offered)) => Pipeline::choose(*wanted, &self.device, offered, work)?,
            };
            // Another thread's choice does as well.
            let _ = self.pipeline.set(chosen);
        }
        Ok(&self.pipeline.get().expect("set above").0)
    }

    /// What the bundle is.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Classifies an image: one view is its largest centred part of the input's shape, more are random crops and flips
    /// (no colours) from the distribution that the encoder was pretrained with.
    ///
    /// # Errors
    /// When the number of views or the image makes no sense.
    pub fn classify(&self, image: &Rgb, options: &Classify) -> Result<Prediction, ClassifyError> {
        self.classify_with_votes(image, options).map(|(prediction, _)| prediction)
    }

    /// [`Session::classify`], and what each view says, in the order of the views; the only vote of a single view is
    /// about the whole image.
    ///
    /// # Errors
    /// Those of [`Session::classify`].
    #[allow(clippy::cast_precision_loss)]
    pub fn classify_with_votes(
        &self,
        image: &Rgb,
        options: &Classify,
    ) -> Result<(Prediction, Vec<Vote>), ClassifyError> {
        let start = Instant::now();
        let views = options.views;
        if !(1..=MOST_VIEWS).contains(&views) {
            return Err(ClassifyError::Views { views });
        }
        let Rgb { height, width, ref pixels } = *image;
        let bytes = height.checked_mul(width).and_then(|pixels| pixels.checked_mul(3));
        let size = u32::try_from(height).ok().zip(u32::try_from(width).ok());
        let (Some((rows, columns)), Some(true)) = (size, bytes.map(|bytes| bytes > 0 && bytes == pixels.len())) else {
            return Err(ClassifyError::Pixels { width, height, bytes: pixels.len() });
        };
        let mut areas = Vec::with_capacity(views as usize);
        let (logits, firsts) = if views == 1 {
            areas.push([0.0, 0.0, 1.0, 1.0]);
            let logits = rows_of(self.head.forward(self.feature(self.whole(image)), Mode::Eval)).remove(0);
            let firsts = vec![first(&logits)];
            (logits, firsts)
        } else {
            let source = Source::bytes(pixels, [rows, columns]);
            let opening = self.draws(source, options.seed, 0..views.min(BATCH));
            let size = [self.manifest.input.height, self.manifest.input.width];
            let pipeline = self.pipeline_for(&Work { sources: &[source], draws: &opening, size })?;
            let sources: Sources<'_> = pipeline.sources(&[source])?;
            let mut sum: Option<Tensor<2>> = None;
            let mut firsts = Vec::new();
            for from in (0..views).step_by(BATCH as usize) {
                let draws = self.draws(source, options.seed, from..views.min(from + BATCH));
                areas.extend(draws.iter().map(|draw| area(draw, [rows, columns])));
                let features = self.feature(pipeline.views(&sources, &draws, size)?);
                let logits = self.head.forward(features.clone(), Mode::Eval);
                firsts.extend(rows_of(logits).iter().map(|logits| first(logits)));
                let partial = features.sum_dim(0);
                sum = Some(match sum {
                    Some(sum) => sum + partial,
                    None => partial,
                });
            }
            let mean = sum.expect("there are views").div_scalar(f64::from(views));
            (rows_of(self.head.forward(mean, Mode::Eval)).remove(0), firsts)
        };
        let chosen = first(&logits);
        let agreement = firsts.iter().filter(|&&first| first == chosen).count() as f32 / firsts.len() as f32;
        let mut classes: Vec<_> = self.manifest.classes.iter().cloned().zip(softmax(&logits)).collect();
        classes.sort_by(|a, b| b.1.total_cmp(&a.1));
        let milliseconds = start.elapsed().as_secs_f64() * 1e3;
        let votes = areas.into_iter().zip(firsts).map(|(area, class)| Vote { area, class }).collect();
        Ok((Prediction { classes, views, agreement, milliseconds }, votes))
    }

    /// `[views, 3, height, width]` to `[views, hidden]`.
    fn feature(&self, views: Tensor<4>) -> Tensor<2> {
        self.model.feature(views, Mode::Eval)
    }

    fn input(&self) -> [usize; 2] {
        [self.manifest.input.height as usize, self.manifest.input.width as usize]
    }

    /// `[1, 3, height, width]` in `[0, 1]`.
    fn whole(&self, image: &Rgb) -> Tensor<4> {
        let [height, width] = self.input();
        let fitted = image.centre(height, width);
        let plane =
            |channel: usize| fitted.pixels.iter().skip(channel).step_by(3).map(|&value| f32::from(value) / 255.0);
        let values: Vec<f32> = (0..3).flat_map(plane).collect();
        Tensor::from_data(TensorData::new(values, [1, 3, height, width]), &self.device)
    }

    fn draws(&self, source: Source, seed: u64, views: Range<u32>) -> Vec<Draw> {
        let size = [self.manifest.input.height, self.manifest.input.width];
        let trained = self.manifest.pretrain.as_ref().map(|pretrain| &pretrain.augment);
        let augment = Augment {
            crop: trained.map_or(Crop::CROP, |augment| augment.crop),
            flip: trained.map_or(0.5, |augment| augment.flip),
            ..Augment::identity(size)
        };
        views.map(|view| sample(&augment, ViewId { seed, epoch: 0, image: 0, view }, source.size)).collect()
    }
}

/// The crop of a view as shares of the image's sides.
#[allow(clippy::cast_precision_loss)] // sides of images
fn area(draw: &Draw, [rows, columns]: [u32; 2]) -> [f32; 4] {
    let across = |at: u32| at as f32 / columns as f32;
    let down = |at: u32| at as f32 / rows as f32;
    [across(draw.left), down(draw.top), across(draw.left + draw.width), down(draw.top + draw.height)]
}

/// The rows of a tensor.
fn rows_of(tensor: Tensor<2>) -> Vec<Vec<f32>> {
    let [_, columns] = tensor.dims();
    let data = tensor.to_data_as::<f32>();
    data.as_slice::<f32>().expect("f32 was asked for").chunks_exact(columns).map(<[f32]>::to_vec).collect()
}

/// The index of the greatest, the first of equals.
fn first(logits: &[f32]) -> usize {
    (0..logits.len()).rev().max_by(|&a, &b| logits[a].total_cmp(&logits[b])).expect("a head has a class or more")
}

/// Probabilities, in f64 within.
#[allow(clippy::cast_possible_truncation)] // a probability fits
fn softmax(logits: &[f32]) -> Vec<f32> {
    let greatest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f64> = logits.iter().map(|&logit| (f64::from(logit) - f64::from(greatest)).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| (power / sum) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softmax_is_a_distribution() {
        let probabilities = softmax(&[1000.0, 1000.0, -1000.0]);
        assert_eq!(probabilities, [0.5, 0.5, 0.0]);
    }

    #[test]
    fn the_area_of_a_crop_is_in_shares() {
        let augment = Augment::identity([8, 8]);
        let mut draw = sample(&augment, ViewId { seed: 0, epoch: 0, image: 0, view: 0 }, [20, 40]);
        (draw.top, draw.left, draw.height, draw.width) = (5, 10, 10, 30);
        assert_eq!(area(&draw, [20, 40]), [0.25, 0.25, 1.0, 0.75]);
    }

    #[test]
    fn the_first_of_equals_wins() {
        assert_eq!(first(&[0.0, 2.0, 2.0]), 1);
    }
}
