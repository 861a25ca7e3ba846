//! The order of local images, and their views.

use super::guard::{Held, Shape};
use super::{AdaptError, Local, Samples};
use crate::Rgb;
use burn::Tensor;
use burn::tensor::{Device, Int, TensorData};
use gabion_augment::cpu::{self, Source};
use gabion_augment::{Draw, ViewId, sample};
use gabion_spec::{Adapt, Augment, Crop, LocalObjective, Statistics};

/// The images that are trained on.
pub(super) struct Deck<'a> {
    images: Vec<&'a Rgb>,
    labels: Option<Vec<u16>>,
    augment: Augment,
    batch: usize,
    seed: u64,
}

/// A crop of more than half of the image, and a flip: what leaves colours and corruptions as they are.
pub(super) fn mild(size: [u32; 2]) -> Augment {
    Augment { crop: Crop { scale: [0.6, 1.0], ratio: [3.0 / 4.0, 4.0 / 3.0] }, flip: 0.5, ..Augment::identity(size) }
}

/// What is trained on and what is held out, once everything about the images is known to be right.
pub(super) fn split<'a>(shape: &Shape, local: &Local<'a>, recipe: &Adapt) -> Result<(Deck<'a>, Held<'a>), AdaptError> {
    let supervised = matches!(recipe.objective, LocalObjective::Supervised);
    let samples = local.samples;
    check("local", samples, shape.classes)?;
    if recipe.rehearsal > 0.0 && local.source.is_none() {
        return Err(AdaptError::NoSource { share: recipe.rehearsal });
    }
    let all: Vec<usize> = (0..samples.images.len()).collect();
    let (train, held) = match local.guard {
        Some(guard) => {
            check("guard", guard, shape.classes)?;
            let Some(labels) = guard.labels else {
                return Err(AdaptError::NoLabels { what: "guard", remedy: "accuracy is measured on them, label them" });
            };
            (all, Held { images: guard.images.iter().collect(), labels: labels.to_vec() })
        }
        None => {
            let Some(labels) = samples.labels else {
                return Err(AdaptError::NoLabels { what: "local", remedy: "give a labelled guard set beside them" });
            };
            let held = stratified(labels, recipe.guard.share, recipe.seed);
            let train = all.into_iter().filter(|index| held.binary_search(index).is_err()).collect();
            let held = Held {
                images: held.iter().map(|&index| &samples.images[index]).collect(),
                labels: held.iter().map(|&index| labels[index]).collect(),
            };
            (train, held)
        }
    };
    if held.labels.is_empty() {
        return Err(AdaptError::FewImages { what: "guard", images: 0, least: 1 });
    }
    let labels: Option<Vec<u16>> = samples.labels.map(|labels| train.iter().map(|&index| labels[index]).collect());
    if supervised {
        let Some(labels) = &labels else {
            return Err(AdaptError::NoLabels { what: "local", remedy: "label them, or adapt with emp-ssl" });
        };
        if let Some((&label, rest)) = labels.split_first()
            && rest.iter().all(|other| *other == label)
        {
            return Err(AdaptError::OneClass { label });
        }
    }
    let least = if supervised && recipe.statistics != Statistics::Train { 1 } else { 2 };
    if train.len() < least {
        return Err(AdaptError::FewImages { what: "local", images: train.len(), least });
    }
    let images: Vec<&Rgb> = train.iter().map(|&index| &samples.images[index]).collect();
    let deck = Deck {
        batch: images.len().min(recipe.batch as usize),
        images,
        labels,
        augment: Augment::identity(shape.size.map(narrow)),
        seed: recipe.seed,
    };
    Ok((deck, held))
}

pub(super) fn check(what: &'static str, samples: Samples<'_>, classes: usize) -> Result<(), AdaptError> {
    if samples.images.is_empty() {
        return Err(AdaptError::FewImages { what, images: 0, least: 1 });
    }
    for (image, Rgb { height, width, pixels }) in samples.images.iter().enumerate() {
        let (height, width, bytes) = (*height, *width, pixels.len());
        let small = |side| (1..=1 << 16).contains(&side);
        if !small(height) || !small(width) || height * width * 3 != bytes {
            return Err(AdaptError::Image { what, image, width, height, bytes });
        }
    }
    let Some(labels) = samples.labels else { return Ok(()) };
    if labels.len() != samples.images.len() {
        return Err(AdaptError::Labels { what, labels: labels.len(), images: samples.images.len() });
    }
    match labels.iter().position(|&label| usize::from(label) >= classes) {
        Some(image) => Err(AdaptError::Label { what, image, label: labels[image], classes }),
        None => Ok(()),
    }
}

/// About this share of every class, and of all images, rising; at least one.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
fn stratified(labels: &[u16], share: f64, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..labels.len()).collect();
    order.sort_by_key(|&index| (labels[index], bits(&[seed, HELD, index as u64])));
    // Every so many-eth of the images sorted by class.
    let count = ((labels.len() as f64 * share).round() as usize).clamp(1, labels.len());
    let mut held: Vec<usize> = (0..count).map(|place| order[(2 * place + 1) * labels.len() / (2 * count)]).collect();
    held.sort_unstable();
    held
}

const HELD: u64 = 1;
const ORDER: u64 = 2;

/// A number that belongs to its name (SplitMix64, Steele et al. 2014).
pub(super) fn bits(name: &[u64]) -> u64 {
    name.iter().fold(0x6761_6269_6f6e_u64, |state, part| {
        let mut z = (state ^ part).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

fn narrow(side: usize) -> u32 {
    u32::try_from(side).expect("sides were checked")
}

impl Deck<'_> {
    /// The same, shown otherwise.
    pub(super) fn augmented(self, augment: Augment) -> Self {
        Self { augment, ..self }
    }

    /// Images in all.
    pub(super) fn len(&self) -> usize {
        self.images.len()
    }

    /// Images of a minibatch.
    pub(super) fn batch(&self) -> usize {
        self.batch
    }

    /// Whether every epoch shows the same.
    pub(super) fn fixed(&self) -> bool {
        self.augment == Augment::identity(self.augment.size)
    }

    /// The epoch that a minibatch starts in.
    pub(super) fn epoch(&self, number: u64) -> u64 {
        number * self.batch as u64 / self.len() as u64
    }

    /// The images of a minibatch: the next ones of epochs on end, each in an order of its own.
    pub(super) fn minibatch(&self, number: u64) -> Vec<usize> {
        let (count, batch) = (self.len() as u64, self.batch as u64);
        let mut chosen = Vec::with_capacity(self.batch);
        let mut at = number * batch;
        while chosen.len() < self.batch {
            let epoch = at / count;
            let mut order: Vec<usize> = (0..self.len()).collect();
            order.sort_by_key(|&index| (bits(&[self.seed, ORDER, epoch, index as u64]), index));
            let from = usize::try_from(at % count).expect("below the number of images");
            let taken = (self.batch - chosen.len()).min(self.len() - from);
            chosen.extend_from_slice(&order[from..from + taken]);
            at += taken as u64;
        }
        chosen
    }

    /// Views of some images, `[views * indices.len(), 3, height, width]`, view-major.
    pub(super) fn images(&self, indices: &[usize], epoch: u64, views: u32, device: &Device) -> Tensor<4> {
        let sources: Vec<Source<'_>> = indices
            .iter()
            .map(|&index| {
                let Rgb { height, width, ref pixels } = *self.images[index];
                Source::bytes(pixels, [narrow(height), narrow(width)])
            })
            .collect();
        let epoch = u32::try_from(epoch).unwrap_or(u32::MAX);
        let draw = |view, place: usize| {
            let id = ViewId { seed: self.seed, epoch, image: narrow(indices[place]), view };
            Draw { image: narrow(place), ..sample(&self.augment, id, sources[place].size) }
        };
        let places = 0..indices.len();
        let draws: Vec<Draw> = (0..views)
            .flat_map(|view| places.clone().map(move |place| (view, place)))
            .map(|(v, p)| draw(v, p))
            .collect();
        let [height, width] = self.augment.size.map(|side| side as usize);
        let mut values = vec![0.0; draws.len() * 3 * height * width];
        cpu::apply_batch(&sources, &draws, self.augment.size, &mut values);
        Tensor::from_data(TensorData::new(values, [draws.len(), 3, height, width]), device)
    }

    /// Some images as they are, `[indices.len(), 3, height, width]`.
    pub(super) fn whole(&self, indices: &[usize], device: &Device) -> Tensor<4> {
        let size = self.augment.size.map(|side| side as usize);
        tensor_of(indices.iter().map(|&index| self.images[index]), size, device)
    }

    /// Their labels.
    pub(super) fn labels(&self, indices: &[usize], device: &Device) -> Tensor<1, Int> {
        let labels = self.labels.as_ref().expect("supervised training has labels");
        let values: Vec<i64> = indices.iter().map(|&index| i64::from(labels[index])).collect();
        Tensor::from_data(TensorData::new(values, [indices.len()]), device)
    }
}

/// The values of an image's largest centred part, `[3, height, width]` in `[0, 1]`, as a prediction sees it.
pub(super) fn planes(image: &Rgb, [height, width]: [usize; 2]) -> Vec<f32> {
    let fitted = image.centre(height, width);
    (0..3).flat_map(|channel| fitted.pixels.iter().skip(channel).step_by(3).map(|&v| f32::from(v) / 255.0)).collect()
}

/// Images as they are predicted, `[n, 3, height, width]`.
pub(super) fn tensor_of<'a>(
    images: impl ExactSizeIterator<Item = &'a Rgb>,
    size @ [height, width]: [usize; 2],
    device: &Device,
) -> Tensor<4> {
    let count = images.len();
    let values: Vec<f32> = images.flat_map(|image| planes(image, size)).collect();
    Tensor::from_data(TensorData::new(values, [count, 3, height, width]), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_out_share_takes_of_every_class() {
        let labels: Vec<u16> = (0..100).map(|index| u16::from(index % 10 == 0)).collect();
        let held = stratified(&labels, 0.2, 3);
        assert_eq!(held.len(), 20);
        assert_eq!(held.iter().filter(|&&index| labels[index] == 1).count(), 2);
        assert!(held.windows(2).all(|pair| pair[0] < pair[1]));
        assert_ne!(held, stratified(&labels, 0.2, 4));
        assert_eq!(stratified(&labels[..1], 0.01, 0), [0]);
    }

    #[test]
    fn minibatches_show_every_image_once_an_epoch() {
        let image = Rgb { height: 1, width: 1, pixels: vec![0; 3] };
        let images = vec![&image; 10];
        let deck = Deck { images, labels: None, augment: Augment::identity([1, 1]), batch: 4, seed: 1 };
        let mut shown: Vec<usize> = (0..5).flat_map(|number| deck.minibatch(number)).collect();
        assert_ne!(shown[..10], shown[10..]);
        shown[..10].sort_unstable();
        shown[10..].sort_unstable();
        assert_eq!(shown[..10], (0..10).collect::<Vec<_>>());
        assert_eq!(shown[10..], (0..10).collect::<Vec<_>>());
    }
}
