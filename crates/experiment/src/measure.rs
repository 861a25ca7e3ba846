//! What probing and evaluating share: a rate with its interval, images as tensors, predictions, and what can go wrong.

use crate::data::Images;
use burn::Tensor;
use burn::tensor::{Device, Int, TensorData};
use gabion_runtime::BundleError;
use gabion_spec as spec;
use rayon::prelude::*;
use serde::Serialize;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// The result of a probe or an evaluation.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a bundle cannot be probed or evaluated on a data set.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Images of another size than the network takes.
    #[error(
        "the {part} images are {height}x{width} pixels, the bundle takes {}x{}: resize them when opening the data set, \
         or use a bundle made for that size",
        input.height,
        input.width
    )]
    Size {
        /// `train` or `test`.
        part: &'static str,
        /// Rows of the images.
        height: usize,
        /// Columns of the images.
        width: usize,
        /// What the network takes.
        input: spec::Input,
    },
    /// No image to measure on.
    #[error("there is no {part} image: name a data set that has some, or ask for more than 0")]
    Empty {
        /// `train` or `test`.
        part: &'static str,
    },
    /// Fewer images than a minibatch.
    #[error("{images} training images do not fill one batch of {batch}: set `batch` to at most {images}")]
    FewImages {
        /// How many there are.
        images: usize,
        /// Images in a minibatch.
        batch: usize,
    },
    /// A label outside the classes.
    #[error("{part} image {image} has label {label}, the data set names {classes} classes: read the data set again")]
    Label {
        /// `train` or `test`.
        part: &'static str,
        /// The image.
        image: usize,
        /// Its label.
        label: u16,
        /// Classes of the data set.
        classes: usize,
    },
    /// A recipe that makes no sense.
    #[error(transparent)]
    Recipe(#[from] spec::Invalid),
    /// A bundle without a classifier.
    #[error("bundle `{name}` has no head: train one with `gabion probe` first")]
    NoHead {
        /// The bundle's name.
        name: String,
    },
    /// A head for other classes.
    #[error(
        "the bundle's head tells {ours} classes ({our_first}), the data set has {theirs} ({their_first}): evaluate on \
         the data set that the head was trained on, or train a head on this one"
    )]
    Classes {
        /// Classes of the head.
        ours: usize,
        /// The first of them that differs, or a remark.
        our_first: String,
        /// Classes of the data set.
        theirs: usize,
        /// The first of them that differs, or a remark.
        their_first: String,
    },
    /// A head that was trained on another encoder.
    #[error("the head was trained on another encoder than the one in {}: probe that bundle itself", path.display())]
    OtherEncoder {
        /// The bundle.
        path: PathBuf,
    },
    /// A NaN or an infinity among the network's outputs.
    #[error(
        "the network gives a value that is not finite for {part} image {image}: its weights have diverged, \
             go back to an earlier checkpoint"
    )]
    NotFinite {
        /// `train` or `test`.
        part: &'static str,
        /// The image, an index into that part of the data set.
        image: usize,
    },
    /// A training loss that is no number.
    #[error("the loss is not finite in epoch {epoch}: lower `rate`")]
    Diverged {
        /// The epoch, from 1.
        epoch: u32,
    },
    /// A new bundle where there is something.
    #[error("{} exists, and a fine-tuned encoder goes into a new bundle: choose another --out", path.display())]
    Exists {
        /// Where it should be written.
        path: PathBuf,
    },
    /// A new bundle of a probe that left the encoder as it was.
    #[error("the probe moved no encoder: write its head into the bundle that was probed")]
    NotTuned,
    /// An adversarial image outside of its budget; a defect of the attack, never of the input.
    #[error("the attack on test image {image} left its budget of {epsilon}: report this with the bundle")]
    OutsideBall {
        /// The image, an index into the test images.
        image: usize,
        /// The budget.
        epsilon: spec::Pixels,
    },
    /// A file that is no network.
    #[error("{} is no network that is known here: {why}", path.display())]
    Network {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A file that has no adversarial images for this bundle and data.
    #[error("the adversarial images of {} cannot be verified: {why}", path.display())]
    Adversarial {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A subject that cannot be asked over many crops.
    #[error("`{name}` is no encoder with a head: crops have nothing to be averaged over")]
    NoViews {
        /// The subject's name.
        name: String,
    },
    /// Crops that could not be made.
    #[error("the crops could not be made: {why}")]
    Views {
        /// The pipeline's reason.
        why: String,
    },
    /// A folder that holds what was done of another evaluation.
    #[error("{} holds another evaluation (other weights, images or settings): name another folder with --out", path.display())]
    OtherEvaluation {
        /// The folder.
        path: PathBuf,
    },
    /// The adversarial images were not kept.
    #[error("the adversarial images were not kept: evaluate with `keep` set")]
    NotKept,
    /// A bundle that cannot be opened or written.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The system refused; `doing` is a verb.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
}

impl Error {
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { doing, path, source }
    }
}

/// A share of images with its Wilson 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rate {
    /// Images that count.
    pub right: u64,
    /// Images in all.
    pub images: u64,
    /// `right / images`, 0 of none.
    pub accuracy: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
}

impl Rate {
    /// The share of `right` in `images`.
    ///
    /// # Panics
    /// When more are right than there are.
    pub fn new(right: u64, images: u64) -> Self {
        assert!(right <= images, "{right} right of {images} images");
        let [low, high] = wilson(right, images);
        let accuracy = if images == 0 { 0.0 } else { right as f64 / images as f64 };
        Self { right, images, accuracy, low, high }
    }

    /// The share as a claim of a manifest.
    pub(crate) fn claim(self, what: String, data: &str, command: &str) -> spec::Claim {
        let Self { right, images, .. } = self;
        spec::Claim { what, data: data.into(), images, right, command: command.into() }
    }
}

/// The 95 % score interval of a share (Wilson 1927): where the true share lies, sampling error alone considered.
/// `[0, 1]` of no images.
pub fn wilson(right: u64, images: u64) -> [f64; 2] {
    // The normal distribution's 97.5 % point.
    const Z: f64 = 1.959_963_984_540_054;
    if images == 0 {
        return [0.0, 1.0];
    }
    let (n, p) = (images as f64, right as f64 / images as f64);
    let scale = 1.0 / (1.0 + Z * Z / n);
    let centre = p + Z * Z / (2.0 * n);
    let half = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    // At the ends the exact bounds are 0 and 1; rounding must not miss them.
    let low = if right == 0 { 0.0 } else { (scale * (centre - half)).max(0.0) };
    let high = if right == images { 1.0 } else { (scale * (centre + half)).min(1.0) };
    [low, high]
}

/// Whether a part of a data set is there, of the right size and labelled within its classes.
pub(crate) fn check(part: &'static str, images: &Images, input: spec::Input) -> Result<()> {
    let Images { height, width, .. } = *images;
    if images.is_empty() {
        return Err(Error::Empty { part });
    }
    if [height, width] != [input.height as usize, input.width as usize] {
        return Err(Error::Size { part, height, width, input });
    }
    let classes = images.classes.len();
    match images.labels.iter().position(|&label| usize::from(label) >= classes) {
        Some(image) => Err(Error::Label { part, image, label: images.labels[image], classes }),
        None => Ok(()),
    }
}

/// Whole images as `[indices.len(), 3, height, width]` in `[0, 1]`.
pub(crate) fn pixels(images: &Images, indices: &[usize]) -> TensorData {
    let (height, width) = (images.height, images.width);
    let area = height * width;
    let mut values = vec![0.0f32; indices.len() * 3 * area];
    values.par_chunks_exact_mut(3 * area).zip(indices).for_each(|(planes, &index)| {
        for (at, pixel) in images.image(index).chunks_exact(3).enumerate() {
            for (channel, &value) in pixel.iter().enumerate() {
                planes[channel * area + at] = f32::from(value) / 255.0;
            }
        }
    });
    TensorData::new(values, [indices.len(), 3, height, width])
}

/// Whole images as values `[images, 3, height, width]` in `[0, 1]`, the same number of each class as far as that goes: what
/// a network in int8 is calibrated on.
pub fn whole(images: &Images, count: usize, seed: u64) -> Vec<f32> {
    let indices = crate::data::order::stratified(&images.labels, count, seed);
    pixels(images, &indices).try_into_vec::<f32>().expect("pixels are f32")
}

/// The labels of some images, `[indices.len()]`.
pub(crate) fn labels(images: &Images, indices: &[usize], device: &Device) -> Tensor<1, Int> {
    let labels: Vec<i64> = indices.iter().map(|&index| i64::from(images.labels[index])).collect();
    let count = labels.len();
    Tensor::from_data(TensorData::new(labels, [count]), device)
}

/// Bytes as lowercase hexadecimal.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A tensor's values on the host.
pub(crate) fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data_as::<f32>().try_into_vec::<f32>().expect("f32 was asked for")
}

/// The most probable class of each row, the first of equals; `indices` name the images of the rows in an error.
///
/// # Shapes
/// - `logits`: `[indices.len(), classes]`
pub(crate) fn predictions(logits: Tensor<2>, part: &'static str, indices: &[usize]) -> Result<Vec<u16>> {
    let [rows, classes] = logits.dims();
    assert!(rows == indices.len(), "{rows} rows of logits for {} images", indices.len());
    let logits = host(logits);
    logits
        .chunks_exact(classes)
        .zip(indices)
        .map(|(row, &image)| {
            if !row.iter().all(|value| value.is_finite()) {
                return Err(Error::NotFinite { part, image });
            }
            let best = (1..classes).fold(0, |best, class| if row[class] > row[best] { class } else { best });
            Ok(u16::try_from(best).expect("class counts fit u16"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wilson_is_the_published_interval() {
        let near = |[low, high]: [f64; 2], expected: [f64; 2]| {
            assert!((low - expected[0]).abs() < 5e-5 && (high - expected[1]).abs() < 5e-5, "[{low}, {high}]");
        };
        // 8 of 10; 0 and 10 of 10; 81 of 263 is Newcombe's (1998) example, 15 of 148 his second, 1 of 29 his fourth.
        near(wilson(8, 10), [0.4902, 0.9433]);
        near(wilson(0, 10), [0.0, 0.2775]);
        near(wilson(10, 10), [0.7225, 1.0]);
        near(wilson(81, 263), [0.2553, 0.3662]);
        near(wilson(15, 148), [0.0624, 0.1605]);
        near(wilson(1, 29), [0.0061, 0.1718]);
        assert_eq!(wilson(0, 0), [0.0, 1.0]);
        let rate = Rate::new(3, 4);
        assert!(rate.low < rate.accuracy && rate.accuracy < rate.high);
    }

    #[test]
    fn pixels_are_planes_between_0_and_1() {
        let images = Images {
            pixels: vec![0, 51, 255, 102, 0, 51, 255, 0, 0, 0, 0, 0],
            height: 1,
            width: 2,
            labels: vec![0, 0],
            classes: vec!["one".into()],
        };
        let data = pixels(&images, &[0]);
        assert_eq!(data.shape().to_vec(), [1, 3, 1, 2]);
        assert_eq!(data.as_slice::<f32>().unwrap(), [0.0, 0.4, 0.2, 0.0, 1.0, 0.2]);
        let input = spec::Input { height: 32, width: 32 };
        let error = check("test", &images, input).unwrap_err().to_string();
        assert!(error.contains("1x2") && error.contains("32x32") && !error.contains('\n'), "{error}");
    }
}
