//! One attack on some images, and AutoAttack.

use super::image::{Found, Image, Target, gathered, wrong};
use super::objective::{Goal, by_rank};
use super::region::Region;
use super::victim::{Classifier, FRESH, Pass};
use super::{apgd, fab, square, steps};
use gabion_spec::{Attack, Objective, Start};

/// What is attacked, where to, and by which random numbers.
#[derive(Clone, Copy)]
pub struct Campaign<'a> {
    /// What is attacked.
    pub victim: &'a dyn Classifier,
    /// Where perturbed images may be.
    pub region: Region,
    /// Height and width.
    pub size: [usize; 2],
    /// Seeds everything random, with the name of the image.
    pub seed: u64,
}

/// What a reader should know of an attack on so many classes; nothing as a rule.
pub fn notes(attack: &Attack, classes: usize) -> Vec<String> {
    let mut notes = Vec::new();
    let name = attack.name();
    match *attack {
        Attack::ApgdTargeted { .. } if classes < 4 => notes.push(format!(
            "{name}: {classes} classes have no targeted difference of logits ratio; targeted cross-entropy took its place"
        )),
        Attack::Apgd { objective: Objective::Dlr, .. } | Attack::Pgd { objective: Objective::Dlr, .. } if classes < 3 => {
            notes.push(format!("{name}: {classes} classes have no difference of logits ratio; the margin took its place"));
        }
        _ => {}
    }
    if let Attack::ApgdTargeted { targets, .. } | Attack::FabTargeted { targets, .. } = *attack
        && classes <= targets as usize
    {
        notes.push(format!("{name}: {classes} classes leave {} targets of {targets}", classes.saturating_sub(1)));
    }
    notes
}

/// Attacks every image, and says what came of each, in their order.
///
/// An image that the classifier gets wrong unperturbed should not be here: attacks that start at the image find it at
/// once, others start elsewhere and may not.
///
/// Of a classifier that draws at random, `fooled_at` is the number of all steps: see [`Classifier::random`].
pub fn run(attack: &Attack, campaign: Campaign<'_>, images: &[Image<'_>]) -> Vec<Found> {
    if images.is_empty() {
        return Vec::new();
    }
    let mut found = search(attack, campaign, images);
    if campaign.victim.random() {
        let (names, x) = gathered(images.iter().zip(&found).map(|(image, found)| (image.name, &*found.x)));
        let logits = campaign.victim.logits(&x, Pass { images: &names, draw: FRESH });
        for ((image, found), logits) in
            images.iter().zip(&mut found).zip(logits.chunks_exact(campaign.victim.classes()))
        {
            found.passes.forwards += 1;
            found.fooled_at = wrong(logits, image.label).then_some(found.passes.gradients);
        }
    }
    found
}

fn search(attack: &Attack, campaign: Campaign<'_>, images: &[Image<'_>]) -> Vec<Found> {
    let Campaign { victim, region, size, seed } = campaign;
    let once = Target { victim, eot: 1 };
    // Of a classifier that draws nothing every draw is the same.
    let draws = |eot: u32| if victim.random() { eot.max(1) } else { 1 };
    let steps =
        |target: &Target<'_>, images: &[Image<'_>], run: steps::Run<'_>| steps::run(target, region, images, run);
    let single = steps::Run {
        objective: Objective::CrossEntropy,
        steps: 1,
        step: region.epsilon,
        momentum: 0.0,
        start: Start::Zero,
        reach: region.epsilon,
        seed,
        name: "fgsm",
    };
    match *attack {
        Attack::Noise { draws } => steps::noise(&once, region, images, draws, seed),
        Attack::Fgsm { objective } => steps(&once, images, steps::Run { objective, ..single }),
        Attack::RandomFgsm { objective } => {
            let half = region.epsilon / 2.0;
            let run = steps::Run { objective, step: half, start: Start::Random, reach: half, name: "r+fgsm", ..single };
            steps(&once, images, run)
        }
        Attack::Pgd { objective, steps: count, step, restarts, start, momentum, eot } => {
            let target = Target { victim, eot: draws(eot) };
            over(restarts, images, |restart, images| {
                let name = format!("pgd.{restart}");
                let run = steps::Run { objective, steps: count, step: step.0, momentum, start, name: &name, ..single };
                steps(&target, images, run)
            })
        }
        Attack::Apgd { objective, iterations, restarts, eot } => {
            let target = Target { victim, eot: draws(eot) };
            over(restarts, images, |restart, images| {
                let name = format!("apgd.{objective:?}.{restart}");
                let goals = vec![Goal::Untargeted(objective); images.len()];
                apgd::run(&target, region, images, &goals, apgd::Run { iterations, seed, name: &name, from: None })
            })
        }
        Attack::ApgdTargeted { targets, iterations, restarts, eot } => {
            let target = Target { victim, eot: draws(eot) };
            let aims = aims(victim, images, targets);
            over_places(aims.rounds * restarts, images, |round, places, images| {
                let (rank, restart) = (round / restarts, round % restarts);
                let name = format!("apgd-t.{rank}.{restart}");
                let goals: Vec<Goal> = places.iter().map(|&place| Goal::Target(aims.of(place, rank))).collect();
                apgd::run(&target, region, images, &goals, apgd::Run { iterations, seed, name: &name, from: None })
            })
        }
        Attack::FabTargeted { targets, iterations } => {
            let aims = aims(victim, images, targets);
            over_places(aims.rounds, images, |rank, places, images| {
                let goals: Vec<Goal> = places.iter().map(|&place| Goal::Difference(aims.of(place, rank))).collect();
                fab::run(&once, region, images, &goals, iterations, true)
            })
        }
        Attack::Square { queries } => square::run(&once, region, images, size, queries, seed),
    }
}

/// AutoAttack or any other row of attacks: each on the images that stood all before it. For every image the number of the
/// attack that it fell to, and what came of it under the last attack that it saw.
pub fn autoattack(attacks: &[Attack], campaign: Campaign<'_>, images: &[Image<'_>]) -> Vec<(Option<usize>, Found)> {
    let mut all: Vec<(Option<usize>, Found)> = images.iter().map(|image| (None, Found::new(image.x))).collect();
    for (number, attack) in attacks.iter().enumerate() {
        let places: Vec<usize> = (0..images.len()).filter(|&place| all[place].0.is_none()).collect();
        let standing: Vec<Image<'_>> = places.iter().map(|&place| images[place]).collect();
        for (place, found) in places.into_iter().zip(run(attack, campaign, &standing)) {
            let passes = all[place].1.passes.and(found.passes);
            all[place] = (found.fooled().then_some(number), Found { passes, ..found });
        }
    }
    all
}

/// The classes that targeted attacks aim at: of every image those of its clean ranks from the second on.
struct Aims {
    ranks: Vec<Vec<usize>>,
    rounds: u32,
}

impl Aims {
    fn of(&self, place: usize, rank: u32) -> usize {
        self.ranks[place][rank as usize + 1]
    }
}

fn aims(victim: &dyn Classifier, images: &[Image<'_>], targets: u32) -> Aims {
    let (names, x) = gathered(images.iter().map(|image| (image.name, image.x)));
    let logits = victim.logits(&x, Pass { images: &names, draw: 0 });
    let ranks = logits.chunks_exact(victim.classes()).map(by_rank).collect();
    let most = u32::try_from(victim.classes().saturating_sub(1)).unwrap_or(u32::MAX);
    Aims { ranks, rounds: targets.min(most) }
}

/// Runs for the images that still stand, one after another.
fn over(runs: u32, images: &[Image<'_>], mut make: impl FnMut(u32, &[Image<'_>]) -> Vec<Found>) -> Vec<Found> {
    over_places(runs, images, |run, _, images| make(run, images))
}

/// The same, with the places of the images among all.
fn over_places(
    runs: u32,
    images: &[Image<'_>],
    mut make: impl FnMut(u32, &[usize], &[Image<'_>]) -> Vec<Found>,
) -> Vec<Found> {
    let mut all: Vec<Found> = images.iter().map(|image| Found::new(image.x)).collect();
    let mut before = vec![0u32; images.len()];
    for run in 0..runs {
        let places: Vec<usize> = (0..images.len()).filter(|&place| !all[place].fooled()).collect();
        if places.is_empty() {
            break;
        }
        let standing: Vec<Image<'_>> = places.iter().map(|&place| images[place]).collect();
        for (&place, found) in places.iter().zip(make(run, &places, &standing)) {
            let passes = all[place].passes.and(found.passes);
            let fooled_at = found.fooled_at.map(|at| before[place] + at);
            // Of runs that fool nothing the one of the greatest loss stays.
            if found.fooled() || found.loss > all[place].loss || run == 0 {
                all[place] = Found { fooled_at, ..found };
            }
            all[place].passes = passes;
            before[place] = passes.gradients;
        }
    }
    all
}

#[cfg(test)]
mod tests;
