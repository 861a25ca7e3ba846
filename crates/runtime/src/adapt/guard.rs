//! Accuracy on a held-out set, clean and under attack, before and after; and what is decided of it.

use super::AdaptError;
use super::minibatches::planes;
use crate::devices::is_cpu;
use crate::frozen::network;
use crate::{Bundle, Rgb};
use burn::Tensor;
use burn::module::Module;
use burn::tensor::Device;
use gabion_learn::Mode;
use gabion_learn::attack::{Campaign, Classifier as Victim, Image, Network, Pass, Region, first_of_greatest, run};
use gabion_learn::finetune::Classifier;
use gabion_spec::{Attack, Manifest, Objective, Pixels, Start, Tolerance};
use serde::Serialize;
use std::ops::ControlFlow;
use std::time::Instant;

/// What was measured of a classifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Figures {
    /// Images.
    pub images: usize,
    /// Of these classified right.
    pub clean: usize,
    /// Of these classified right whatever the attack did.
    pub robust: usize,
}

impl Figures {
    /// Clean accuracy in points of 100.
    pub fn clean_points(&self) -> f64 {
        points(self.clean, self.images)
    }

    /// Accuracy under attack in points of 100.
    pub fn robust_points(&self) -> f64 {
        points(self.robust, self.images)
    }
}

#[allow(clippy::cast_precision_loss)] // images are far below 2^52
fn points(right: usize, images: usize) -> f64 {
    if images == 0 { 0.0 } else { 100.0 * right as f64 / images as f64 }
}

/// Whether a candidate may take the place of the classifier that it came from.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
pub enum Verdict {
    /// It lost no more than is allowed.
    Promoted,
    /// It did; what it came from stays.
    Refused {
        /// What it lost too much of.
        lost: Vec<Lost>,
    },
}

/// A loss beyond what is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Lost {
    /// Accuracy `clean` or `robust`.
    pub what: &'static str,
    /// Points before.
    pub before: f64,
    /// Points after.
    pub after: f64,
    /// Points that may be lost.
    pub allowed: f64,
}

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { what, before, after, allowed } = self;
        write!(
            f,
            "{what} accuracy fell from {before:.1} to {after:.1}, more than the {allowed} points that may be lost"
        )
    }
}

/// What is decided of figures of the same images before and after.
pub fn decide(before: &Figures, after: &Figures, tolerance: &Tolerance) -> Verdict {
    let rows = [
        ("clean", before.clean_points(), after.clean_points(), tolerance.clean_points),
        ("robust", before.robust_points(), after.robust_points(), tolerance.robust_points),
    ];
    // Counts of equal images: what is exactly allowed must not fall to rounding.
    let beyond = |(what, before, after, allowed)| {
        (before - after > allowed + 1e-9).then_some(Lost { what, before, after, allowed })
    };
    let lost: Vec<Lost> = rows.into_iter().filter_map(beyond).collect();
    if lost.is_empty() { Verdict::Promoted } else { Verdict::Refused { lost } }
}

/// What a classifier takes and tells.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Height and width.
    pub size: [usize; 2],
    /// Classes.
    pub classes: usize,
}

impl Shape {
    /// Of a manifest with a head.
    pub fn of(manifest: &Manifest) -> Self {
        let size = [manifest.input.height as usize, manifest.input.width as usize];
        Self { size, classes: manifest.classes.len() }
    }
}

/// Labelled images that nothing is trained on.
pub struct Held<'a> {
    /// The images.
    pub images: Vec<&'a Rgb>,
    /// Their classes.
    pub labels: Vec<u16>,
}

/// How a classifier is measured.
#[derive(Clone, Copy)]
pub struct Guard<'a> {
    /// What the network is.
    pub manifest: &'a Manifest,
    /// The attack.
    pub tolerance: Tolerance,
    /// Seeds the attack.
    pub seed: u64,
    /// Images of a pass.
    pub rows: usize,
    /// Where it computes, without autodiff.
    pub device: &'a Device,
    /// What computes there.
    pub by: By,
}

/// What computes an attack's passes. Both give the same logits and gradients but for rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The network prepared for the CPU, faster by far.
    Prepared,
    /// Burn's modules and its autodiff, on any device.
    Modules,
}

impl By {
    /// The fastest there is on a device.
    pub fn fastest(device: &Device) -> Self {
        if is_cpu(device) { Self::Prepared } else { Self::Modules }
    }
}

/// The attack of a guard: from a random start, in steps of a quarter of the budget.
pub fn attack(epsilon: Pixels, steps: u32) -> Attack {
    let step = Pixels(epsilon.0 / 4.0);
    let objective = Objective::CrossEntropy;
    Attack::Pgd { objective, steps, step, restarts: 1, start: Start::Random, momentum: 0.0, eot: 1 }
}

impl Guard<'_> {
    /// Classifies and attacks every image; `classifier` lies on the device. Also the seconds that it took.
    ///
    /// # Errors
    /// [`AdaptError::Cancelled`] when `told` breaks; when the prepared network is not finite.
    pub fn measure(
        &self,
        classifier: &Classifier,
        held: &Held<'_>,
        told: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<(Figures, f64), AdaptError> {
        let start = Instant::now();
        let Shape { size, classes } = Shape::of(self.manifest);
        let figures = match self.by {
            By::Prepared => {
                let Classifier { model, head } = classifier.clone();
                let bundle = Bundle { manifest: self.manifest.clone(), model, head: Some(head) };
                let prepared = network(&bundle.stored(), self.manifest.input)?.net;
                self.attacked(&prepared, held, told)
            }
            By::Modules => {
                let graph = classifier.clone().train();
                let classify = |x: Tensor<4>| {
                    let Classifier { model, head } = if x.device().is_autodiff() { &graph } else { classifier };
                    head.forward(model.feature(x, Mode::Frozen), Mode::Frozen)
                };
                self.attacked(&Network { classify, size, classes, device: self.device.clone() }, held, told)
            }
        };
        Ok((figures?, start.elapsed().as_secs_f64()))
    }

    fn attacked(
        &self,
        victim: &dyn Victim,
        held: &Held<'_>,
        told: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Figures, AdaptError> {
        let Shape { size, classes } = Shape::of(self.manifest);
        let campaign = Campaign { victim, region: Region::linf(self.tolerance.epsilon.0), size, seed: self.seed };
        let total = held.images.len();
        let mut figures = Figures { images: total, clean: 0, robust: 0 };
        for from in (0..total).step_by(self.rows.max(1)) {
            let chunk = from..total.min(from + self.rows.max(1));
            let x: Vec<f32> = held.images[chunk.clone()].iter().flat_map(|rgb| planes(rgb, size)).collect();
            let names: Vec<u64> = chunk.clone().map(|index| index as u64).collect();
            let logits = victim.logits(&x, Pass { images: &names, draw: 0 });
            let length = x.len() / chunk.len();
            let right: Vec<Image<'_>> = logits
                .chunks_exact(classes)
                .zip(x.chunks_exact(length))
                .zip(chunk.clone())
                .map(|((logits, x), index)| (logits, Image { name: index as u64, label: held.labels[index].into(), x }))
                .filter(|(logits, image)| first_of_greatest(logits) == image.label)
                .map(|(_, image)| image)
                .collect();
            figures.clean += right.len();
            let attack = attack(self.tolerance.epsilon, self.tolerance.steps);
            figures.robust += run(&attack, campaign, &right).iter().filter(|found| !found.fooled()).count();
            if told(chunk.end, total).is_break() {
                return Err(AdaptError::Cancelled { steps: 0 });
            }
        }
        Ok(figures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allowed_is_not_refused_and_more_is_with_its_figures() {
        let figures = |clean, robust| Figures { images: 200, clean, robust };
        let tolerance = Tolerance { clean_points: 1.0, robust_points: 0.5, ..Tolerance::default() };
        let before = figures(100, 50);
        assert_eq!(decide(&before, &figures(98, 49), &tolerance), Verdict::Promoted);
        assert_eq!(decide(&before, &figures(130, 50), &tolerance), Verdict::Promoted);
        let Verdict::Refused { lost } = decide(&before, &figures(97, 49), &tolerance) else { panic!() };
        assert_eq!((lost.len(), lost[0].what, lost[0].before, lost[0].after), (1, "clean", 50.0, 48.5));
        assert!(lost[0].to_string().contains("from 50.0 to 48.5"));
        let Verdict::Refused { lost } = decide(&before, &figures(190, 48), &tolerance) else { panic!() };
        assert_eq!(lost[0].what, "robust");
        let Verdict::Refused { lost } = decide(&before, &figures(0, 0), &tolerance) else { panic!() };
        assert_eq!(lost.len(), 2);
    }
}
