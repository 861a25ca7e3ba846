//! What is evaluated: the head of a bundle, or a network trained elsewhere.

use super::crops::{Crops, Over};
use crate::measure::{Error, Result, hexadecimal};
use burn::Tensor;
use burn::module::Module;
use burn::tensor::Device;
use gabion_learn::attack::{Classifier, Gradient, Network, Pass};
use gabion_learn::{Head, Mode, Model};
use gabion_runtime::Bundle;
use gabion_runtime::devices::is_cpu;
use gabion_runtime::frozen::{Frozen, Precision, calibrated, network_in};
use gabion_spec::{Augment, Crop, HeadKind, Input};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// Images `[batch, 3, height, width]` to logits `[batch, classes]`, with autodiff where the images are.
type Classify = Box<dyn Fn(Tensor<4>) -> Tensor<2>>;

/// A classifier to be evaluated.
pub struct Subject {
    /// Its name.
    pub name: String,
    /// SHA-256 of its weights.
    pub weights: String,
    /// What it takes.
    pub input: Input,
    /// Names of its classes; empty where it does not say.
    pub classes: Vec<String>,
    /// Number of its classes.
    pub outputs: usize,
    /// What a reader should know of it.
    pub warnings: Vec<String>,
    /// Encoder and head, where it has them: a classifier over many crops needs both.
    pub(crate) parts: Option<Arc<Parts>>,
    /// Crops of an image and the seed that draws them, where it is classified by these.
    pub(crate) over: Option<Drawn>,
    victim: Victim,
    device: Device,
}

/// What computes logits and gradients of whole images.
enum Victim {
    Device(Network<Classify>),
    /// The same prepared for the CPU.
    Cpu(Arc<Frozen>),
    /// The mean over fresh crops.
    Crops(Box<Crops>),
    /// In int8, which has no gradient of its own.
    StraightThrough(StraightThrough),
}

/// The crops that an image is classified by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Drawn {
    /// How many.
    pub(crate) views: u32,
    /// What draws them.
    pub(crate) seed: u64,
}

/// A network in int8 that is climbed by the gradient of the same network in f32, weighted by what the former answers.
struct StraightThrough {
    answers: Frozen,
    slopes: Arc<Frozen>,
    /// SHA-256 of the images that told its ranges.
    calibration: String,
}

impl Classifier for StraightThrough {
    fn classes(&self) -> usize {
        self.answers.len_of(self.answers.last())
    }

    fn logits(&self, x: &[f32], pass: Pass<'_>) -> Vec<f32> {
        Classifier::logits(&self.answers, x, pass)
    }

    fn gradient(&self, x: &[f32], pass: Pass<'_>, weights: &mut dyn FnMut(&[f32]) -> Vec<f32>) -> Gradient {
        let logits = self.logits(x, pass);
        let mut slope = Classifier::gradient(&*self.slopes, x, pass, &mut |_| weights(&logits));
        slope.logits = logits;
        slope
    }
}

/// What a classifier over crops is made of.
pub(crate) struct Parts {
    /// Without autodiff.
    pub(crate) plain: (Model, Head),
    /// With it.
    pub(crate) graph: (Model, Head),
    /// How crops are drawn: as in pretraining, without colours.
    pub(crate) augment: Augment,
    /// Both prepared for the CPU, where that is the device.
    pub(crate) frozen: Option<Arc<Frozen>>,
}

impl Subject {
    /// The head of a bundle on whole images, computed on `device`.
    ///
    /// # Errors
    /// When there is no head.
    pub fn bundle(bundle: &Bundle, device: &Device) -> Result<Self> {
        Self::bundle_in(Precision::F32, bundle, device)
    }

    /// [`Subject::bundle`], multiplying in `precision` on the CPU.
    ///
    /// # Errors
    /// As it does.
    pub fn bundle_in(precision: Precision, bundle: &Bundle, device: &Device) -> Result<Self> {
        let manifest = &bundle.manifest;
        let head = bundle.head.as_ref().ok_or_else(|| Error::NoHead { name: manifest.name.clone() })?;
        let device = device.clone().inner();
        let plain = (bundle.model.valid().to_device(&device), head.valid().to_device(&device));
        let graph = plain.clone().train();
        let outputs = gabion_learn::weights::export(&plain.1, "")["weight"].shape()[0];
        let mut warnings = Vec::new();
        if manifest.head.as_ref().is_some_and(|head| head.kind == HeadKind::Patches) {
            warnings
                .push("the head was trained on mean features over views, the attack is on whole images".to_string());
        }
        let trained = manifest.pretrain.as_ref().map(|pretrain| &pretrain.augment);
        let augment = Augment {
            crop: trained.map_or(Crop::CROP, |augment| augment.crop),
            flip: trained.map_or(0.5, |augment| augment.flip),
            ..Augment::identity([manifest.input.height, manifest.input.width])
        };
        let frozen = is_cpu(&device).then(|| network_in(precision, &bundle.stored(), manifest.input)).transpose()?;
        let frozen = frozen.map(|network| Arc::new(network.net));
        let classify: Classify = {
            let (plain, graph) = (plain.clone(), graph.clone());
            Box::new(move |x| {
                let (model, head) = if x.device().is_autodiff() { &graph } else { &plain };
                head.forward(model.feature(x, Mode::Frozen), Mode::Frozen)
            })
        };
        Ok(Self {
            name: manifest.name.clone(),
            weights: manifest.weights.sha256.clone(),
            input: manifest.input,
            classes: manifest.classes.clone(),
            outputs,
            warnings,
            parts: Some(Arc::new(Parts { plain, graph, augment, frozen: frozen.clone() })),
            over: None,
            victim: match frozen {
                Some(frozen) => Victim::Cpu(frozen),
                None => Victim::on(&device, manifest.input, outputs, classify),
            },
            device,
        })
    }

    /// [`Subject::bundle`] on the CPU in int8, within the ranges of activations over `views` `[n, 3, height, width]`.
    /// Attacks climb the gradient of the f32 network, weighted by what the int8 one answers: it has none itself.
    ///
    /// # Errors
    /// As [`Subject::bundle`]; when there is no view.
    ///
    /// # Panics
    /// When `device` is not the CPU.
    pub fn bundle_in_int8(bundle: &Bundle, device: &Device, views: &[f32]) -> Result<Self> {
        assert!(is_cpu(device), "int8 is computed on the CPU");
        let mut subject = Self::bundle(bundle, device)?;
        let answers = calibrated(&bundle.stored(), bundle.manifest.input, views)?.net;
        if let Victim::Cpu(slopes) = subject.victim {
            let calibration = hexadecimal(&Sha256::digest(bytemuck::cast_slice(views)));
            subject.victim = Victim::StraightThrough(StraightThrough { answers, slopes, calibration });
        }
        // A vote over crops would be computed in f32.
        subject.parts = None;
        subject.warnings.push("in int8, attacked through the gradient of the network in f32".into());
        Ok(subject)
    }

    /// Any function of images, which are on `device` without autodiff or with it.
    pub fn function(
        name: String,
        weights: String,
        (input, outputs): (Input, usize),
        classify: impl Fn(Tensor<4>) -> Tensor<2> + 'static,
        device: &Device,
    ) -> Self {
        Self {
            name,
            weights,
            input,
            classes: Vec::new(),
            outputs,
            warnings: Vec::new(),
            parts: None,
            over: None,
            victim: Victim::on(device, input, outputs, Box::new(classify)),
            device: device.clone().inner(),
        }
    }

    /// The same function, prepared for the CPU: what is attacked from now on.
    #[must_use]
    pub(crate) fn prepared(self, frozen: Frozen) -> Self {
        Self { victim: Victim::Cpu(Arc::new(frozen)), ..self }
    }

    /// The classifier over `views` crops of an image, which are drawn anew in every pass: what is attacked from now on.
    ///
    /// # Errors
    /// When there are no encoder and head to it.
    pub fn over_crops(self, views: u32, seed: u64) -> Result<Self> {
        let crops = Box::new(Crops(Over::new(&self, views, seed)?));
        Ok(Self { victim: Victim::Crops(crops), over: Some(Drawn { views, seed }), ..self })
    }

    /// Whether it is made of an encoder and a head, as a classifier over many crops has to be.
    pub fn has_crops(&self) -> bool {
        self.parts.is_some()
    }

    /// As an attack sees it.
    pub fn victim(&self) -> &dyn Classifier {
        match &self.victim {
            Victim::Device(network) => network,
            Victim::Cpu(frozen) => &**frozen,
            Victim::Crops(crops) => &**crops,
            Victim::StraightThrough(network) => network,
        }
    }

    /// What it multiplies in. In bf16 an attack's gradients are those of the unrounded weights where the rounded network's
    /// activations are positive; what it is right about is the rounded network's.
    pub fn precision(&self) -> Precision {
        match &self.victim {
            Victim::Device(_) => Precision::F32,
            Victim::Crops(_) => {
                let frozen = self.parts.as_ref().and_then(|parts| parts.frozen.as_ref());
                frozen.map_or(Precision::F32, |frozen| frozen.precision())
            }
            Victim::Cpu(frozen) => frozen.precision(),
            Victim::StraightThrough(network) => network.answers.precision(),
        }
    }

    /// In words, all that the precision lets a result depend on.
    pub(crate) fn computes(&self) -> String {
        match &self.victim {
            Victim::StraightThrough(network) => format!("int8, calibrated by {}", network.calibration),
            _ => self.precision().to_string(),
        }
    }

    /// Where it computes, without autodiff.
    pub fn device(&self) -> &Device {
        &self.device
    }
}

impl Victim {
    fn on(device: &Device, input: Input, classes: usize, classify: Classify) -> Self {
        let size = [input.height as usize, input.width as usize];
        Self::Device(Network { classify, size, classes, device: device.clone().inner() })
    }
}
