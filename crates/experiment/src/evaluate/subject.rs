//! What is evaluated: the head of a bundle, or a network trained elsewhere.

use crate::measure::{Error, Result};
use burn::Tensor;
use burn::module::Module;
use burn::tensor::Device;
use gabion_learn::attack::{Classifier, Network};
use gabion_learn::{Head, Mode, Model};
use gabion_runtime::Bundle;
use gabion_runtime::devices::is_cpu;
use gabion_runtime::frozen::{Frozen, Precision, network_in};
use gabion_spec::{Augment, Crop, HeadKind, Input};
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
    pub(crate) parts: Option<Parts>,
    victim: Victim,
    device: Device,
}

/// What computes logits and gradients of whole images.
enum Victim {
    Device(Network<Classify>),
    /// The same prepared for the CPU.
    Cpu(Arc<Frozen>),
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
            parts: Some(Parts { plain, graph, augment, frozen: frozen.clone() }),
            victim: match frozen {
                Some(frozen) => Victim::Cpu(frozen),
                None => Victim::on(&device, manifest.input, outputs, classify),
            },
            device,
        })
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
            victim: Victim::on(device, input, outputs, Box::new(classify)),
            device: device.clone().inner(),
        }
    }

    /// The same function, prepared for the CPU: what is attacked from now on.
    #[must_use]
    pub(crate) fn prepared(self, frozen: Frozen) -> Self {
        Self { victim: Victim::Cpu(Arc::new(frozen)), ..self }
    }

    /// As an attack sees it.
    pub fn victim(&self) -> &dyn Classifier {
        match &self.victim {
            Victim::Device(network) => network,
            Victim::Cpu(frozen) => &**frozen,
        }
    }

    /// What it multiplies in. In bf16 an attack's gradients are those of the unrounded weights where the rounded network's
    /// activations are positive; what it is right about is the rounded network's.
    pub fn precision(&self) -> Precision {
        match &self.victim {
            Victim::Device(_) => Precision::F32,
            Victim::Cpu(frozen) => frozen.precision(),
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
