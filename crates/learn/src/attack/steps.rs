//! Attacks that take fixed steps: noise, FGSM, R+FGSM and projected gradient descent.

use super::image::{Flight, Found, Image, Row, Target, Wanted, land, land_all, stream};
use super::objective::Goal;
use super::region::Region;
use gabion_spec::{Norm, Objective, Start};

/// One run of steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Run<'a> {
    pub(super) objective: Objective,
    pub(super) steps: u32,
    /// Length of a step.
    pub(super) step: f32,
    /// Decay of the accumulated gradient.
    pub(super) momentum: f32,
    pub(super) start: Start,
    /// Radius of a random start, within the region's.
    pub(super) reach: f32,
    pub(super) seed: u64,
    /// Names the run's random numbers.
    pub(super) name: &'a str,
}

/// Draws a point of a ball of radius `reach`, uniformly, and brings it into the box.
fn random_point(region: Region, image: &Image<'_>, reach: f32, seed: u64, name: &str) -> Vec<f32> {
    let mut stream = stream(seed, name, image.name);
    let ball = Region { epsilon: reach, ..region };
    let mut x: Vec<f32> = (0..image.x.len())
        .map(|_| match region.norm {
            Norm::Linf => (2.0 * stream.uniform() - 1.0) as f32 * reach,
            Norm::L2 => stream.normal() as f32,
        })
        .collect();
    if region.norm == Norm::L2 {
        ball.stretch(&mut x);
        let share = stream.uniform().powf(1.0 / x.len() as f64) as f32;
        x.iter_mut().for_each(|value| *value *= share);
    }
    x.iter_mut().zip(image.x).for_each(|(x, image)| *x = (*x + image).clamp(0.0, 1.0));
    x
}

/// Runs the steps on every image. The greatest loss counts, the start included.
pub(super) fn run(target: &Target<'_>, region: Region, images: &[Image<'_>], run: Run<'_>) -> Vec<Found> {
    let mut landed: Vec<Option<Found>> = images.iter().map(|_| None).collect();
    let mut flights: Vec<_> = images
        .iter()
        .enumerate()
        .map(|(place, image)| {
            let x = match run.start {
                Start::Zero => image.x.to_vec(),
                Start::Random => random_point(region, image, run.reach, run.seed, run.name),
            };
            let (length, found) = (x.len(), Found::new(&x));
            Flight { image: *image, place, x, found, own: vec![0.0f32; length] }
        })
        .collect();
    for step in 0..=run.steps {
        let goal = |_: &Vec<f32>| Goal::Untargeted(run.objective);
        let see = |flight: &mut Flight<'_, Vec<f32>>, row: Row<'_>| {
            let Flight { image, x, found, own, .. } = flight;
            found.improve(x, row.loss as f32);
            if row.fooled {
                found.fool(x, step);
            } else if step < run.steps {
                accumulate(own, row.gradient, run.momentum);
                let ascent = region.ascent(own);
                x.iter_mut().zip(&*own).for_each(|(x, &g)| *x += run.step * ascent(g));
                region.project(image.x, x);
            }
        };
        if step < run.steps {
            target.gradient(Wanted::Standing, &mut flights, step, goal, see);
        } else {
            target.forward(&mut flights, step, goal, see);
        }
        land(&mut flights, &mut landed);
        if 4 * step <= 3 * run.steps {
            flights.iter_mut().for_each(|flight| flight.found.earlier_loss = flight.found.loss);
        }
    }
    land_all(flights, landed)
}

/// `g <- momentum g + gradient / |gradient|_1` (Dong et al. 2018); the gradient itself without momentum.
fn accumulate(sum: &mut [f32], gradient: &[f32], momentum: f32) {
    let length = if momentum == 0.0 { 1.0 } else { gradient.iter().map(|g| g.abs()).sum::<f32>().max(1e-30) };
    sum.iter_mut().zip(gradient).for_each(|(sum, g)| *sum = momentum * *sum + g / length);
}

/// Random perturbations of the full budget: a corner of the ball, or a point of its sphere.
pub(super) fn noise(target: &Target<'_>, region: Region, images: &[Image<'_>], draws: u32, seed: u64) -> Vec<Found> {
    let mut landed: Vec<Option<Found>> = images.iter().map(|_| None).collect();
    let mut flights: Vec<_> = images
        .iter()
        .enumerate()
        .map(|(place, image)| {
            let found = Found::new(image.x);
            Flight { image: *image, place, x: image.x.to_vec(), found, own: () }
        })
        .collect();
    for draw in 1..=draws {
        for flight in &mut flights {
            let mut stream = stream(seed, &format!("noise.{draw}"), flight.image.name);
            let mut change: Vec<f32> = (0..flight.x.len())
                .map(|_| match region.norm {
                    Norm::Linf => stream.sign(),
                    Norm::L2 => stream.normal() as f32,
                })
                .collect();
            region.stretch(&mut change);
            for ((x, change), image) in flight.x.iter_mut().zip(change).zip(flight.image.x) {
                *x = (image + change).clamp(0.0, 1.0);
            }
            region.project(flight.image.x, &mut flight.x);
        }
        target.forward(
            &mut flights,
            draw,
            |()| Goal::Untargeted(Objective::CrossEntropy),
            |flight, row| {
                flight.found.improve(&flight.x, row.loss as f32);
                if row.fooled {
                    flight.found.fool(&flight.x, draw);
                }
            },
        );
        land(&mut flights, &mut landed);
    }
    land_all(flights, landed)
}
