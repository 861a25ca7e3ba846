//! Auto-PGD (Croce and Hein 2020, <https://arxiv.org/abs/2003.01690>), section 3 and algorithm 1.
//!
//! Two departures from the published program, neither of which weakens it: an image that has fallen leaves at once, and the
//! first window of the step-size rule compares the first loss with that of the start, as the paper says, where the program
//! compares it with 0.

use super::image::{Flight, Found, Image, Row, Target, Wanted, land, land_all, stream};
use super::objective::Goal;
use super::region::Region;
use gabion_spec::Norm;
use rayon::prelude::*;

/// How long a run is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Run<'a> {
    pub(super) iterations: u32,
    pub(super) seed: u64,
    /// Names the run's random numbers.
    pub(super) name: &'a str,
    /// Start here and not at random: for tests.
    pub(super) from: Option<&'a [f32]>,
}

struct State {
    goal: Goal,
    /// The iterate before this one.
    old: Vec<f32>,
    gradient: Vec<f32>,
    /// Gradient at the best iterate, which is `found.x`.
    best_gradient: Vec<f32>,
    step: f32,
    /// Loss of the start and of every iterate.
    losses: Vec<f32>,
    checked: Check,
}

/// What the step-size rule remembers of its last check.
struct Check {
    best: f32,
    halved: bool,
}

/// The iterations after which step sizes are checked: after 22, 41, 57, 70, 80, 87, 93 and 99 of 100.
pub(super) fn checkpoints(iterations: u32) -> Vec<u32> {
    let share = |percent: u32| (iterations * percent / 100).max(1);
    let (mut window, least, less) = (share(22), share(6), share(3));
    let (mut at, mut all) = (0, Vec::new());
    while at + window <= iterations {
        at += window;
        all.push(at);
        window = window.saturating_sub(less).max(least);
    }
    all
}

/// One run for every image: from a random start, or from `run.from`.
///
/// `goals` has one for each image.
pub(super) fn run(
    target: &Target<'_>,
    region: Region,
    images: &[Image<'_>],
    goals: &[Goal],
    run: Run<'_>,
) -> Vec<Found> {
    let mut landed: Vec<Option<Found>> = images.iter().map(|_| None).collect();
    let mut flights = begin(region, images, goals, run);
    target.gradient(Wanted::Standing, &mut flights, 0, |own| own.goal, |flight, row| see(flight, &row, 0));
    flights.iter_mut().for_each(|flight| flight.own.checked.best = flight.found.loss);
    land(&mut flights, &mut landed);
    let checkpoints = checkpoints(run.iterations);
    let mut last = 0;
    for iteration in 1..=run.iterations {
        flights.par_iter_mut().for_each(|flight| advance(region, flight, iteration == 1));
        if iteration < run.iterations {
            target.gradient(
                Wanted::Standing,
                &mut flights,
                iteration,
                |own| own.goal,
                |flight, row| see(flight, &row, iteration),
            );
        } else {
            // Nothing moves after it: its gradient would be wasted.
            target.forward(&mut flights, iteration, |own| own.goal, |flight, row| see(flight, &row, iteration));
        }
        land(&mut flights, &mut landed);
        if 4 * iteration <= 3 * run.iterations {
            flights.iter_mut().for_each(|flight| flight.found.earlier_loss = flight.found.loss);
        }
        if checkpoints.contains(&iteration) {
            flights.iter_mut().for_each(|flight| check(flight, (iteration - last) as usize));
            last = iteration;
        }
    }
    land_all(flights, landed)
}

/// Every image at its start.
fn begin<'a>(region: Region, images: &[Image<'a>], goals: &[Goal], run: Run<'_>) -> Vec<Flight<'a, State>> {
    let rows = images.iter().zip(goals).enumerate();
    rows.map(|(place, (image, &goal))| {
        let x = match run.from {
            Some(from) => from[place * image.x.len()..][..image.x.len()].to_vec(),
            None => start(region, image, run),
        };
        let (length, found) = (x.len(), Found::new(&x));
        let own = State {
            goal,
            old: x.clone(),
            gradient: vec![0.0; length],
            best_gradient: vec![0.0; length],
            step: 2.0 * region.epsilon,
            losses: Vec::with_capacity(run.iterations as usize + 1),
            checked: Check { best: f32::NEG_INFINITY, halved: true },
        };
        Flight { image: *image, place, x, found, own }
    })
    .collect()
}

fn start(region: Region, image: &Image<'_>, run: Run<'_>) -> Vec<f32> {
    let mut stream = stream(run.seed, run.name, image.name);
    let mut x: Vec<f32> = (0..image.x.len())
        .map(|_| match region.norm {
            Norm::Linf => (2.0 * stream.uniform() - 1.0) as f32,
            Norm::L2 => stream.normal() as f32,
        })
        .collect();
    region.stretch(&mut x);
    x.iter_mut().zip(image.x).for_each(|(x, image)| *x = (*x + image).clamp(0.0, 1.0));
    x
}

/// Keeps what a pass says of the iterate.
fn see(flight: &mut Flight<'_, State>, row: &Row<'_>, iteration: u32) {
    let Flight { x, found, own, .. } = flight;
    own.losses.push(row.loss as f32);
    own.gradient.clear();
    own.gradient.extend_from_slice(row.gradient);
    if found.improve(x, row.loss as f32) {
        own.best_gradient.clone_from(&own.gradient);
    }
    if row.fooled {
        found.fool(x, iteration);
    }
}

/// One step with momentum: `z = P(x + step ascent)`, then `P(x + a (z - x) + (1 - a) (x - old))`, a = 3/4 but for the first.
fn advance(region: Region, flight: &mut Flight<'_, State>, first: bool) {
    let Flight { image, x, own, .. } = flight;
    let a = if first { 1.0 } else { 0.75 };
    let ascent = region.ascent(&own.gradient);
    let mut z: Vec<f32> = x.iter().zip(&own.gradient).map(|(x, &g)| x + own.step * ascent(g)).collect();
    region.project(image.x, &mut z);
    for ((z, x), old) in z.iter_mut().zip(&*x).zip(&own.old) {
        *z = x + (*z - x) * a + (x - old) * (1.0 - a);
    }
    region.project(image.x, &mut z);
    own.old = std::mem::replace(x, z);
}

/// Halves the step, and goes back to the best iterate, where the loss rose too seldom or the best one has not moved since a
/// check that did not halve.
fn check(flight: &mut Flight<'_, State>, window: usize) {
    let Flight { x, found, own, .. } = flight;
    let now = own.losses.len() - 1;
    let rises = (now - window..now).filter(|&at| own.losses[at + 1] > own.losses[at]).count();
    let seldom = rises as f32 <= 0.75 * window as f32;
    let stuck = !own.checked.halved && own.checked.best >= found.loss;
    own.checked = Check { best: found.loss, halved: seldom || stuck };
    if own.checked.halved {
        own.step /= 2.0;
        x.copy_from_slice(&found.x);
        own.gradient.clone_from(&own.best_gradient);
    }
}

#[cfg(test)]
mod tests;
