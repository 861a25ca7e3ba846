//! Features of the data that a bundle was made from, kept beside it so that a head that adapts does not forget them.
//!
//! `source.safetensors` holds `features` `[n, hidden]` in half precision and `labels` `[n]` of 16 bits without sign: of
//! images as they are and, where they were attacked too, of their attacked twins. They are features of the encoder that
//! made them; an encoder that moves leaves them behind, and the head is then held to both.

use super::guard::Shape;
use super::minibatches::{bits, tensor_of};
use super::{AdaptError, Samples};
use crate::{Bundle, durable, untrusted};
use burn::Tensor;
use burn::module::Module;
use burn::tensor::{Device, Int, TensorData};
use gabion_learn::Mode;
use gabion_learn::attack::{Ball, Pgd, pgd};
use gabion_learn::finetune::Classifier;
use gabion_spec::{Manifest, Pixels};
use half::f16;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use std::path::Path;

/// The file's name beside a bundle.
pub const SOURCE: &str = "source.safetensors";
/// Most bytes of such a file.
pub const SOURCE_BYTES: u64 = 1 << 30;

/// Images of a pass.
const ROWS: usize = 64;
const DRAW: u64 = 3;

/// Labelled features.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    hidden: usize,
    /// `[n, hidden]`.
    features: Vec<f16>,
    labels: Vec<u16>,
}

impl Source {
    /// Of labelled images through a bundle; with an epsilon, of PGD-5 twins of them too.
    ///
    /// # Errors
    /// When the bundle has no head, or images or labels make no sense.
    pub fn gather(bundle: &Bundle, samples: Samples<'_>, epsilon: Option<Pixels>) -> Result<Self, AdaptError> {
        let head = bundle.head.as_ref().ok_or_else(|| AdaptError::NoHead { name: bundle.manifest.name.clone() })?;
        let shape = Shape::of(&bundle.manifest);
        super::minibatches::check("source", samples, shape.classes)?;
        let Some(labels) = samples.labels else {
            return Err(AdaptError::NoLabels { what: "source", remedy: "name labelled data" });
        };
        let plain = Classifier { model: bundle.model.valid(), head: head.valid() };
        let device = plain.devices().into_iter().next().expect("a head has parameters").inner();
        let mut source =
            Self { hidden: bundle.manifest.projector.hidden as usize, features: Vec::new(), labels: Vec::new() };
        let graph = plain.clone().train();
        for (images, labels) in samples.images.chunks(ROWS).zip(labels.chunks(ROWS)) {
            let x = tensor_of(images.iter(), shape.size, &device);
            source.add(plain.model.feature(x.clone(), Mode::Eval), labels);
            if let Some(epsilon) = epsilon {
                let attack = Pgd { ball: Ball { epsilon: epsilon.0 }, step: epsilon.0 / 3.0, steps: 5 };
                let classify = |x| graph.forward(x, Mode::Frozen, Mode::Frozen);
                let attacked = pgd(classify, x.clone(), labels_of(labels, &device), x.zeros_like(), &attack);
                source.add(plain.model.feature(attacked, Mode::Eval), labels);
            }
        }
        Ok(source)
    }

    fn add(&mut self, feature: Tensor<2>, labels: &[u16]) {
        let values = feature.into_data_as::<f32>();
        self.features.extend(values.as_slice::<f32>().expect("f32 was asked for").iter().map(|&v| f16::from_f32(v)));
        self.labels.extend_from_slice(labels);
    }

    /// How many features there are.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Reads the features that belong to a manifest's network. Nothing in the file is trusted.
    ///
    /// # Errors
    /// When the file cannot be read, is damaged, or is of another network or other classes.
    pub fn read(path: &Path, manifest: &Manifest) -> Result<Self, AdaptError> {
        let wrong = |why: String| AdaptError::Source { path: path.into(), why };
        let io = |source| AdaptError::Io { doing: "read", path: path.into(), source };
        let bytes = untrusted::read_within(path, SOURCE_BYTES).map_err(io)?;
        let file = SafeTensors::deserialize(&bytes).map_err(|error| wrong(error.to_string()))?;
        let view = |name: &str, dtype| match file.tensor(name) {
            Ok(view) if view.dtype() == dtype => Ok(view),
            Ok(view) => Err(wrong(format!("tensor `{name}` is {:?}, not {dtype:?}", view.dtype()))),
            Err(_) => Err(wrong(format!("tensor `{name}` is missing"))),
        };
        let (features, labels) = (view("features", Dtype::F16)?, view("labels", Dtype::U16)?);
        let hidden = manifest.projector.hidden as usize;
        let rows = labels.shape().first().copied().unwrap_or(0);
        if rows == 0 || labels.shape() != [rows] || features.shape() != [rows, hidden] {
            return Err(wrong(format!(
                "features are {:?} and labels {:?}, not [n, {hidden}] and [n]",
                features.shape(),
                labels.shape()
            )));
        }
        let features: Vec<f16> = features.data().as_chunks().0.iter().map(|&bytes| f16::from_le_bytes(bytes)).collect();
        let labels: Vec<u16> = labels.data().as_chunks().0.iter().map(|&bytes| u16::from_le_bytes(bytes)).collect();
        if !features.iter().all(|value| value.is_finite()) {
            return Err(wrong("a feature is a NaN or an infinity".into()));
        }
        match labels.iter().find(|&&label| usize::from(label) >= manifest.classes.len()) {
            Some(label) => Err(wrong(format!("label {label} is outside {} classes", manifest.classes.len()))),
            None => Ok(Self { hidden, features, labels }),
        }
    }

    /// Writes them, whole or not at all; a link of that name is replaced.
    ///
    /// # Errors
    /// Whatever the system refuses.
    pub fn write(&self, path: &Path) -> Result<(), AdaptError> {
        let io = |source| AdaptError::Io { doing: "write", path: path.into(), source };
        let features: Vec<u8> = self.features.iter().flat_map(|value| value.to_le_bytes()).collect();
        let labels: Vec<u8> = self.labels.iter().flat_map(|label| label.to_le_bytes()).collect();
        let view = |dtype, shape, bytes| TensorView::new(dtype, shape, bytes).expect("the shape is that of the values");
        let tensors = [
            ("features", view(Dtype::F16, vec![self.len(), self.hidden], &features)),
            ("labels", view(Dtype::U16, vec![self.len()], &labels)),
        ];
        let bytes = safetensors::serialize(tensors, None).map_err(|error| io(std::io::Error::other(error)))?;
        durable::write_here(path, &bytes).map_err(io)
    }

    /// `count` of them, drawn for minibatch `number`.
    ///
    /// # Shapes
    /// - output: `[count, hidden]`, `[count]`
    pub(super) fn drawn(&self, seed: u64, number: u64, count: usize, device: &Device) -> (Tensor<2>, Tensor<1, Int>) {
        let place = |row| bits(&[seed, DRAW, number, row as u64]) % self.len() as u64;
        let places: Vec<usize> = (0..count).map(|row| usize::try_from(place(row)).expect("below a length")).collect();
        let row = |&place: &usize| self.features[place * self.hidden..][..self.hidden].iter().map(|v| v.to_f32());
        let values: Vec<f32> = places.iter().flat_map(row).collect();
        let labels: Vec<u16> = places.iter().map(|&place| self.labels[place]).collect();
        (Tensor::from_data(TensorData::new(values, [count, self.hidden]), device), labels_of(&labels, device))
    }
}

fn labels_of(labels: &[u16], device: &Device) -> Tensor<1, Int> {
    let values: Vec<i64> = labels.iter().map(|&label| i64::from(label)).collect();
    Tensor::from_data(TensorData::new(values, [labels.len()]), device)
}
