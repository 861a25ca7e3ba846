//! Adversarial images out of a file, looked at again: are they within the budget, and do they fool the model?

use super::crops::{Crops, Over};
use super::files::{ABOUT, About, tensor_name};
use super::subject::Drawn;
use super::{Scene, Subject};
use crate::data::Images;
use crate::measure::{Error, Result, pixels};
use gabion_learn::attack::{Classifier, FRESH, Pass, Region, first_of_greatest};
use gabion_spec::{Norm, Pixels};
use safetensors::{Dtype, SafeTensors};
use serde::Serialize;
use std::path::Path;

/// Crops of an image that a file may ask for.
const MOST_VIEWS: u32 = 4096;

/// What was seen of the images of one budget.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verified {
    /// Budget.
    pub epsilon: Pixels,
    /// How it is measured.
    pub norm: Norm,
    /// Images in the file.
    pub images: usize,
    /// Those that leave the budget or `[0, 1]`.
    pub outside: usize,
    /// The greatest distance.
    pub farthest: f32,
    /// Those that the model gets right.
    pub right: usize,
    /// As many as the file says, where it says so.
    pub said: Option<usize>,
}

impl Verified {
    /// Whether every image is within the budget, and no more of them are right than the file says.
    pub fn holds(&self) -> bool {
        self.outside == 0 && self.said.is_none_or(|said| self.right <= said)
    }
}

/// Looks at every image of a file that [`super::Evaluation::write_adversarial`] wrote.
///
/// # Errors
/// When the file cannot be read or is none of these, or is of other images than the data set has.
pub fn verify(subject: &Subject, test: &Images, path: &Path) -> Result<Vec<Verified>> {
    let wrong = |why: String| Error::Adversarial { path: path.to_path_buf(), why };
    let bytes = std::fs::read(path).map_err(Error::io("read the adversarial images of", path))?;
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|error| wrong(error.to_string()))?;
    let about = header.metadata().as_ref().and_then(|metadata| metadata.get(ABOUT));
    let about: Option<About> =
        about.map(|text| serde_json::from_str(text)).transpose().map_err(|error| wrong(error.to_string()))?;
    if let Some(theirs) = about.as_ref().filter(|about| about.weights != subject.weights) {
        return Err(wrong(format!("they were made for weights {}, these are {}", theirs.weights, subject.weights)));
    }
    let norm = about.as_ref().map_or_else(Norm::default, |about| about.norm);
    let tensors = SafeTensors::deserialize(&bytes).map_err(|error| wrong(error.to_string()))?;
    let whole = |name: &str| -> Result<Vec<usize>> {
        let view = tensors.tensor(name).ok().filter(|view| view.dtype() == Dtype::I64);
        let view = view.ok_or_else(|| wrong(format!("there is no i64 tensor `{name}`")))?;
        let values: Vec<i64> = bytemuck::pod_collect_to_vec(view.data());
        values
            .into_iter()
            .map(|value| usize::try_from(value).map_err(|_| wrong(format!("`{name}` has {value}"))))
            .collect()
    };
    let (indices, labels) = (whole("index")?, whole("label")?);
    let ours = |at: usize| test.labels.get(indices[at]).map(|&label| usize::from(label));
    if let Some(at) = (0..indices.len()).find(|&at| ours(at) != labels.get(at).copied()) {
        return Err(wrong(format!("image {} has another label in this data set, or none", indices[at])));
    }
    let clean = pixels(test, &indices).try_into_vec::<f32>().expect("pixels are f32");
    let stride = 3 * test.height * test.width;
    let crops;
    let victim: &dyn Classifier = match about.as_ref().and_then(|about| about.crops) {
        Some(Drawn { views, seed }) if (1..=MOST_VIEWS).contains(&views) => {
            crops = Crops(Over::new(subject, views, seed)?);
            &crops
        }
        Some(Drawn { views, .. }) => return Err(wrong(format!("{views} crops are outside 1..={MOST_VIEWS}"))),
        None => subject.victim(),
    };
    let mut verified = Vec::new();
    let mut named: Vec<(String, Pixels)> = Vec::new();
    for name in tensors.names() {
        let Some(budget) = name.strip_prefix("adversarial_") else { continue };
        let epsilon = Pixels::length(&budget.replace('_', "/")).map_err(|error| wrong(error.to_string()))?;
        named.push((name.to_string(), epsilon));
    }
    named.sort_by(|a, b| a.1.0.total_cmp(&b.1.0));
    for (name, epsilon) in named {
        let view = tensors.tensor(&name).map_err(|error| wrong(error.to_string()))?;
        let shape = [indices.len(), 3, test.height, test.width];
        if view.dtype() != Dtype::F32 || view.shape() != shape {
            return Err(wrong(format!("`{name}` is {:?} {:?}, not f32 {shape:?}", view.dtype(), view.shape())));
        }
        let values: Vec<f32> = bytemuck::pod_collect_to_vec(view.data());
        let region = Region { norm, epsilon: epsilon.0 };
        let (mut outside, mut farthest, mut right) = (0, 0.0f32, 0);
        for (x, z) in clean.chunks_exact(stride).zip(values.chunks_exact(stride)) {
            outside += usize::from(!region.contains(x, z, 1e-6));
            let distance = region.distance(x, z);
            farthest = if distance > farthest || distance.is_nan() { distance } else { farthest };
        }
        for (indices, z) in indices.chunks(Scene::TOGETHER).zip(values.chunks(Scene::TOGETHER * stride)) {
            let names: Vec<u64> = indices.iter().map(|&index| index as u64).collect();
            let logits = victim.logits(z, Pass { images: &names, draw: FRESH });
            let rows = logits.chunks_exact(subject.outputs).zip(indices);
            right += rows
                .filter(|(logits, index)| {
                    let finite = logits.iter().all(|logit| logit.is_finite());
                    finite && first_of_greatest(logits) == usize::from(test.labels[**index])
                })
                .count();
        }
        let said = about.as_ref().and_then(|about| about.standing.get(&tensor_name(epsilon)).copied());
        verified.push(Verified { epsilon, norm, images: indices.len(), outside, farthest, right, said });
    }
    if verified.is_empty() {
        return Err(wrong("there is no tensor `adversarial_...` in it".into()));
    }
    Ok(verified)
}
