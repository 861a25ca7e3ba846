//! Classifiers on the frozen encoder's feature (METHOD section 5): linear, robust, over patches, and k nearest
//! neighbours.
//!
//! [`probe`] trains and measures; [`write_into`] puts the head into the bundle with its clean accuracy as a claim.

use crate::data::Split;
use crate::data::order::permutation;
use crate::features::{Features, Frozen, View, fingerprint};
use crate::measure::{Error, Rate, Result, check, host, labels, pixels, predictions};
use burn::Tensor;
use burn::module::Module;
use burn::tensor::Device;
use gabion_learn::attack::{Ball, Pgd, pgd};
use gabion_learn::optim::cosine_rate;
use gabion_learn::probe::{Regression, Rule, nearest_neighbours};
use gabion_learn::{Head, Mode};
use gabion_runtime::Bundle;
use gabion_spec::{self as spec, Augment, Claim, Crop, HeadKind, Invalid, Manifest, Pixels};
use std::path::Path;
use std::time::Instant;

/// What a probe gave.
#[derive(Clone, Debug)]
pub struct Probed {
    /// The classifier, without autodiff; none for nearest neighbours.
    pub head: Option<Head>,
    /// What the classifier's input is; none for nearest neighbours.
    pub kind: Option<HeadKind>,
    /// How it was made.
    pub recipe: spec::Probe,
    /// Names of the classes, in the order of the logits.
    pub classes: Vec<String>,
    /// SHA-256 of the encoder's weights; the head fits no other.
    pub encoder: String,
    /// Test images classified right, unperturbed.
    pub test_right: u64,
    /// Test images.
    pub test_images: u64,
    /// Mean loss of each epoch; empty for nearest neighbours.
    pub train_loss: Vec<f64>,
    /// Time that it took.
    pub seconds: f64,
}

impl Probed {
    /// The clean accuracy with its interval.
    pub fn rate(&self) -> Rate {
        Rate::new(self.test_right, self.test_images)
    }
}

/// How far a probe is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Progress {
    /// Features are computed.
    Features {
        /// `train` or `test`.
        part: &'static str,
        /// Images that have theirs.
        done: usize,
        /// Images in all.
        total: usize,
    },
    /// Features were found in the cache.
    Cached {
        /// `train` or `test`.
        part: &'static str,
    },
    /// A minibatch of training is done.
    Step {
        /// Minibatches that are done.
        done: u64,
        /// Minibatches in all.
        total: u64,
    },
    /// An epoch of training is done.
    Epoch {
        /// The epoch, from 1.
        epoch: u32,
        /// Epochs in all.
        epochs: u32,
        /// Its mean loss.
        loss: f64,
    },
    /// Test images are classified.
    Test {
        /// Images classified.
        done: usize,
        /// Images in all.
        total: usize,
    },
}

/// Trains a head on the bundle's encoder, or classifies by nearest neighbours, and measures the clean accuracy.
///
/// The encoder stays as it is (running statistics, no gradient to its weights). Every training image is seen once an
/// epoch in the order of [`permutation`]; the last minibatch of an epoch may be a smaller one. Features are kept in
/// memory (`4 * images * feature length` bytes) and, where `cache` names a folder, in a file there that is named by the
/// weights, the data, the part and the device, and that is made anew when it is damaged.
///
/// A [`spec::Probe::Patches`] head sees the mean feature over views drawn by the crop of the bundle's own pretraining
/// (the paper's crop-based one when the bundle does not say) and a flip of probability 1/2, without colour operations;
/// the views of an image are drawn once, not anew each epoch. It is measured on views of the test images likewise.
///
/// The bundle may lie on any device; everything is computed on `device`, without autodiff but for a robust head's
/// attack.
///
/// # Errors
/// When the images do not fit the bundle or the recipe, the recipe makes no sense, a value is not finite, or the cache
/// cannot be written.
pub fn probe(
    bundle: &Bundle,
    data: &Split,
    recipe: &spec::Probe,
    seed: u64,
    device: &Device,
    cache: Option<&Path>,
    observer: &mut dyn FnMut(Progress),
) -> Result<Probed> {
    let start = Instant::now();
    validate(recipe)?;
    check("train", &data.train, bundle.manifest.input)?;
    check("test", &data.test, bundle.manifest.input)?;
    let length = bundle.manifest.projector.hidden as usize;
    let work = Work { encoder: Frozen::new(&bundle.model, device), length, data, seed, cache };
    let (mut head, mut kind, mut train_loss) = (None, None, Vec::new());
    let test_right = match *recipe {
        spec::Probe::Knn { k, temperature } => work.neighbours(k, temperature, observer)?,
        spec::Probe::Linear { rate, batch, epochs } => {
            let train = work.features("train", &View::Whole, observer)?;
            let plan = Plan { batch, epochs, rule: Rule::Adam, rate: &|_, _| rate };
            let (trained, losses) = work.train(&plan, &|_, indices| work.rows(&train, indices), observer)?;
            drop(train);
            let right = work.right(&trained, &View::Whole, observer)?;
            (head, kind, train_loss) = (Some(trained), Some(HeadKind::Linear), losses);
            right
        }
        spec::Probe::Robust { rate, batch, epochs, epsilon, step, steps } => {
            let attack = Pgd { ball: Ball { epsilon: epsilon.0 }, step: step.0, steps };
            let plan = Plan { batch, epochs, rule: Rule::Adam, rate: &|_, _| rate };
            let (trained, losses) = work.train(&plan, &work.attacked(attack), observer)?;
            let right = work.right(&trained, &View::Whole, observer)?;
            (head, kind, train_loss) = (Some(trained), Some(HeadKind::Robust), losses);
            right
        }
        spec::Probe::Patches { rate, momentum, weight_decay, batch, epochs, views } => {
            let view = View::Mean { augment: patches(&bundle.manifest), views, seed };
            let train = work.features("train", &view, observer)?;
            let rule = Rule::Sgd { momentum, weight_decay };
            let plan = Plan { batch, epochs, rule, rate: &|step, steps| cosine_rate(rate, step, steps) };
            let (trained, losses) = work.train(&plan, &|_, indices| work.rows(&train, indices), observer)?;
            drop(train);
            let right = work.right(&trained, &view, observer)?;
            (head, kind, train_loss) = (Some(trained), Some(HeadKind::Patches), losses);
            right
        }
    };
    Ok(Probed {
        head,
        kind,
        recipe: *recipe,
        classes: data.train.classes.clone(),
        encoder: work.encoder.sha256,
        test_right,
        test_images: data.test.len() as u64,
        train_loss,
        seconds: start.elapsed().as_secs_f64(),
    })
}

/// Writes the head into the bundle at `dir`, with its recipe, its classes and the claim `clean`, and returns the new
/// manifest. Claims about an earlier head go; weights keep their precision. Nearest neighbours leave the head alone and
/// only claim `knn`.
///
/// `data` names the data set and split that was tested on, `command` what measures it again.
///
/// # Errors
/// When the bundle cannot be opened or written, or its encoder is not the one that was probed.
pub fn write_into(dir: &Path, probed: &Probed, data: &str, command: &str, device: &Device) -> Result<Manifest> {
    let Bundle { mut manifest, model, head, .. } = Bundle::open(dir, &device.clone().inner())?;
    if fingerprint(&model) != probed.encoder {
        return Err(Error::OtherEncoder { path: dir.to_path_buf() });
    }
    let what = match probed.kind {
        Some(kind) => {
            manifest.head = Some(spec::Head { kind, recipe: probed.recipe });
            manifest.classes.clone_from(&probed.classes);
            manifest.claims.retain(|claim| claim.what == KNN);
            "clean"
        }
        None => KNN,
    };
    manifest.claim(Claim {
        what: what.into(),
        data: data.into(),
        images: probed.test_images,
        right: probed.test_right,
        command: command.into(),
    });
    let precision = manifest.weights.precision;
    Ok(Bundle::write(dir, manifest, &model, probed.head.as_ref().or(head.as_ref()), precision)?)
}

/// [`Claim::what`] of nearest neighbours.
const KNN: &str = "knn";

/// How the views of a [`spec::Probe::Patches`] head are drawn: crop as in pretraining, flip, no colour.
fn patches(manifest: &Manifest) -> Augment {
    let crop = manifest.pretrain.as_ref().map_or(Crop::CROP, |pretrain| pretrain.augment.crop);
    let spec::Input { height, width } = manifest.input;
    Augment { crop, flip: 0.5, ..Augment::identity([height, width]) }
}

fn validate(recipe: &spec::Probe) -> Result<()> {
    let ensure = |holds: bool, key: &'static str, why: &str| {
        if holds { Ok(()) } else { Err(Error::Recipe(Invalid { key, why: why.into() })) }
    };
    let positive = |value: f64| value > 0.0 && value.is_finite();
    let training = |rate: f64, batch: u32, epochs: u32| {
        ensure(positive(rate), "rate", "must be above 0")?;
        ensure(batch > 0, "batch", "a minibatch needs at least 1 image")?;
        ensure(epochs > 0, "epochs", "0 epochs train nothing")
    };
    match *recipe {
        spec::Probe::Linear { rate, batch, epochs } => training(rate, batch, epochs),
        spec::Probe::Robust { rate, batch, epochs, epsilon, step, steps } => {
            training(rate, batch, epochs)?;
            let budget = |pixels: Pixels| (0.0..=1.0).contains(&pixels.0);
            ensure(budget(epsilon), "epsilon", "must be within 0 and 1, such as \"8/255\"")?;
            ensure(budget(step), "step", "must be within 0 and 1, such as 0.01")?;
            ensure(steps > 0, "steps", "0 steps attack nothing; use head = \"linear\"")
        }
        spec::Probe::Patches { rate, momentum, weight_decay, batch, epochs, views } => {
            training(rate, batch, epochs)?;
            ensure((0.0..1.0).contains(&momentum), "momentum", "must be at least 0 and below 1")?;
            ensure(weight_decay >= 0.0 && weight_decay.is_finite(), "weight_decay", "must not be negative")?;
            ensure(views > 0, "views", "0 views show nothing")
        }
        spec::Probe::Knn { k, temperature } => {
            ensure(k > 0, "k", "0 neighbours have no vote")?;
            ensure(positive(temperature), "temperature", "must be above 0")
        }
    }
}

/// How a head is trained.
struct Plan<'a> {
    batch: u32,
    epochs: u32,
    rule: Rule,
    /// (0-based step, steps in all) to the learning rate.
    rate: &'a dyn Fn(u64, u64) -> f64,
}

/// What every probe works on.
struct Work<'a> {
    encoder: Frozen,
    /// Of a feature.
    length: usize,
    data: &'a Split,
    seed: u64,
    cache: Option<&'a Path>,
}

/// The features of some training images for the head as it is, `[indices.len(), hidden]`.
type Source<'a> = dyn Fn(&Regression, &[usize]) -> Tensor<2> + 'a;

/// Test images of one pass through a head.
const ROWS: usize = 1024;
/// Most similarities that are held at once.
const SIMILARITIES: usize = 1 << 25;

impl Work<'_> {
    fn features(&self, part: &'static str, view: &View, observer: &mut dyn FnMut(Progress)) -> Result<Features> {
        let images = if part == "train" { &self.data.train } else { &self.data.test };
        self.encoder.features((part, images), view, self.cache, &mut |done| {
            observer(match done {
                Some(done) => Progress::Features { part, done, total: images.len() },
                None => Progress::Cached { part },
            });
        })
    }

    fn rows(&self, features: &Features, indices: &[usize]) -> Tensor<2> {
        features.rows(indices, &self.encoder.device)
    }

    /// Features of training images attacked through the frozen encoder and the head as it is, from a zero start.
    fn attacked(&self, attack: Pgd) -> impl Fn(&Regression, &[usize]) -> Tensor<2> {
        let graph = self.encoder.model.clone().train();
        move |regression, indices| {
            let head = regression.head().train();
            let x = Tensor::from_data(pixels(&self.data.train, indices), &self.encoder.device);
            let labels = labels(&self.data.train, indices, &self.encoder.device);
            let classify = |x| head.forward(graph.feature(x, Mode::Frozen), Mode::Frozen);
            let x = pgd(classify, x.clone(), labels, x.zeros_like(), &attack);
            self.encoder.model.feature(x, Mode::Eval)
        }
    }

    /// The head, and the mean loss of each epoch.
    fn train(&self, plan: &Plan, source: &Source, observer: &mut dyn FnMut(Progress)) -> Result<(Head, Vec<f64>)> {
        let (train, device) = (&self.data.train, &self.encoder.device);
        let (images, batch) = (train.len(), plan.batch as usize);
        if images < batch {
            return Err(Error::FewImages { images, batch });
        }
        let steps = u64::from(plan.epochs) * images.div_ceil(batch) as u64;
        let mut head = Regression::new(self.length, train.classes.len(), self.seed, plan.rule, device);
        let (mut step, mut losses) = (0, Vec::new());
        for epoch in 0..plan.epochs {
            let order: Vec<usize> =
                permutation(self.seed, epoch.into(), images).into_iter().map(|index| index as usize).collect();
            let mut sum = Tensor::<1>::zeros([1], device);
            for indices in order.chunks(batch) {
                let feature = source(&head, indices);
                let loss = head.step(feature, labels(train, indices, device), (plan.rate)(step, steps));
                // Summed on the device: reading each loss would wait for it.
                sum = sum + loss.mul_scalar(indices.len() as f64 / images as f64);
                step += 1;
                observer(Progress::Step { done: step, total: steps });
            }
            let loss = f64::from(host(sum)[0]);
            let epoch = epoch + 1;
            if !loss.is_finite() {
                return Err(Error::Diverged { epoch });
            }
            losses.push(loss);
            observer(Progress::Epoch { epoch, epochs: plan.epochs, loss });
        }
        Ok((head.head(), losses))
    }

    /// Test images that the head classifies right.
    fn right(&self, head: &Head, view: &View, observer: &mut dyn FnMut(Progress)) -> Result<u64> {
        let test = self.features("test", view, observer)?;
        self.count(ROWS, observer, |indices| {
            predictions(head.forward(self.rows(&test, indices), Mode::Eval), "test", indices)
        })
    }

    /// Test images that their neighbours classify right.
    #[allow(clippy::cast_possible_truncation)] // a temperature has no use for f64's precision
    fn neighbours(&self, k: u32, temperature: f64, observer: &mut dyn FnMut(Progress)) -> Result<u64> {
        let train = self.features("train", &View::Whole, observer)?;
        let test = self.features("test", &View::Whole, observer)?;
        let all: Vec<usize> = (0..self.data.train.len()).collect();
        let bank = self.rows(&train, &all);
        let (labels, classes) = (&self.data.train.labels, self.data.train.classes.len());
        drop(train);
        self.count((SIMILARITIES / all.len()).clamp(1, ROWS), observer, |indices| {
            let queries = self.rows(&test, indices);
            Ok(nearest_neighbours(bank.clone(), labels, queries, classes, k as usize, temperature as f32))
        })
    }

    fn count(
        &self,
        rows: usize,
        observer: &mut dyn FnMut(Progress),
        classify: impl Fn(&[usize]) -> Result<Vec<u16>>,
    ) -> Result<u64> {
        let test = &self.data.test;
        let (indices, mut right) = ((0..test.len()).collect::<Vec<_>>(), 0);
        for indices in indices.chunks(rows) {
            let found = classify(indices)?;
            right += indices.iter().zip(found).filter(|&(&index, class)| test.labels[index] == class).count() as u64;
            observer(Progress::Test { done: indices.last().map_or(0, |&last| last + 1), total: test.len() });
        }
        Ok(right)
    }
}

#[cfg(test)]
mod tests;
