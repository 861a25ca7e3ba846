//! Minibatches of views, made ahead of training by worker threads.

use crate::data::Images;
use crate::data::order::permutation;
use crate::data::prefetch::Prefetch;
use gabion_augment::cpu::{Source, apply_batch};
use gabion_augment::{Draw, ViewId, sample};
use gabion_spec::Pretrain;
use std::sync::Arc;

/// Minibatches in an epoch; what does not fill one is left out.
pub fn minibatches_per_epoch(recipe: &Pretrain, images: usize) -> usize {
    images / recipe.batch as usize
}

/// The views of minibatch `index` of a run, `[views * batch, 3, height, width]`, view-major: a function of the recipe
/// alone, whatever was computed before it.
pub fn minibatch(recipe: &Pretrain, images: &Images, index: usize) -> Vec<f32> {
    let batch = recipe.batch as usize;
    let per_epoch = minibatches_per_epoch(recipe, images.len());
    let epoch = index / per_epoch;
    let order = permutation(recipe.seed, epoch as u64, images.len());
    let chosen = &order[index % per_epoch * batch..][..batch];
    let size = [images.height, images.width].map(|side| u32::try_from(side).expect("images are small"));
    let sources: Vec<Source<'_>> =
        chosen.iter().map(|&image| Source::bytes(images.image(image as usize), size)).collect();
    let draws: Vec<Draw> = (0..recipe.views)
        .flat_map(|view| chosen.iter().zip(0u32..).map(move |(&image, place)| (view, image, place)))
        .map(|(view, image, place)| {
            let epoch = u32::try_from(epoch).expect("epochs are a u32");
            let draw = sample(&recipe.augment, ViewId { seed: recipe.seed, epoch, image, view }, size);
            Draw { image: place, ..draw }
        })
        .collect();
    let [height, width] = recipe.augment.size;
    let mut views = vec![0.0; draws.len() * 3 * (height * width) as usize];
    apply_batch(&sources, &draws, recipe.augment.size, &mut views);
    views
}

/// Minibatches from `start` to `end`, in order, a few of them ready ahead.
pub fn prefetch(recipe: &Arc<Pretrain>, images: &Arc<Images>, start: usize, end: usize) -> Prefetch<Vec<f32>> {
    let (recipe, images) = (Arc::clone(recipe), Arc::clone(images));
    Prefetch::new(1, 3, end - start, move |place| minibatch(&recipe, &images, start + place))
}
