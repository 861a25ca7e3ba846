//! Adversarial fine-tuning of a head, or of head and encoder, on a data set.

use super::Progress;
use super::work::Work;
use crate::data::Images;
use crate::data::order::{permutation, stratified};
use crate::measure::{Error, Result, host, labels};
use burn::Tensor;
use burn::module::Module;
use burn::tensor::TensorData;
use gabion_augment::{Draw, ViewId, cpu, sample};
use gabion_learn::Head;
use gabion_learn::attack::{Ball, Pgd};
use gabion_learn::finetune::{self, Classifier, Minibatch, Moves, State};
use gabion_learn::optim::Sgd;
use gabion_spec::{Augment, Crop, FineTune};

impl Work<'_> {
    /// The classifier, without autodiff, and the mean loss of each epoch.
    pub(super) fn fine_tune(
        &self,
        recipe: &FineTune,
        moves: Moves,
        observer: &mut dyn FnMut(Progress),
    ) -> Result<(Classifier, Vec<f64>)> {
        let (train, device) = (&self.data.train, &self.encoder.device);
        // Named by their places in the whole set, so that an image's shifts and starts are its own in any subset.
        let chosen = stratified(&train.labels, recipe.images.map_or(usize::MAX, |images| images as usize), self.seed);
        let (images, batch) = (chosen.len(), recipe.batch as usize);
        if images < batch {
            return Err(Error::FewImages { images, batch });
        }
        let ball = Ball { epsilon: recipe.epsilon.0 };
        let attack = Pgd { ball, step: recipe.step.0, steps: recipe.steps };
        let plan = finetune::FineTune { objective: recipe.objective, attack, moves };
        let head = Head::zero(self.length, train.classes.len(), device);
        let classifier = Classifier { model: self.encoder.model.clone(), head }.train();
        let mut state = State { classifier, optim: Sgd::new(recipe.momentum, recipe.weight_decay) };
        let per_epoch = images / batch;
        let steps = u64::from(recipe.epochs) * per_epoch as u64;
        let (mut step, mut losses) = (0, Vec::new());
        for epoch in 0..recipe.epochs {
            let order: Vec<usize> =
                permutation(self.seed, epoch.into(), images).into_iter().map(|place| chosen[place as usize]).collect();
            let mut sum = 0.0;
            for indices in order.chunks_exact(batch) {
                let size = [train.height, train.width];
                let minibatch = Minibatch {
                    x: Tensor::from_data(shifted(train, indices, recipe, (self.seed, epoch)), device),
                    labels: labels(train, indices, device),
                    start: finetune::start(recipe.objective, (self.seed, epoch), indices, size, ball, device),
                };
                let loss = finetune::step(&mut state, &plan, &minibatch, recipe.rate_at(step, steps));
                // Read every time: a step is a dozen passes, waiting for it costs nothing beside them.
                let loss = f64::from(host(loss.total)[0]);
                if !loss.is_finite() {
                    return Err(Error::Diverged { epoch: epoch + 1 });
                }
                sum += loss;
                step += 1;
                observer(Progress::Step { done: step, total: steps });
            }
            #[allow(clippy::cast_precision_loss)] // minibatches are far below 2^52
            let loss = sum / per_epoch as f64;
            losses.push(loss);
            observer(Progress::Epoch { epoch: epoch + 1, epochs: recipe.epochs, loss });
        }
        Ok((state.classifier.valid(), losses))
    }
}

/// Images moved by up to `padding` pixels over black and perhaps mirrored, `[indices.len(), 3, height, width]`: a crop of
/// the image's own size out of its padded self, which no resampling touches (torchvision's `RandomCrop(padding)` and
/// `RandomHorizontalFlip`).
#[allow(clippy::cast_precision_loss)] // areas of images are far below 2^52
fn shifted(images: &Images, indices: &[usize], recipe: &FineTune, (seed, epoch): (u64, u32)) -> TensorData {
    let narrow = |value: usize| u32::try_from(value).expect("images and sides fit u32");
    let (height, width, padding) = (images.height, images.width, recipe.padding as usize);
    let [rows, columns] = [height, width].map(|side| side + 2 * padding);
    let share = (height * width) as f64 / (rows * columns) as f64;
    let ratio = width as f64 / height as f64;
    let augment = Augment {
        crop: Crop { scale: [share; 2], ratio: [ratio; 2] },
        flip: recipe.flip,
        ..Augment::identity([height, width].map(narrow))
    };
    let padded: Vec<Vec<u8>> = indices.iter().map(|&index| pad(images, index, padding)).collect();
    let size = [rows, columns].map(narrow);
    let sources: Vec<_> = padded.iter().map(|pixels| cpu::Source::bytes(pixels, size)).collect();
    let draws: Vec<Draw> = indices
        .iter()
        .enumerate()
        .map(|(place, &index)| {
            let id = ViewId { seed, epoch, image: narrow(index), view: 0 };
            Draw { image: narrow(place), ..sample(&augment, id, size) }
        })
        .collect();
    let mut values = vec![0.0; indices.len() * 3 * height * width];
    cpu::apply_batch(&sources, &draws, augment.size, &mut values);
    TensorData::new(values, [indices.len(), 3, height, width])
}

/// One image with a black border.
fn pad(images: &Images, index: usize, padding: usize) -> Vec<u8> {
    let row = 3 * images.width;
    let border = 3 * padding;
    let mut padded = vec![0; (images.height + 2 * padding) * (row + 2 * border)];
    let inside = padded.chunks_exact_mut(row + 2 * border).skip(padding);
    for (line, pixels) in inside.zip(images.image(index).chunks_exact(row)) {
        line[border..border + row].copy_from_slice(pixels);
    }
    padded
}

#[cfg(test)]
mod tests;
