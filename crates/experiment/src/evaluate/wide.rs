//! Attacks beyond small perturbations: a patch that may be painted at will, and images made for another model.

use super::battery::{Attacked, Battery, Order};
use super::disguises::Patched;
use super::{Progress, Subject};
use crate::data::order::Random;
use crate::measure::Result;
use gabion_learn::attack::{self, Campaign, Classifier, FRESH, Image, Pass, Region, first_of_greatest};
use gabion_spec::{Attack, Objective, Pixels, Start};
use std::collections::BTreeMap;

/// Places that are tried for the patch of an image.
const PLACES: u32 = 4;
/// Steps of PGD in each.
const STEPS: u32 = 100;

/// A patch of `side` pixels at a place that the seed chooses, four of them one after another, each painted by PGD without a
/// budget within it (Brown et al. 2017, with gradients and for each image by itself).
pub(super) fn patch(
    battery: &Battery<'_>,
    victim: &dyn Classifier,
    side: usize,
    standing: &[usize],
    observer: &mut dyn FnMut(Progress),
) -> Result<(Order, Attacked)> {
    let size = [battery.images.height, battery.images.width];
    let side = side.clamp(1, size[0].min(size[1]));
    let objective = Objective::CrossEntropy;
    let step = Pixels(0.05);
    let attack =
        Attack::Pgd { objective, steps: STEPS, step, restarts: 1, start: Start::Random, momentum: 0.9, eot: 1 };
    let whole = Region::linf(1.0);
    let order = Order::named(format!("patch {side}x{side}"), attack, whole);
    let attacked = battery.assault(&order, standing, observer, &mut |images| {
        let mut all: Vec<_> = images.iter().map(|image| attack::Found { x: image.x.to_vec(), ..nothing() }).collect();
        for place in 0..PLACES {
            let left: Vec<usize> = (0..images.len()).filter(|&row| !all[row].fooled()).collect();
            let chosen = |image: &Image<'_>| {
                let mut random =
                    Random::named(&[crate::data::order::purpose::PATCH, battery.seed, image.name, place.into()]);
                (image.x.to_vec(), [random.below(size[0] - side + 1), random.below(size[1] - side + 1)])
            };
            let placed: BTreeMap<_, _> = left.iter().map(|&row| (images[row].name, chosen(&images[row]))).collect();
            let patched = Patched { victim, images: placed, side, size };
            let cuts: Vec<Vec<f32>> = left.iter().map(|&row| patched.cut(images[row].name)).collect();
            let patches: Vec<Image<'_>> =
                left.iter().zip(&cuts).map(|(&row, cut)| Image { x: cut, ..images[row] }).collect();
            let seed = battery.seed.wrapping_add(u64::from(place));
            let campaign = Campaign { victim: &patched, region: whole, size: [side; 2], seed };
            for (&row, found) in left.iter().zip(attack::run(&attack, campaign, &patches)) {
                let passes = all[row].passes.and(found.passes);
                let x = patched.painted(images[row].name, &found.x);
                all[row] = attack::Found { x, passes, ..found };
            }
        }
        Ok(all)
    })?;
    Ok((order, attacked))
}

/// Images made by APGD for `source` within the region, shown to the victim.
pub(super) fn transfer(
    battery: &Battery<'_>,
    victim: &dyn Classifier,
    source: &Subject,
    region: Region,
    standing: &[usize],
    observer: &mut dyn FnMut(Progress),
) -> Result<(Order, Attacked)> {
    let attack = Attack::Apgd { objective: Objective::CrossEntropy, iterations: 50, restarts: 1, eot: 1 };
    let name = format!("transfer from {} {}", source.name, Pixels(region.epsilon));
    let order = Order { extra: source.weights.clone(), ..Order::named(name, attack, region) };
    let theirs = source.victim();
    let size = [battery.images.height, battery.images.width];
    let attacked = battery.assault(&order, standing, observer, &mut |images| {
        let campaign = Campaign { victim: &Unfooled(&theirs), region, size, seed: battery.seed };
        let mut found = attack::run(&attack, campaign, images);
        let names: Vec<u64> = images.iter().map(|image| image.name).collect();
        let x: Vec<f32> = found.iter().flat_map(|found| found.x.iter().copied()).collect();
        let logits = victim.logits(&x, Pass { images: &names, draw: FRESH });
        for ((found, image), logits) in found.iter_mut().zip(images).zip(logits.chunks_exact(victim.classes())) {
            let last = found.passes.gradients;
            found.fooled_at = (first_of_greatest(logits) != image.label).then_some(last);
        }
        Ok(found)
    })?;
    Ok((order, attacked))
}

/// A classifier whose attack goes on when it is fooled: what transfers lies far beyond its boundary.
struct Unfooled<'a>(&'a dyn Classifier);

impl Classifier for Unfooled<'_> {
    fn classes(&self) -> usize {
        self.0.classes()
    }

    fn random(&self) -> bool {
        true
    }

    fn logits(&self, x: &[f32], pass: Pass<'_>) -> Vec<f32> {
        self.0.logits(x, pass)
    }

    fn gradient(&self, x: &[f32], pass: Pass<'_>, weights: &mut dyn FnMut(&[f32]) -> Vec<f32>) -> attack::Gradient {
        self.0.gradient(x, pass, weights)
    }
}

fn nothing() -> attack::Found {
    attack::Found {
        x: Vec::new(),
        fooled_at: None,
        loss: f32::NEG_INFINITY,
        earlier_loss: f32::NEG_INFINITY,
        passes: attack::Passes::default(),
    }
}
