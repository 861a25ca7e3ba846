//! Classifiers on the encoder's feature (METHOD section 5): linear, robust, over patches, by adversarial fine-tuning, and
//! k nearest neighbours.
//!
//! [`probe`] trains and measures; [`write_into`] puts the head into the bundle with its clean accuracy as a claim,
//! [`write_new`] an encoder that was fine-tuned with it into a bundle of its own.
//!
//! | head | examples | encoder | optimizer |
//! |---|---|---|---|
//! | linear | whole images | frozen | Adam |
//! | robust | PGD-5 of 0.01 from zero, the iterate of the greatest loss; no augmentation | frozen | Adam, a fixed rate |
//! | alf | PGD-10 of 2/255 from a random start, the last iterate; shifts and flips | frozen | SGD, two falls of the rate |
//! | aff | the same on the divergence of TRADES, or plain | moves | SGD, two falls of the rate |
//! | patches | mean feature over views | frozen | SGD, cosine |

mod finetune;
mod validate;
mod work;

use crate::data::Split;
use crate::features::{Frozen, View, fingerprint};
use crate::measure::{Error, Rate, Result, check};
use burn::tensor::Device;
use gabion_learn::attack::{Ball, Pgd};
use gabion_learn::finetune::Moves;
use gabion_learn::optim::cosine_rate;
use gabion_learn::probe::Rule;
use gabion_learn::{Head, Model};
use gabion_runtime::Bundle;
use gabion_spec::{self as spec, Augment, Claim, Crop, HeadKind, Manifest};
use std::path::Path;
use std::time::Instant;
use work::{Plan, Work};

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
    /// The encoder where it was fine-tuned, without autodiff.
    pub tuned: Option<Model>,
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

    fn claim(&self, what: &str, data: &str, command: &str) -> Claim {
        let (images, right) = (self.test_images, self.test_right);
        Claim { what: what.into(), data: data.into(), images, right, command: command.into() }
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
/// The encoder stays as it is (running statistics, no gradient to its weights) but under [`spec::Probe::Aff`], which moves
/// a copy; the bundle is not touched. Every training image is seen once an
/// epoch in the order of [`crate::data::order::permutation`]; the last minibatch of an epoch may be a smaller one. Features are kept in
/// memory (`4 * images * feature length` bytes) and, where `cache` names a folder, in a file there that is named by the
/// weights, the data, the part and the device, and that is made anew when it is damaged.
///
/// A [`spec::Probe::Patches`] head sees the mean feature over views drawn by the crop of the bundle's own pretraining
/// (the paper's crop-based one when the bundle does not say) and a flip of probability 1/2, without colour operations;
/// the views of an image are drawn once, not anew each epoch. It is measured on views of the test images likewise.
///
/// Fine-tuning starts from a head of zeros and leaves out of an epoch what does not fill a minibatch; how its images vary
/// and where its attack starts depends on seed, epoch and image alone.
///
/// The bundle may lie on any device; everything is computed on `device`, without autodiff but for attacks and fine-tuning.
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
    validate::recipe(recipe)?;
    check("train", &data.train, bundle.manifest.input)?;
    check("test", &data.test, bundle.manifest.input)?;
    let length = bundle.manifest.projector.hidden as usize;
    let mut work = Work { encoder: Frozen::new(&bundle.model, device), length, data, seed, cache };
    let (mut head, mut kind, mut train_loss, mut tuned) = (None, None, Vec::new(), None);
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
        spec::Probe::Alf(ref recipe) => {
            let (trained, losses) = work.fine_tune(recipe, Moves::Head, observer)?;
            let right = work.right(&trained.head, &View::Whole, observer)?;
            (head, kind, train_loss) = (Some(trained.head), Some(HeadKind::Alf), losses);
            right
        }
        spec::Probe::Aff(ref recipe) => {
            let (trained, losses) = work.fine_tune(recipe, Moves::All, observer)?;
            // Features of an encoder that is about to be written elsewhere; nobody asks for them again.
            work = Work { encoder: Frozen::new(&trained.model, device), cache: None, ..work };
            let right = work.right(&trained.head, &View::Whole, observer)?;
            (head, kind, train_loss) = (Some(trained.head), Some(HeadKind::Aff), losses);
            tuned = Some(trained.model);
            right
        }
    };
    Ok(Probed {
        head,
        kind,
        recipe: *recipe,
        classes: data.train.classes.clone(),
        encoder: work.encoder.sha256,
        tuned,
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
    manifest.claim(probed.claim(what, data, command));
    let precision = manifest.weights.precision;
    Ok(Bundle::write(dir, manifest, &model, probed.head.as_ref().or(head.as_ref()), precision)?)
}

/// Writes an encoder that was fine-tuned from the one in `earlier`, with its head, into a new bundle at `dir`, and
/// returns its manifest: the earlier one's with the recipe added, the claim `clean` and no other, for what was measured
/// of the earlier encoder, nearest neighbours included, says nothing of this one. The part of the projector behind the
/// feature is the earlier one's.
///
/// # Errors
/// When there is something at `dir`, the probe moved no encoder ([`Error::NotTuned`]), or the bundle cannot be written.
pub fn write_new(dir: &Path, earlier: &Manifest, probed: &Probed, data: &str, command: &str) -> Result<Manifest> {
    let (Some(model), Some(kind), spec::Probe::Aff(recipe)) = (&probed.tuned, probed.kind, probed.recipe) else {
        return Err(Error::NotTuned);
    };
    if dir.exists() {
        return Err(Error::Exists { path: dir.to_path_buf() });
    }
    let mut manifest = earlier.clone();
    manifest.name = format!("{}-aff", earlier.name);
    manifest.head = Some(spec::Head { kind, recipe: probed.recipe });
    manifest.classes.clone_from(&probed.classes);
    manifest.finetune.push(recipe);
    manifest.claims = vec![probed.claim("clean", data, command)];
    let precision = manifest.weights.precision;
    Ok(Bundle::write(dir, manifest, model, probed.head.as_ref(), precision)?)
}

/// [`Claim::what`] of nearest neighbours.
const KNN: &str = "knn";

/// How the views of a [`spec::Probe::Patches`] head are drawn: crop as in pretraining, flip, no colour.
fn patches(manifest: &Manifest) -> Augment {
    let crop = manifest.pretrain.as_ref().map_or(Crop::CROP, |pretrain| pretrain.augment.crop);
    let spec::Input { height, width } = manifest.input;
    Augment { crop, flip: 0.5, ..Augment::identity([height, width]) }
}

#[cfg(test)]
mod tests;
