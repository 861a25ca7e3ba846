//! Accuracy under attack by a named protocol (METHOD section 5): what is attacked, how, and image by image what came of
//! it.
//!
//! An image is robust when its clean prediction is right and no restart's adversarial image is misclassified. Every
//! budget is reported by itself: an image that falls to a small one is not counted as fallen to a larger one.

mod files;

pub use files::tensor_name;

use crate::data::{Images, order};
use crate::measure::{Error, Rate, Result, check, host, labels, pixels, predictions};
use burn::Tensor;
use burn::module::Module;
use burn::tensor::Device;
use gabion_learn::attack::{Ball, Pgd, pgd, random_start};
use gabion_learn::{Head, Mode, Model};
use gabion_runtime::Bundle;
use gabion_spec::{self as spec, Claim, HeadKind, Invalid, Pixels, Protocol};
use serde::Serialize;
use std::cell::RefCell;
use std::time::Instant;

/// What of an evaluation does not decide its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Images attacked together.
    pub batch: usize,
    /// Keep the adversarial images, 4 bytes a value, image and budget.
    pub keep: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { batch: 100, keep: false }
    }
}

/// How far an evaluation is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// The budget of the attack that runs; none while clean images are classified.
    pub epsilon: Option<Pixels>,
    /// The restart that runs, from 0.
    pub restart: u32,
    /// Images that are done, in this restart.
    pub done: usize,
    /// Images that this restart goes through.
    pub total: usize,
    /// Images that are right so far: of those done when clean, of all under attack, where a restart only lowers it.
    pub right: usize,
    /// Images of the evaluation.
    pub images: usize,
}

/// A measured bundle.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// By what rules.
    pub protocol: Protocol,
    /// What chose the images and the restarts.
    pub seed: u64,
    /// Test images that were measured.
    pub images: u64,
    /// Unperturbed.
    pub clean: Rate,
    /// One for each budget, rising.
    pub attacks: Vec<Attack>,
    /// What came of each image, by rising index.
    pub verdicts: Vec<Verdict>,
    /// What a reader of the numbers should know; one line each.
    pub warnings: Vec<String>,
    /// Time that it took.
    pub seconds: f64,
    /// The adversarial images of each budget, `[images, 3, height, width]`, where they were kept.
    #[serde(skip)]
    adversarial: Option<Vec<Vec<f32>>>,
    /// Height and width.
    #[serde(skip)]
    size: [usize; 2],
}

/// An attack at one budget.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Attack {
    /// Such as `pgd-20`, or `pgd-50x5` with five restarts.
    pub name: String,
    /// Budget.
    pub epsilon: Pixels,
    /// Length of a step.
    pub step: Pixels,
    /// Steps of each restart.
    pub steps: u32,
    /// Restarts; one starts at the clean image, more of them at random.
    pub restarts: u32,
    /// Images that stayed right.
    pub rate: Rate,
}

impl Attack {
    /// Name and budget, such as `pgd-20 8/255`.
    pub fn what(&self) -> String {
        format!("{} {}", self.name, self.epsilon)
    }
}

/// What came of one image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Index into the test images.
    pub index: usize,
    /// Its class.
    pub label: u16,
    /// The class predicted of the clean image.
    pub predicted: u16,
    /// Whether it stayed right, for each attack.
    pub robust: Vec<bool>,
}

impl Evaluation {
    /// The adversarial images of an attack, by its place among `attacks`: `[images, 3, height, width]` in `[0, 1]`, in
    /// the order of `verdicts`; none where they were not kept. An image that the clean model gets wrong is there
    /// unchanged.
    pub fn adversarial(&self, attack: usize) -> Option<&[f32]> {
        self.adversarial.as_ref()?.get(attack).map(Vec::as_slice)
    }

    /// The measured numbers as claims of a bundle's manifest: `clean`, `pgd-20 8/255` and so on.
    pub fn claims(&self, data: &str, command: &str) -> Vec<Claim> {
        let claim = |what: String, Rate { right, images, .. }: Rate| Claim {
            what,
            data: data.into(),
            images,
            right,
            command: command.into(),
        };
        let attacks = self.attacks.iter().map(|attack| claim(attack.what(), attack.rate));
        std::iter::once(claim("clean".into(), self.clean)).chain(attacks).collect()
    }
}

/// Measures a bundle's head on whole test images, clean and under attack.
///
/// The images are chosen by [`order::stratified`]. An image's result depends neither on its batch nor on the other
/// images, up to the rounding of a batched product. Images that the clean model gets wrong are not attacked, nor are,
/// in later restarts, those that have fallen. The bundle may lie on any device; everything is computed on `device`,
/// with autodiff where the attack needs it.
///
/// # Errors
/// When there is no head, the images or classes do not fit it, the recipe makes no sense, the network gives a value
/// that is not finite, or an adversarial image leaves its budget.
pub fn evaluate(
    bundle: &Bundle,
    test: &Images,
    recipe: &spec::Evaluate,
    options: Options,
    device: &Device,
    observer: &mut dyn FnMut(Progress),
) -> Result<Evaluation> {
    let start = Instant::now();
    let epsilons = budgets(recipe, options)?;
    let head = bundle.head.as_ref().ok_or_else(|| Error::NoHead { name: bundle.manifest.name.clone() })?;
    check("test", test, bundle.manifest.input)?;
    same_classes(&bundle.manifest.classes, head, &test.classes)?;
    let indices =
        order::stratified(&test.labels, recipe.images.map_or(usize::MAX, |images| images as usize), recipe.seed);
    if indices.is_empty() {
        return Err(Error::Empty { part: "test" });
    }
    let target = Target::new(&bundle.model, head, test, options.batch, device);
    let predicted = target.clean(&indices, observer)?;
    let mut verdicts: Vec<Verdict> = indices
        .iter()
        .zip(&predicted)
        .map(|(&index, &predicted)| Verdict { index, label: test.labels[index], predicted, robust: Vec::new() })
        .collect();

    let mut warnings = Vec::new();
    if bundle.manifest.head.as_ref().is_some_and(|head| head.kind == HeadKind::Patches) {
        warnings.push("the head was trained on mean features over views, the attack is on whole images".to_string());
    }
    let mut attacks: Vec<Attack> = Vec::new();
    let mut adversarial = options.keep.then(Vec::new);
    for epsilon in epsilons {
        let attacked = target.attack(&verdicts, recipe, epsilon, options.keep, observer)?;
        let right = attacked.robust.iter().filter(|&&robust| robust).count() as u64;
        let attack = Attack {
            name: name(recipe.protocol),
            epsilon,
            step: recipe.protocol.step(epsilon),
            steps: recipe.protocol.steps(),
            restarts: recipe.protocol.restarts(),
            rate: Rate::new(right, verdicts.len() as u64),
        };
        warnings.extend(doubts(&attack, attacks.last(), attacked.unmoved));
        attacks.push(attack);
        verdicts.iter_mut().zip(attacked.robust).for_each(|(verdict, robust)| verdict.robust.push(robust));
        if let Some(kept) = &mut adversarial {
            kept.push(attacked.images);
        }
    }
    let right = verdicts.iter().filter(|verdict| verdict.predicted == verdict.label).count() as u64;
    Ok(Evaluation {
        protocol: recipe.protocol,
        seed: recipe.seed,
        images: verdicts.len() as u64,
        clean: Rate::new(right, verdicts.len() as u64),
        attacks,
        verdicts,
        warnings,
        seconds: start.elapsed().as_secs_f64(),
        adversarial,
        size: [test.height, test.width],
    })
}

/// The budgets, rising, each once.
fn budgets(recipe: &spec::Evaluate, options: Options) -> Result<Vec<Pixels>> {
    let invalid = |key, why: String| Err(Error::Recipe(Invalid { key, why }));
    if options.batch == 0 {
        return invalid("batch", "a batch needs at least 1 image".into());
    }
    if recipe.images == Some(0) {
        return invalid("images", "0 images measure nothing; leave the key out to use all".into());
    }
    if let Some(wrong) = recipe.epsilons.iter().find(|epsilon| !(0.0..=1.0).contains(&epsilon.0)) {
        return invalid("epsilons", format!("{wrong} is not between 0 and 1; write it as 8/255 or 0.01"));
    }
    let mut epsilons = recipe.epsilons.clone();
    epsilons.sort_by(|a, b| a.0.total_cmp(&b.0));
    epsilons.dedup();
    Ok(epsilons)
}

/// Whether the head tells the classes of the data set, in their order.
fn same_classes(ours: &[String], head: &Head, theirs: &[String]) -> Result<()> {
    let rows = gabion_learn::weights::export(head, "")["weight"].shape()[0];
    let at = (0..rows.max(theirs.len())).find(|&at| {
        // A bundle without names is trusted to have the data set's order.
        if ours.is_empty() { at >= rows || at >= theirs.len() } else { ours.get(at) != theirs.get(at) }
    });
    let name = |names: &[String], at: usize| match names.get(at) {
        Some(name) => format!("class {at} is `{name}`"),
        None => format!("there is no class {at}"),
    };
    match at {
        None if rows == theirs.len() => Ok(()),
        at => Err(Error::Classes {
            ours: rows,
            our_first: name(ours, at.unwrap_or(0)),
            theirs: theirs.len(),
            their_first: name(theirs, at.unwrap_or(0)),
        }),
    }
}

fn name(protocol: Protocol) -> String {
    match (protocol.steps(), protocol.restarts()) {
        (steps, 1) => format!("pgd-{steps}"),
        (steps, restarts) => format!("pgd-{steps}x{restarts}"),
    }
}

/// What speaks against taking a number at its word.
fn doubts(attack: &Attack, smaller: Option<&Attack>, unmoved: usize) -> Vec<String> {
    let (what, mut doubts) = (attack.what(), Vec::new());
    let reach = attack.step.0 * attack.steps as f32;
    if attack.restarts == 1 && reach < attack.epsilon.0 * 0.999 {
        doubts.push(format!("{what}: {} steps of {} reach only {reach:.4}", attack.steps, attack.step));
    }
    if let Some(smaller) = smaller.filter(|smaller| smaller.rate.right < attack.rate.right) {
        let (more, fewer) = (attack.rate.right, smaller.rate.right);
        doubts.push(format!(
            "{what}: {more} images stay right, at {} only {fewer}: the attack is too weak to tell them apart",
            smaller.epsilon
        ));
    }
    if unmoved > 0 && attack.epsilon.0 > 0.0 {
        doubts.push(format!(
            "{what}: {unmoved} images were not moved at all: no step raised their loss, look for a vanishing gradient"
        ));
    }
    doubts
}

/// What came of one budget, in the order of the verdicts.
struct Attacked {
    robust: Vec<bool>,
    /// Attacked images that stayed exactly as they were in the last restart that they saw.
    unmoved: usize,
    /// Kept images, else empty. The clean one where it was wrong already; else the first that fooled the model, or the
    /// last that did not.
    images: Vec<f32>,
}

/// What is attacked.
struct Target<'a> {
    /// Without autodiff.
    plain: (Model, Head),
    /// With it.
    graph: (Model, Head),
    test: &'a Images,
    batch: usize,
    device: Device,
}

impl<'a> Target<'a> {
    fn new(model: &Model, head: &Head, test: &'a Images, batch: usize, device: &Device) -> Self {
        let device = device.clone().inner();
        let plain = (model.valid().to_device(&device), head.valid().to_device(&device));
        Self { graph: plain.clone().train(), plain, test, batch, device }
    }

    /// Predictions of images as they are given.
    fn predict(&self, x: Tensor<4>, indices: &[usize]) -> Result<Vec<u16>> {
        let (model, head) = &self.plain;
        predictions(head.forward(model.feature(x, Mode::Eval), Mode::Eval), "test", indices)
    }

    fn clean(&self, indices: &[usize], observer: &mut dyn FnMut(Progress)) -> Result<Vec<u16>> {
        let (mut predicted, mut right) = (Vec::with_capacity(indices.len()), 0);
        for chunk in indices.chunks(self.batch) {
            let found = self.predict(Tensor::from_data(pixels(self.test, chunk), &self.device), chunk)?;
            right += chunk.iter().zip(&found).filter(|&(&index, &class)| self.test.labels[index] == class).count();
            predicted.extend(found);
            let (done, images) = (predicted.len(), indices.len());
            observer(Progress { epsilon: None, restart: 0, done, total: images, right, images });
        }
        Ok(predicted)
    }

    fn attack(
        &self,
        verdicts: &[Verdict],
        recipe: &spec::Evaluate,
        epsilon: Pixels,
        keep: bool,
        observer: &mut dyn FnMut(Progress),
    ) -> Result<Attacked> {
        let protocol = recipe.protocol;
        let ball = Ball { epsilon: epsilon.0 };
        let attack = Pgd { ball, step: protocol.step(epsilon).0, steps: protocol.steps() };
        let size = [self.test.height, self.test.width];
        let stride = 3 * size[0] * size[1];
        let mut robust: Vec<bool> = verdicts.iter().map(|verdict| verdict.predicted == verdict.label).collect();
        let mut moved = vec![true; verdicts.len()];
        let mut images = Vec::new();
        if keep {
            let indices: Vec<usize> = verdicts.iter().map(|verdict| verdict.index).collect();
            images = pixels(self.test, &indices).try_into_vec::<f32>().expect("pixels are f32");
        }
        for restart in 0..protocol.restarts() {
            let standing: Vec<usize> = (0..verdicts.len()).filter(|&place| robust[place]).collect();
            let mut done = 0;
            for places in standing.chunks(self.batch) {
                let indices: Vec<usize> = places.iter().map(|&place| verdicts[place].index).collect();
                let x = Tensor::from_data(pixels(self.test, &indices), &self.device);
                let start = match protocol.restarts() {
                    1 => x.zeros_like(),
                    _ => random_start(recipe.seed, restart, &indices, size, ball, &self.device),
                };
                let adversarial = self.ascend(x.clone(), &indices, start, &attack)?;
                let found = self.predict(adversarial.clone(), &indices)?;
                let (clean, adversarial) = (host(x), host(adversarial));
                for (row, &place) in places.iter().enumerate() {
                    let adversarial = &adversarial[row * stride..][..stride];
                    let change = farthest(&clean[row * stride..][..stride], adversarial);
                    // Written so that a NaN is outside.
                    if !(change <= epsilon.0 + 1e-6 && adversarial.iter().all(|value| (0.0..=1.0).contains(value))) {
                        return Err(Error::OutsideBall { image: indices[row], epsilon });
                    }
                    robust[place] = found[row] == verdicts[place].label;
                    moved[place] = change > 0.0;
                    if keep {
                        images[place * stride..][..stride].copy_from_slice(adversarial);
                    }
                }
                done += places.len();
                let right = robust.iter().filter(|&&robust| robust).count();
                let (total, images) = (standing.len(), verdicts.len());
                observer(Progress { epsilon: Some(epsilon), restart, done, total, right, images });
            }
        }
        Ok(Attacked { robust, unmoved: moved.iter().filter(|&&moved| !moved).count(), images })
    }

    /// PGD, which would pass over an iterate that is not finite in silence: such a one is an error here.
    fn ascend(&self, x: Tensor<4>, indices: &[usize], start: Tensor<4>, attack: &Pgd) -> Result<Tensor<4>> {
        let rows = indices.len();
        // 0 for each image, NaN once its iterate or its logits are not finite; on the device, so that no step waits.
        let poison = RefCell::new(Tensor::<1>::zeros([rows], &self.device));
        let classify = |x: Tensor<4>| {
            let (model, head) = &self.graph;
            let logits = head.forward(model.feature(x.clone(), Mode::Frozen), Mode::Frozen);
            let seen = x.inner().flatten::<2>(1, 3).sum_dim(1) + logits.clone().inner().sum_dim(1);
            let seen = seen.mul_scalar(0.0).reshape([rows]);
            poison.replace_with(|poison| poison.clone() + seen);
            logits
        };
        let adversarial = pgd(classify, x, labels(self.test, indices, &self.device), start, attack);
        match host(poison.into_inner()).iter().position(|value| !value.is_finite()) {
            Some(row) => Err(Error::NotFinite { part: "test", image: indices[row] }),
            None => Ok(adversarial),
        }
    }
}

/// The greatest distance of two values at one place; NaN when there is one.
fn farthest(a: &[f32], b: &[f32]) -> f32 {
    let distances = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    distances.fold(0.0, |most: f32, distance| if distance > most || distance.is_nan() { distance } else { most })
}

#[cfg(test)]
mod tests;
