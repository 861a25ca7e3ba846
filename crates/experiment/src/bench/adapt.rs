//! Adaptation to a shifted stream, measured: test images under a corruption stand for what a camera in a place of its own
//! sees, some of them for the local images that somebody has labelled.
//!
//! Three sets of test images share none: those that are trained on, those of the guard, and those that accuracy is
//! measured on, before and after, shifted and as they were published. Recipes were chosen on the other half of the test
//! set ([`Half::Tuning`]), so that no image that a recipe was chosen by is in a reported number.

use super::{forget_peak, resident};
use crate::data::Images;
use crate::data::order::{Random, stratified};
use crate::measure::Rate;
use burn::module::Module;
use burn::tensor::Device;
use gabion_corrupt::{CorruptError, Corruption, CorruptionSet, Scale, Severity, corrupt_batch};
use gabion_learn::finetune::Classifier;
use gabion_runtime::adapt::guard::{By, Guard, Held};
use gabion_runtime::adapt::{AdaptError, Figures, Local, Progress, Samples, Source, Verdict, adapt};
use gabion_runtime::{Bundle, Rgb};
use gabion_spec::{Adapt, Pixels, Tolerance};
use serde::Serialize;
use std::ops::ControlFlow;
use std::str::FromStr;

/// How a stream differs from the published images.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Shift {
    /// A corruption of the benchmark.
    Corrupted {
        /// Which.
        corruption: Corruption,
        /// 1 to 5.
        severity: Severity,
    },
    /// Low light: every value times a factor, with the noise of few photons at that level, as a byte again.
    Dark {
        /// Share of the light that is left.
        light: f64,
    },
    /// None.
    None,
}

impl Shift {
    /// A name for a table.
    pub fn name(self) -> String {
        match self {
            Self::Corrupted { corruption, severity } => format!("{corruption} {}", severity.get()),
            Self::Dark { light } => format!("dark {light}"),
            Self::None => "none".into(),
        }
    }
}

impl FromStr for Shift {
    type Err = String;

    /// Reads `corruption:severity`, `dark:light` or `none`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, level) = text.split_once(':').unwrap_or((text, "4"));
        match name {
            "none" => Ok(Self::None),
            "dark" => {
                let light = level.parse().ok().filter(|light| (0.0..=1.0).contains(light));
                let light = light.ok_or(format!("`{level}` is no share of light between 0 and 1"))?;
                Ok(Self::Dark { light })
            }
            name => {
                let corruption = name.parse().map_err(|error: CorruptError| error.to_string())?;
                let level: u8 = level.parse().map_err(|_| format!("`{level}` is no severity of 1 to 5"))?;
                let severity = Severity::new(level).map_err(|error| error.to_string())?;
                Ok(Self::Corrupted { corruption, severity })
            }
        }
    }
}

/// Which half of the test images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Half {
    /// That of reported numbers.
    Reported,
    /// The other, to choose recipes by.
    Tuning,
}

/// What is measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Settings {
    /// The streams.
    pub shifts: Vec<Shift>,
    /// What is done in each.
    pub recipes: Vec<Adapt>,
    /// Which half of the test images.
    pub half: Half,
    /// Local images to train on.
    pub local: usize,
    /// Images of the guard.
    pub guard: usize,
    /// Images that accuracy is measured on.
    pub images: usize,
    /// Seeds the choice of images and the shifts.
    pub seed: u64,
    /// Bytes of memory.
    pub memory: Option<u64>,
}

/// Accuracy before and after.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Accuracy {
    /// On clean images.
    pub clean: Rate,
    /// Under PGD-10 at 8/255 from a random start.
    pub pgd: Rate,
}

impl From<Figures> for Accuracy {
    fn from(figures: Figures) -> Self {
        let rate = |right: usize| Rate::new(right as u64, figures.images as u64);
        Self { clean: rate(figures.clean), pgd: rate(figures.robust) }
    }
}

/// One recipe in one stream.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The stream.
    pub shift: Shift,
    /// What was done.
    pub recipe: Adapt,
    /// On the shifted stream, before and after.
    pub shifted: [Accuracy; 2],
    /// On the same images as they were published, before and after: what is lost here was forgotten.
    pub published: [Accuracy; 2],
    /// What the guard said.
    pub verdict: Verdict,
    /// Its figures, before and after.
    pub guard: [Figures; 2],
    /// Optimizer steps.
    pub steps: u64,
    /// Seconds of training.
    pub seconds: f64,
    /// Seconds of the guard.
    pub guard_seconds: f64,
    /// Rows of a pass.
    pub rows: usize,
    /// MiB that training was expected to need at most.
    pub expected_mib: f64,
    /// Peak resident memory of the process while it adapted, where the system tells; memory of earlier rows included.
    pub peak_mib: Option<f64>,
    /// Mean loss of the first and of the last tenth of the steps.
    pub loss: [f64; 2],
}

/// Adapts a bundle in every stream by every recipe.
///
/// # Errors
/// Those of [`adapt`].
pub fn measure(
    bundle: &Bundle,
    source: Option<&Source>,
    test: &Images,
    settings: &Settings,
    observer: &mut dyn FnMut(&str),
) -> Result<Vec<Row>, AdaptError> {
    let [local, guard, images] = choose(test, settings);
    let published = Labelled::of(test, &images, Shift::None, settings.seed);
    let before = Classifier {
        model: bundle.model.clone(),
        head: bundle.head.clone().ok_or_else(|| AdaptError::NoHead { name: bundle.manifest.name.clone() })?,
    };
    let device = before.devices().into_iter().next().expect("a head has parameters").inner();
    let published_before = accuracy(bundle, &before, &published, settings.seed, &device)?;
    let mut rows = Vec::new();
    for &shift in &settings.shifts {
        let of = |indices: &[usize]| Labelled::of(test, indices, shift, settings.seed);
        let (local, guard, shifted) = (of(&local), of(&guard), of(&images));
        let shifted_before = accuracy(bundle, &before, &shifted, settings.seed, &device)?;
        for recipe in &settings.recipes {
            let task = Local {
                samples: local.samples(),
                guard: Some(guard.samples()),
                source: source.filter(|_| recipe.rehearsal > 0.0),
                memory: settings.memory,
            };
            forget_peak();
            let mut told = 0;
            let adapted = adapt(bundle, &task, recipe, &mut |progress| {
                if let Progress::Step { done, loss, seconds, .. } = progress
                    && done >= told + 100
                {
                    told = done;
                    observer(&format!("{}: step {done}, loss {loss:.3}, {seconds:.0} s", shift.name()));
                }
                ControlFlow::Continue(())
            })?;
            let peak_mib = resident("VmHWM");
            let after = Classifier {
                model: adapted.candidate.model,
                head: adapted.candidate.head.expect("adaptation keeps it"),
            };
            let report = adapted.report;
            let tenth = report.losses.len().div_ceil(10);
            let mean = |losses: &[f32]| losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() / losses.len() as f64;
            let row = Row {
                shift,
                recipe: recipe.clone(),
                shifted: [shifted_before, accuracy(bundle, &after, &shifted, settings.seed, &device)?],
                published: [published_before, accuracy(bundle, &after, &published, settings.seed, &device)?],
                verdict: adapted.verdict,
                guard: [report.before, report.after],
                steps: report.steps,
                seconds: report.seconds,
                guard_seconds: report.guard_seconds,
                rows: report.rows,
                expected_mib: report.expected_bytes as f64 / f64::from(1 << 20),
                peak_mib,
                loss: [mean(&report.losses[..tenth]), mean(&report.losses[report.losses.len() - tenth..])],
            };
            observer(&row.line());
            rows.push(row);
        }
    }
    Ok(rows)
}

impl Row {
    /// In a line.
    pub fn line(&self) -> String {
        let points =
            |[before, after]: [Rate; 2]| format!("{:.1} -> {:.1}", 100.0 * before.accuracy, 100.0 * after.accuracy);
        let (shifted, published) = (&self.shifted, &self.published);
        format!(
            "{} {} {}: clean {}, pgd {}, published clean {}, pgd {}; {} steps, {:.1} s, {}",
            self.shift.name(),
            self.recipe.scope.name(),
            self.recipe.objective.name(),
            points(shifted.map(|of| of.clean)),
            points(shifted.map(|of| of.pgd)),
            points(published.map(|of| of.clean)),
            points(published.map(|of| of.pgd)),
            self.steps,
            self.seconds,
            if self.verdict == Verdict::Promoted { "promoted" } else { "refused" },
        )
    }
}

/// Indices to train on, of the guard and to measure on: of one half of the test images, each stratified.
fn choose(test: &Images, settings: &Settings) -> [Vec<usize>; 3] {
    let tuning = settings.half == Half::Tuning;
    let mut rest: Vec<usize> = (0..test.len()).filter(|index| (index % 2 == 1) == tuning).collect();
    [settings.local, settings.guard, settings.images].map(|count| {
        let labels: Vec<u16> = rest.iter().map(|&index| test.labels[index]).collect();
        let places = stratified(&labels, count, settings.seed);
        let chosen: Vec<usize> = places.iter().map(|&place| rest[place]).collect();
        rest.retain(|index| !chosen.contains(index));
        chosen
    })
}

fn accuracy(
    bundle: &Bundle,
    classifier: &Classifier,
    images: &Labelled,
    seed: u64,
    device: &Device,
) -> Result<Accuracy, AdaptError> {
    let tolerance = Tolerance { epsilon: Pixels::of_255(8.0), steps: 10, ..Tolerance::default() };
    // Another seed than the guard's attack.
    let (manifest, by) = (&bundle.manifest, By::fastest(device));
    let guard = Guard { manifest, tolerance, seed: seed ^ 1, rows: 128, device, by };
    let held = Held { images: images.images.iter().collect(), labels: images.labels.clone() };
    Ok(guard.measure(classifier, &held, &mut |_, _| ControlFlow::Continue(()))?.0.into())
}

/// Images of a stream.
struct Labelled {
    images: Vec<Rgb>,
    labels: Vec<u16>,
}

impl Labelled {
    fn of(test: &Images, indices: &[usize], shift: Shift, seed: u64) -> Self {
        let (height, width) = (test.height, test.width);
        let images = indices
            .iter()
            .map(|&index| Rgb {
                height,
                width,
                pixels: shifted(test.image(index), [height, width], shift, seed, index),
            })
            .collect();
        Self { images, labels: indices.iter().map(|&index| test.labels[index]).collect() }
    }

    fn samples(&self) -> Samples<'_> {
        Samples { images: &self.images, labels: Some(&self.labels) }
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // clamped to a byte
fn shifted(image: &[u8], size: [usize; 2], shift: Shift, seed: u64, index: usize) -> Vec<u8> {
    match shift {
        Shift::None => image.to_vec(),
        Shift::Corrupted { corruption, severity } => {
            let set = CorruptionSet { corruption, severity, scale: Scale::of(size), seed };
            let mut out = vec![0; image.len()];
            corrupt_batch(&set, image, size, index as u64, &mut out).expect("an image of a data set has its size");
            out
        }
        Shift::Dark { light } => {
            let mut random = Random::named(&[seed, 0xDA4C, index as u64]);
            let mut normal = || (0..12).map(|_| f64::from(random.unit())).sum::<f64>() - 6.0;
            // A full well of 500 photons at 255 and a reading noise of 1 level.
            let photons = 500.0 / 255.0;
            let level = |value: u8| {
                let mean = f64::from(value) * light;
                mean + (mean / photons).sqrt() * normal() + normal()
            };
            let mut level = level;
            image.iter().map(|&value| level(value).round().clamp(0.0, 255.0) as u8).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toy;

    #[test]
    fn the_sets_of_both_halves_share_no_image() {
        let test = toy::images(300, 5);
        let settings = |half| Settings {
            shifts: Vec::new(),
            recipes: Vec::new(),
            half,
            local: 60,
            guard: 30,
            images: 50,
            seed: 4,
            memory: None,
        };
        let mut all: Vec<usize> =
            [Half::Reported, Half::Tuning].iter().flat_map(|&half| choose(&test, &settings(half)).concat()).collect();
        assert_eq!(all.len(), 280);
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 280);
    }

    #[test]
    fn darkness_is_dark_and_the_same_again() {
        let image = vec![200u8; 300];
        let dark = |index| shifted(&image, [10, 10], Shift::Dark { light: 0.25 }, 3, index);
        let mean = dark(0).iter().map(|&v| f64::from(v)).sum::<f64>() / 300.0;
        assert!((mean - 50.0).abs() < 2.0, "{mean}");
        assert_eq!(dark(0), dark(0));
        assert_ne!(dark(0), dark(1));
    }
}
