//! A bundle that classifies: the whole image, or a vote of many random crops of it.
//!
//! On the CPU nothing of Burn is involved: the network is a [`gabion_kernels::Frozen`] one. Any number of threads may
//! classify with one session; each takes its memory with it in a [`Stream`], which allocates nothing after the first
//! images.

mod arithmetic;
#[cfg(feature = "candle")]
mod candle;
#[cfg(feature = "burn")]
mod device;
mod perturb;
mod stream;
mod vote;

use crate::frozen::{Network, Precision, calibrated, network_in};
use crate::{BundleError, Rgb, Stored};
use gabion_augment::cpu::{Source, apply_batch};
use gabion_augment::{Augment, Draw, ViewId, sample};
use gabion_spec::{Crop, Input, Manifest};
use std::path::Path;
use vote::Ballot;

#[cfg(feature = "candle")]
pub use candle::CandleError;
#[cfg(feature = "burn")]
pub use device::SessionError;

pub use arithmetic::Arithmetic;
pub use stream::Stream;

/// Most views of an image.
pub const MOST_VIEWS: u32 = 4096;

/// Views that go through the network at once.
const BATCH: u32 = 64;

/// How an image is classified.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Classify {
    /// 1 for the whole image, more for so many random crops at most.
    pub views: u32,
    /// 1 takes every view; with less the vote ends once all views would give the same answer with this probability.
    pub confidence: f32,
    /// Seeds the crops; equal seeds give equal predictions.
    pub seed: u64,
}

impl Default for Classify {
    fn default() -> Self {
        Self { views: 1, confidence: 1.0, seed: 0 }
    }
}

impl Classify {
    /// Refuses what makes no sense.
    ///
    /// # Errors
    /// When views or confidence are out of range.
    pub fn check(&self) -> Result<(), ClassifyError> {
        let &Self { views, confidence, .. } = self;
        if !(1..=MOST_VIEWS).contains(&views) {
            return Err(ClassifyError::Views { views });
        }
        if !(confidence > 0.5 && confidence <= 1.0) {
            return Err(ClassifyError::Confidence { confidence });
        }
        Ok(())
    }
}

/// What a session says of an image.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prediction {
    /// The most probable class, by its place in the manifest.
    pub label: usize,
    /// Of every class, in the manifest's order.
    pub probabilities: Vec<f32>,
    /// Views that it rests on.
    pub views: u32,
    /// Share of the views whose own first class is the final one; 1 for a single view.
    pub agreement: f32,
    /// The greatest probability less the next.
    pub margin: f32,
    /// Time from the pixels to the probabilities.
    pub milliseconds: f64,
}

/// One view's part in a prediction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Vote {
    /// Left, top, right and bottom of its crop as shares of the image's sides.
    pub area: [f32; 4],
    /// The class that the view alone is taken for, by its place in the manifest.
    pub class: usize,
}

impl Prediction {
    /// Every class with its probability, the most probable first.
    pub fn ranked<'a>(&self, classes: &'a [String]) -> Vec<(&'a str, f32)> {
        let mut ranked: Vec<_> = classes.iter().map(String::as_str).zip(self.probabilities.iter().copied()).collect();
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
        ranked
    }
}

/// Why an image cannot be classified: one line each, with what to do.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ClassifyError {
    /// A prediction from nothing, or from more than is sensible.
    #[error("views is {views}: use 1 for the whole image, or 2 to {MOST_VIEWS} for a vote of random crops")]
    Views {
        /// What was asked for.
        views: u32,
    },
    /// A probability that is none.
    #[error("confidence is {confidence}: use more than 0.5, and 1 for every view")]
    Confidence {
        /// What was asked for.
        confidence: f32,
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
    /// The memory that one view needs is more than was allowed.
    #[error("one view takes {needs} bytes of memory with the weights, the budget is {budget}: allow more")]
    Memory {
        /// Bytes of weights and of one view's activations.
        needs: u64,
        /// Bytes that were allowed.
        budget: u64,
    },
    /// Logits that are no numbers: there is no answer.
    #[error("the network's answer is not finite: its weights overflow on this picture, use another bundle")]
    NotFinite,
    /// The crops could not be made.
    #[cfg(feature = "burn")]
    #[error(transparent)]
    Crops(#[from] crate::PipelineError),
    /// Candle could not compute.
    #[cfg(feature = "candle")]
    #[error("Candle cannot classify ({why}): choose its CPU")]
    Candle {
        /// Candle's reason.
        why: String,
    },
}

/// An opened bundle with a head, ready to classify.
#[derive(Debug)]
pub struct Session {
    manifest: Manifest,
    augment: Augment,
    engine: Engine,
    memory: Option<u64>,
}

#[derive(Debug)]
enum Engine {
    Cpu(Box<Network>),
    #[cfg(feature = "burn")]
    Device(Box<device::OnDevice>),
    #[cfg(feature = "candle")]
    Candle(Box<candle::OnCandle>),
}

impl Session {
    /// A session on the CPU.
    ///
    /// # Errors
    /// When the bundle cannot be read or has no head.
    pub fn open(bundle: &Path) -> Result<Self, BundleError> {
        Self::open_in(Precision::F32, bundle)
    }

    /// [`Session::open`], multiplying in `precision`.
    ///
    /// # Errors
    /// As it does.
    pub fn open_in(precision: Precision, bundle: &Path) -> Result<Self, BundleError> {
        Self::of_in(precision, &Stored::read_to_answer(bundle)?)
    }

    /// A session on the CPU of a bundle that was read.
    ///
    /// # Errors
    /// When it has no head, or its weights are beyond f32 once they are prepared.
    pub fn of(stored: &Stored) -> Result<Self, BundleError> {
        Self::of_in(Precision::F32, stored)
    }

    /// [`Session::of`], multiplying in `precision`.
    ///
    /// # Errors
    /// As it does.
    pub fn of_in(precision: Precision, stored: &Stored) -> Result<Self, BundleError> {
        Self::prepared(stored, |input| network_in(precision, stored, input))
    }

    /// [`Session::of`] in int8, see [`crate::frozen::calibrated`].
    ///
    /// # Errors
    /// As it does; when there is no view.
    ///
    /// # Panics
    /// When `views` are not of the bundle's size.
    pub fn of_calibrated(stored: &Stored, views: &[f32]) -> Result<Self, BundleError> {
        Self::prepared(stored, |input| calibrated(stored, input, views))
    }

    fn prepared(
        stored: &Stored,
        network: impl FnOnce(Input) -> Result<Network, BundleError>,
    ) -> Result<Self, BundleError> {
        let manifest = stored.manifest.clone();
        if manifest.head.is_none() {
            return Err(BundleError::NoHead { name: manifest.name });
        }
        let engine = Engine::Cpu(Box::new(network(manifest.input)?));
        Ok(Self { augment: crops(&manifest), manifest, engine, memory: None })
    }

    /// Keeps activations and weights within so many bytes, by fewer views at once. On the CPU; a device's own memory is
    /// its driver's to give.
    ///
    /// # Errors
    /// When one view at a time needs more.
    pub fn with_memory(self, budget: u64) -> Result<Self, ClassifyError> {
        let needs = self.bytes(1);
        if needs > budget {
            return Err(ClassifyError::Memory { needs, budget });
        }
        Ok(Self { memory: Some(budget), ..self })
    }

    /// Bytes that weights and one view at a time take; 0 where a device or another library keeps them.
    pub fn needs(&self) -> u64 {
        self.bytes(1)
    }

    /// What the bundle is.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Names of the classes, in the order of a prediction's probabilities.
    pub fn classes(&self) -> &[String] {
        &self.manifest.classes
    }

    /// What it computes in.
    pub fn arithmetic(&self) -> Arithmetic {
        match &self.engine {
            Engine::Cpu(network) => network.net.precision().into(),
            #[cfg(feature = "burn")]
            Engine::Device(device) => device.arithmetic(),
            #[cfg(feature = "candle")]
            Engine::Candle(_) => Arithmetic::F32,
        }
    }

    /// Whether it is one on the CPU by kernels of our own.
    pub fn is_on_cpu(&self) -> bool {
        matches!(self.engine, Engine::Cpu(_))
    }

    /// Why the CPU took over from the device, where it had to.
    pub fn fallen(&self) -> Option<&str> {
        match &self.engine {
            Engine::Cpu(_) => None,
            #[cfg(feature = "burn")]
            Engine::Device(device) => device.fallen(),
            #[cfg(feature = "candle")]
            Engine::Candle(_) => None,
        }
    }

    /// The places of the views of an image of so many rows and columns; see [`Classify`].
    pub fn crops(&self, [rows, columns]: [u32; 2], seed: u64, views: u32) -> Vec<Draw> {
        (0..views).map(|view| self.draw([rows, columns], seed, view)).collect()
    }

    fn draw(&self, size: [u32; 2], seed: u64, view: u32) -> Draw {
        sample(&self.augment, ViewId { seed, epoch: 0, image: 0, view }, size)
    }

    /// A classifier with its own memory.
    ///
    /// # Errors
    /// When views or confidence make no sense.
    pub fn stream(&self, options: Classify) -> Result<Stream<'_>, ClassifyError> {
        options.check()?;
        Ok(Stream {
            session: self,
            options,
            batch: self.batch(),
            draws: Vec::new(),
            pixels: Vec::new(),
            ballot: Ballot::default(),
            said: Prediction::default(),
        })
    }

    /// Classifies an image: one view is its largest centred part of the input's shape, more are random crops and flips
    /// (no colours) from the distribution that the encoder was pretrained with.
    ///
    /// # Errors
    /// When the options or the image make no sense.
    pub fn classify(&self, image: &Rgb, options: &Classify) -> Result<Prediction, ClassifyError> {
        let mut stream = self.stream(*options)?;
        stream.classify(image)?;
        Ok(stream.said)
    }

    /// [`Session::classify`], and what each view says, in the order of the views; the only vote of a single view is about the
    /// whole image.
    ///
    /// # Errors
    /// Those of [`Session::classify`].
    #[allow(clippy::cast_precision_loss)]
    pub fn classify_with_votes(
        &self,
        image: &Rgb,
        options: &Classify,
    ) -> Result<(Prediction, Vec<Vote>), ClassifyError> {
        let mut stream = self.stream(*options)?;
        stream.classify(image)?;
        let [width, height] = [image.width, image.height].map(|side| side as f32);
        let size = [image.height, image.width].map(|side| u32::try_from(side).expect("it was classified"));
        let area = |view: u32| {
            if options.views == 1 {
                return [0.0, 0.0, 1.0, 1.0];
            }
            let Draw { left, top, width: across, height: down, .. } = self.draw(size, options.seed, view);
            let right_bottom = [(left + across) as f32 / width, (top + down) as f32 / height];
            [left as f32 / width, top as f32 / height, right_bottom[0], right_bottom[1]]
        };
        let votes = (0..).zip(stream.ballot.firsts()).map(|(view, class)| Vote { area: area(view), class }).collect();
        Ok((stream.said, votes))
    }

    /// Classifies images one after another; the first error ends it.
    ///
    /// # Errors
    /// As [`Session::classify`].
    pub fn classify_all(&self, images: &[Rgb], options: &Classify) -> Result<Vec<Prediction>, ClassifyError> {
        let mut stream = self.stream(*options)?;
        images.iter().map(|image| stream.classify(image).cloned()).collect()
    }

    /// Most views at once within the budget.
    fn batch(&self) -> u32 {
        let Some(budget) = self.memory else { return BATCH };
        (0..=BATCH.ilog2()).rev().map(|power| 1 << power).find(|&views| self.bytes(views) <= budget).unwrap_or(1)
    }

    /// Memory of weights, and of activations and pixels while so many views are computed at once.
    fn bytes(&self, views: u32) -> u64 {
        match &self.engine {
            Engine::Cpu(network) => {
                let net = &network.net;
                let pixels = views as usize * (net.input_len() + self.manifest.classes.len()) * size_of::<f32>();
                (net.weight_bytes() + net.working_bytes(views as usize) + pixels) as u64
            }
            #[cfg(feature = "burn")]
            Engine::Device(_) => 0,
            #[cfg(feature = "candle")]
            Engine::Candle(_) => 0,
        }
    }

    /// Logits of the view that `pixels` hold, or of the views that `draws` say.
    fn logits(&self, seen: Seen<'_>, pixels: &mut Vec<f32>, out: &mut [f32]) -> Result<(), ClassifyError> {
        match &self.engine {
            Engine::Cpu(network) => {
                on_cpu(network, seen, [self.manifest.input.height, self.manifest.input.width], pixels, out);
                Ok(())
            }
            #[cfg(feature = "burn")]
            Engine::Device(device) => device.logits(seen, pixels, out),
            #[cfg(feature = "candle")]
            Engine::Candle(candle) => candle.logits(seen, pixels, out),
        }
    }
}

/// What the network is to see.
#[derive(Clone, Copy, Debug)]
enum Seen<'a> {
    /// The one view that is in the memory for pixels, `[3, height, width]`.
    Pixels,
    /// Crops of an image.
    Crops(Source<'a>, &'a [Draw]),
}

/// Puts what is to be seen into the memory for pixels, `size` being a view's and `len` its values; returns how many views.
fn seen_on_cpu(seen: Seen<'_>, len: usize, size: [u32; 2], pixels: &mut Vec<f32>) -> usize {
    let Seen::Crops(source, draws) = seen else { return 1 };
    pixels.resize(draws.len() * len, 0.0);
    apply_batch(&[source], draws, size, pixels);
    draws.len()
}

fn on_cpu(network: &Network, seen: Seen<'_>, size: [u32; 2], pixels: &mut Vec<f32>, out: &mut [f32]) {
    seen_on_cpu(seen, network.net.input_len(), size, pixels);
    network.net.forward(pixels, network.net.last(), out);
}

/// How the encoder's crops are drawn: as in pretraining, without colours.
fn crops(manifest: &Manifest) -> Augment {
    let trained = manifest.pretrain.as_ref().map(|pretrain| &pretrain.augment);
    Augment {
        crop: trained.map_or(Crop::CROP, |augment| augment.crop),
        flip: trained.map_or(0.5, |augment| augment.flip),
        ..Augment::identity([manifest.input.height, manifest.input.width])
    }
}

#[cfg(test)]
pub(crate) mod tests;
