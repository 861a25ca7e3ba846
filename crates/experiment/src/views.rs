//! Minibatches of views, made ahead of training by worker threads, or drawn ahead and made by the device.

use crate::data::Images;
use crate::data::order::permutation;
use crate::data::prefetch::Prefetch;
use burn::Tensor;
use gabion_augment::cpu::Source;
use gabion_augment::{Draw, ViewId, sample};
use gabion_runtime::Pipeline;
use gabion_runtime::pipeline::Work;
use gabion_spec::Pretrain;
use std::sync::Arc;

/// Minibatches in an epoch; what does not fill one is left out.
pub fn minibatches_per_epoch(recipe: &Pretrain, images: usize) -> usize {
    images / recipe.batch as usize
}

/// A minibatch, `[views * batch, 3, height, width]`, view-major.
pub enum Minibatch {
    /// On the training device.
    Views(Box<Tensor<4>>),
    /// What the device makes them of: numbers of images in the data set.
    Draws(Vec<Draw>),
}

fn size_of(images: &Images) -> [u32; 2] {
    [images.height, images.width].map(|side| u32::try_from(side).expect("images are small"))
}

/// Every image of a data set.
pub fn sources(images: &Images) -> Vec<Source<'_>> {
    (0..images.len()).map(|image| Source::bytes(images.image(image), size_of(images))).collect()
}

/// The draws of minibatch `index` of a run: a function of the recipe alone, whatever was computed before it.
pub fn draws(recipe: &Pretrain, images: &Images, index: usize) -> Vec<Draw> {
    let batch = recipe.batch as usize;
    let per_epoch = minibatches_per_epoch(recipe, images.len());
    let epoch = index / per_epoch;
    let order = permutation(recipe.seed, epoch as u64, images.len());
    let chosen = &order[index % per_epoch * batch..][..batch];
    let epoch = u32::try_from(epoch).expect("epochs are a u32");
    let draw = |view, image| {
        let id = ViewId { seed: recipe.seed, epoch, image, view };
        Draw { image, ..sample(&recipe.augment, id, size_of(images)) }
    };
    (0..recipe.views).flat_map(|view| chosen.iter().map(move |&image| draw(view, image))).collect()
}

/// The first minibatch with the images that it is of, as a trial of what makes views faster.
pub fn with_trial<T>(recipe: &Pretrain, images: &Images, trial: impl FnOnce(&Work<'_>) -> T) -> T {
    let draws = draws(recipe, images, 0);
    let (sources, draws) = of_few(images, &draws);
    trial(&Work { sources: &sources, draws: &draws, size: recipe.augment.size })
}

/// The images of some draws, and the draws of these.
fn of_few<'a>(images: &'a Images, draws: &[Draw]) -> (Vec<Source<'a>>, Vec<Draw>) {
    let mut chosen: Vec<u32> = draws.iter().map(|draw| draw.image).collect();
    chosen.sort_unstable();
    chosen.dedup();
    let place = |image| chosen.binary_search(&image).expect("every draw's image is among them");
    let sources = chosen.iter().map(|&image| Source::bytes(images.image(image as usize), size_of(images))).collect();
    let placed = |draw: &Draw| Draw { image: u32::try_from(place(draw.image)).expect("as small"), ..*draw };
    (sources, draws.iter().map(placed).collect())
}

/// Minibatches from `start` to `end`, in order, a few of them ready ahead. A worker that makes views also takes them to
/// the device, while it computes.
pub fn prefetch(
    recipe: &Arc<Pretrain>,
    images: &Arc<Images>,
    pipeline: &Arc<Pipeline>,
    start: usize,
    end: usize,
) -> Prefetch<Minibatch> {
    let (recipe, images, pipeline) = (Arc::clone(recipe), Arc::clone(images), Arc::clone(pipeline));
    Prefetch::new(1, 3, end - start, move |place| {
        let draws = draws(&recipe, &images, start + place);
        if pipeline.on_device() {
            return Minibatch::Draws(draws);
        }
        let (sources, draws) = of_few(&images, &draws);
        let views = pipeline.host_views(&sources, &draws, recipe.augment.size);
        Minibatch::Views(Box::new(views.into_tensor(recipe.augment.size, pipeline.device())))
    })
}
