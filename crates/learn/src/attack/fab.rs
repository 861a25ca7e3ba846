//! Fast Adaptive Boundary attack, targeted (Croce and Hein 2020, <https://arxiv.org/abs/1907.02044>), as AutoAttack runs
//! it: `alpha_max` 0.1, `eta` 1.05, `beta` 0.9, no random start.
//!
//! Looks for the nearest image beyond the boundary to one class. An image leaves as soon as one within the budget is found;
//! the published program goes on to its last iteration.

use super::image::{Flight, Found, Image, Row, Target, Wanted, land, land_all};
use super::objective::Goal;
use super::region::Region;
use gabion_spec::Norm;
use rayon::prelude::*;

/// Most of the way back towards the image in a step.
const ALPHA_MAX: f32 = 0.1;
/// How far beyond the boundary a step goes.
const ETA: f32 = 1.05;
/// What of the perturbation an image keeps that has crossed it.
const BETA: f32 = 0.9;

struct State {
    goal: Goal,
    /// Distance of the nearest image beyond the boundary.
    distance: f32,
    gradient: Vec<f32>,
    /// How far below the boundary the iterate is, in logits.
    below: f64,
    /// Whether the last step fooled.
    crossed: bool,
}

/// One run for every image: `goals` are differences to the targets. Keeps the nearest image that fools; where `stop` is
/// set, an image is done once that is within the region.
pub(super) fn run(
    target: &Target<'_>,
    region: Region,
    images: &[Image<'_>],
    goals: &[Goal],
    iterations: u32,
    stop: bool,
) -> Vec<Found> {
    let mut landed: Vec<Option<Found>> = images.iter().map(|_| None).collect();
    let mut flights: Vec<_> = images
        .iter()
        .zip(goals)
        .enumerate()
        .map(|(place, (image, &goal))| {
            let own = State { goal, distance: f32::INFINITY, gradient: Vec::new(), below: 0.0, crossed: false };
            Flight { image: *image, place, x: image.x.to_vec(), found: Found::new(image.x), own }
        })
        .collect();
    for iteration in 1..=iterations {
        // The way there says what became of the step before: an iterate that has crossed the boundary goes back a little
        // and needs a gradient where it is then, and none here.
        target.gradient(
            Wanted::Standing,
            &mut flights,
            iteration,
            |own| own.goal,
            |flight, row| {
                keep(flight, &row);
                flight.own.crossed = iteration > 1 && row.fooled;
                if flight.own.crossed {
                    cross(flight, region, stop.then_some(iteration - 1));
                }
            },
        );
        land(&mut flights, &mut landed);
        if 4 * (iteration - 1) <= 3 * iterations {
            flights.iter_mut().for_each(|flight| flight.found.earlier_loss = flight.found.loss);
        }
        flights.sort_by_key(|flight| flight.own.crossed);
        let crossed = flights.partition_point(|flight| !flight.own.crossed);
        let again = &mut flights[crossed..];
        target.gradient(Wanted::All, again, iteration, |own| own.goal, |flight, row| keep(flight, &row));
        flights.par_iter_mut().for_each(|flight| advance(region.norm, flight));
    }
    target.forward(
        &mut flights,
        iterations + 1,
        |own| own.goal,
        |flight, row| {
            if row.fooled {
                cross(flight, region, stop.then_some(iterations));
            }
        },
    );
    land(&mut flights, &mut landed);
    for flight in flights.iter_mut().filter(|flight| flight.own.distance <= region.epsilon) {
        flight.found.fooled_at = Some(iterations);
    }
    land_all(flights, landed)
}

/// Keeps a gradient.
fn keep(flight: &mut Flight<'_, State>, row: &Row<'_>) {
    flight.own.gradient.clear();
    flight.own.gradient.extend_from_slice(row.gradient);
    flight.own.below = -row.loss;
}

/// The iterate fools: it is kept when none was nearer, ends the run at the iteration `last` when it is within the region,
/// and goes back towards the image.
fn cross(flight: &mut Flight<'_, State>, region: Region, last: Option<u32>) {
    let Flight { image, x, found, own, .. } = flight;
    let distance = region.distance(image.x, x);
    if distance < own.distance {
        (own.distance, found.loss) = (distance, -distance);
        found.x.copy_from_slice(x);
        if distance <= region.epsilon {
            found.fooled_at = last.or(found.fooled_at);
        }
    }
    x.iter_mut().zip(image.x).for_each(|(x, image)| *x = image + (*x - image) * BETA);
}

/// Onto the linearised boundary, from the iterate and from the image, and a mix of both a little beyond it.
fn advance(norm: Norm, flight: &mut Flight<'_, State>) {
    let Flight { image, x, own, .. } = flight;
    let State { gradient, below, .. } = own;
    // The loss is z_t - z_y: the boundary is where it is 0, `<gradient, z - x> = below`.
    let dot = |z: &[f32]| -> f64 {
        gradient.iter().zip(z).zip(&*x).map(|((g, z), x)| f64::from(*g) * (f64::from(*z) - f64::from(*x))).sum()
    };
    let near = projection(norm, x, gradient, *below);
    let back = projection(norm, image.x, gradient, *below - dot(image.x));
    let size = |d: &[f32]| Region { norm, epsilon: 0.0 }.distance(&vec![0.0; d.len()], d).max(1e-8);
    let alpha = (size(&near) / (size(&near) + size(&back))).min(ALPHA_MAX);
    for (((x, image), near), back) in x.iter_mut().zip(image.x).zip(near).zip(back) {
        *x = ((*x + ETA * near) * (1.0 - alpha) + (image + ETA * back) * alpha).clamp(0.0, 1.0);
    }
}

/// The smallest `d` with `<w, d> = rest` that leaves `t + d` in `[0, 1]`; where there is none, the one that comes nearest.
///
/// Each value moves by `min(lambda rate, room)` in its direction, `rate` 1 for L-infinity and `|w|` for L2. What that
/// adds up to rises with `lambda` and is concave, so Newton's method comes from below and ends at the exact solution.
pub(super) fn projection(norm: Norm, t: &[f32], w: &[f32], rest: f64) -> Vec<f32> {
    let direction = if rest < 0.0 { -1.0f32 } else { 1.0 };
    let needed = rest.abs();
    let room = |t: f32, w: f32| if w * direction > 0.0 { f64::from(1.0 - t) } else { f64::from(t) };
    let rate = |w: f32| match norm {
        Norm::Linf => 1.0,
        Norm::L2 => f64::from(w.abs()),
    };
    // The official program treats a weight of less than this as 0 in L2.
    let counts = |w: f32| match norm {
        Norm::Linf => w != 0.0,
        Norm::L2 => w.abs() > 1e-8,
    };
    let mut lambda = 0.0f64;
    loop {
        let (mut reached, mut slope) = (0.0f64, 0.0f64);
        for (&t, &w) in t.iter().zip(w).filter(|&(_, &w)| counts(w)) {
            let (weight, rate, room) = (f64::from(w.abs()), rate(w), room(t, w));
            if lambda * rate < room {
                reached += weight * lambda * rate;
                slope += weight * rate;
            } else {
                reached += weight * room;
            }
        }
        let missing = needed - reached;
        if slope == 0.0 || missing <= 1e-12 * needed {
            break;
        }
        let next = lambda + missing / slope;
        if next <= lambda {
            break;
        }
        lambda = next;
    }
    let moved = t.iter().zip(w).map(|(&t, &w)| {
        if !counts(w) {
            return 0.0;
        }
        let sign = if w * direction > 0.0 { 1.0 } else { -1.0 };
        sign * (lambda * rate(w)).min(room(t, w)) as f32
    });
    moved.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_projection_is_the_published_one() {
        // <w, x> = -0.35, so that 0.35 are missing to b = 0.
        let d = projection(Norm::Linf, &[0.2, 0.5, 0.9], &[1.0, -2.0, 0.5], 0.35);
        for (d, expected) in d.iter().zip([0.1, -0.1, 0.1]) {
            assert!((d - expected).abs() < 1e-6, "{d} is not {expected}");
        }
    }

    #[test]
    fn a_projection_stays_in_the_box_and_meets_the_plane() {
        let mut random = crate::init::Stream::new(5, "projection");
        for norm in [Norm::Linf, Norm::L2] {
            for _ in 0..200 {
                let t: Vec<f32> = (0..20).map(|_| random.uniform() as f32).collect();
                let w: Vec<f32> = (0..20).map(|_| random.normal() as f32).collect();
                let rest = 3.0 * random.normal();
                let d = projection(norm, &t, &w, rest);
                assert!(t.iter().zip(&d).all(|(t, d)| (-1e-6..=1.0 + 1e-6).contains(&(t + d))));
                let met: f64 = w.iter().zip(&d).map(|(w, d)| f64::from(*w) * f64::from(*d)).sum();
                let corner: f64 = w
                    .iter()
                    .zip(&t)
                    .map(|(w, t)| f64::from(w.abs()) * f64::from(if (*w > 0.0) == (rest > 0.0) { 1.0 - t } else { *t }))
                    .sum();
                assert!((met.abs() - rest.abs().min(corner)).abs() < 1e-4, "{met} {rest} {corner}");
            }
        }
    }

    #[test]
    fn no_gradient_moves_nothing() {
        assert_eq!(projection(Norm::L2, &[0.5, 0.1], &[0.0, 0.0], 1.0), [0.0, 0.0]);
    }
}
