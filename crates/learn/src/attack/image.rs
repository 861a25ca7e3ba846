//! An image under attack, and what came of it.

use super::objective::{Goal, first_of_greatest, loss, narrow};
use super::victim::{Classifier, Pass};
use crate::init::Stream;
use rayon::prelude::*;

/// An image to be attacked.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    /// Names it: its random numbers come from the seed and this, whatever batch it is in.
    pub name: u64,
    /// Its class.
    pub label: usize,
    /// `[3, height, width]` in `[0, 1]`.
    pub x: &'a [f32],
}

/// What came of an image.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The first image that fools the classifier, else that of the greatest loss; of FAB the nearest.
    pub x: Vec<f32>,
    /// Gradient steps, or queries where there are none, when it was fooled: 0 at a start.
    pub fooled_at: Option<u32>,
    /// The greatest loss; of FAB the negative distance of the nearest image that fools.
    pub loss: f32,
    /// The same after three quarters of the steps of the last run.
    pub earlier_loss: f32,
    /// What it cost and what was odd.
    pub passes: Passes,
}

/// Passes of one image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passes {
    /// Through the network, there and back.
    pub gradients: u32,
    /// Forward only.
    pub forwards: u32,
    /// Gradients that were 0 in every value.
    pub zero_gradients: u32,
    /// Losses whose derivative f32 would have lost, and that were scaled up.
    pub saturated: u32,
    /// Passes with a logit or a gradient that is not finite. An image with such logits counts as fooling.
    pub not_finite: u32,
}

impl Passes {
    /// Of two attacks on one image.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            gradients: self.gradients + other.gradients,
            forwards: self.forwards + other.forwards,
            zero_gradients: self.zero_gradients + other.zero_gradients,
            saturated: self.saturated + other.saturated,
            not_finite: self.not_finite + other.not_finite,
        }
    }
}

impl Found {
    /// Nothing yet.
    pub(super) fn new(x: &[f32]) -> Self {
        Self {
            x: x.to_vec(),
            fooled_at: None,
            loss: f32::NEG_INFINITY,
            earlier_loss: f32::NEG_INFINITY,
            passes: Passes::default(),
        }
    }

    /// Whether the classifier was fooled.
    pub fn fooled(&self) -> bool {
        self.fooled_at.is_some()
    }

    /// Keeps an image of greater loss.
    pub(super) fn improve(&mut self, x: &[f32], loss: f32) -> bool {
        let better = loss > self.loss;
        if better {
            self.loss = loss;
            self.x.copy_from_slice(x);
        }
        better
    }

    pub(super) fn fool(&mut self, x: &[f32], step: u32) {
        self.x.copy_from_slice(x);
        self.fooled_at = Some(step);
    }
}

/// One image of a batch in flight: what all attacks keep.
pub(super) struct Flight<'a, T> {
    pub(super) image: Image<'a>,
    /// Its place among the images of the attack.
    pub(super) place: usize,
    /// The iterate.
    pub(super) x: Vec<f32>,
    pub(super) found: Found,
    /// What one attack keeps.
    pub(super) own: T,
}

/// What a pass says of one row.
pub(super) struct Row<'a> {
    pub(super) loss: f64,
    pub(super) fooled: bool,
    /// Empty of a forward pass.
    pub(super) gradient: &'a [f32],
}

/// Which rows a gradient is wanted of; the others' are 0.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    All,
    /// Those that do not fool the classifier.
    Standing,
}

impl Wanted {
    fn of(self, fooled: bool) -> bool {
        self == Self::All || !fooled
    }
}

/// What is attacked and how its random draws are numbered.
pub(super) struct Target<'a> {
    pub(super) victim: &'a dyn Classifier,
    /// Draws that a gradient and a verdict are averaged over.
    pub(super) eot: u32,
}

impl Target<'_> {
    /// Whether logits say another class than the label, or nothing that is a number. Not asked of a random classifier
    /// under way: see [`Classifier::random`].
    fn fooled(&self, logits: &[f32], label: usize) -> bool {
        !self.victim.random() && wrong(logits, label)
    }

    /// Whether one iterate fools the classifier, by a forward pass of its own.
    pub(super) fn fools<T>(&self, flight: &mut Flight<'_, T>) -> bool {
        flight.found.passes.forwards += 1;
        let logits = self.victim.logits(&flight.x, Pass { images: &[flight.image.name], draw: 0 });
        self.fooled(&logits, flight.image.label)
    }

    /// Forward and back through the network from the iterates, averaged over draws; then `each` row by row, on all threads.
    pub(super) fn gradient<T: Send + Sync>(
        &self,
        wanted: Wanted,
        flights: &mut [Flight<'_, T>],
        step: u32,
        goal: impl Fn(&T) -> Goal,
        each: impl Fn(&mut Flight<'_, T>, Row<'_>) + Sync,
    ) {
        let Some(first) = flights.first() else { return };
        let (length, classes) = (first.x.len(), self.victim.classes());
        let (names, x) = iterates(flights);
        let mut sum: Option<(Vec<f32>, Vec<f32>, Vec<f64>)> = None;
        for draw in 0..self.eot {
            let mut losses = vec![0.0; flights.len()];
            let pass = Pass { images: &names, draw: u64::from(step) * u64::from(self.eot) + u64::from(draw) };
            let back = self.victim.gradient(&x, pass, &mut |logits| {
                let mut weights = vec![0.0; logits.len()];
                let mut wide = vec![0.0; classes];
                for (row, flight) in flights.iter_mut().enumerate() {
                    let (logits, out) = (&logits[row * classes..][..classes], &mut weights[row * classes..][..classes]);
                    // No loss of what is not finite: its derivative stays 0.
                    if logits.iter().all(|logit| logit.is_finite()) {
                        losses[row] = loss(goal(&flight.own), logits, flight.image.label, &mut wide);
                        if wanted.of(self.fooled(logits, flight.image.label)) {
                            // Draws are averaged: none of them may be scaled by itself.
                            flight.found.passes.saturated += u32::from(narrow(&wide, out, self.eot == 1));
                        }
                    } else {
                        losses[row] = f64::INFINITY;
                    }
                }
                weights
            });
            match &mut sum {
                None => sum = Some((back.logits, back.x, losses)),
                Some((logits, x, all)) => {
                    logits.iter_mut().zip(back.logits).for_each(|(sum, logit)| *sum += logit);
                    x.iter_mut().zip(back.x).for_each(|(sum, gradient)| *sum += gradient);
                    all.iter_mut().zip(losses).for_each(|(sum, loss)| *sum += loss);
                }
            }
        }
        let (logits, mut gradients, losses) = sum.expect("there is at least one draw");
        let (random, eot) = (self.victim.random(), self.eot);
        let rows = (logits.par_chunks(classes), gradients.par_chunks_mut(length), losses);
        flights.par_iter_mut().zip(rows.0).zip(rows.1).zip(rows.2).for_each(|(((flight, logits), gradient), loss)| {
            let finite = logits.iter().all(|logit| logit.is_finite());
            let fooled = !random && wrong(logits, flight.image.label);
            let usable = gradient.iter().all(|value| value.is_finite());
            if !usable {
                gradient.iter_mut().filter(|value| !value.is_finite()).for_each(|value| *value = 0.0);
            }
            let passes = &mut flight.found.passes;
            passes.not_finite += u32::from(!finite || !usable);
            if wanted.of(fooled) {
                passes.gradients += eot;
                passes.zero_gradients += u32::from(gradient.iter().all(|value| *value == 0.0));
            } else {
                passes.forwards += eot;
            }
            each(flight, Row { loss: loss / f64::from(eot), fooled, gradient });
        });
    }

    /// Forward through the network from the iterates, averaged over draws; then `each` row by row.
    pub(super) fn forward<T: Send + Sync>(
        &self,
        flights: &mut [Flight<'_, T>],
        step: u32,
        goal: impl Fn(&T) -> Goal,
        each: impl Fn(&mut Flight<'_, T>, Row<'_>) + Sync,
    ) {
        let answer = |flights: &mut [Flight<'_, T>], pass: Pass<'_>| self.victim.logits(&iterates(flights).1, pass);
        self.forward_by(answer, flights, step, goal, each);
    }

    /// The same with logits that `answer` gives.
    pub(super) fn forward_by<'a, T: Send + Sync>(
        &self,
        mut answer: impl FnMut(&mut [Flight<'a, T>], Pass<'_>) -> Vec<f32>,
        flights: &mut [Flight<'a, T>],
        step: u32,
        goal: impl Fn(&T) -> Goal,
        each: impl Fn(&mut Flight<'a, T>, Row<'_>) + Sync,
    ) {
        if flights.is_empty() {
            return;
        }
        let classes = self.victim.classes();
        let names: Vec<u64> = flights.iter().map(|flight| flight.image.name).collect();
        let mut sum = vec![0.0; flights.len() * classes];
        let mut losses = vec![0.0f64; flights.len()];
        let mut unused = vec![0.0; classes];
        for draw in 0..self.eot {
            let pass = Pass { images: &names, draw: u64::from(step) * u64::from(self.eot) + u64::from(draw) };
            let logits = answer(flights, pass);
            for ((row, loss_sum), flight) in logits.chunks_exact(classes).zip(&mut losses).zip(&*flights) {
                let finite = row.iter().all(|logit| logit.is_finite());
                *loss_sum += if finite {
                    loss(goal(&flight.own), row, flight.image.label, &mut unused) / f64::from(self.eot)
                } else {
                    f64::INFINITY
                };
            }
            sum.iter_mut().zip(logits).for_each(|(sum, logit)| *sum += logit);
        }
        let (random, eot) = (self.victim.random(), self.eot);
        flights.par_iter_mut().zip(sum.par_chunks(classes)).zip(losses).for_each(|((flight, logits), loss)| {
            flight.found.passes.forwards += eot;
            flight.found.passes.not_finite += u32::from(!logits.iter().all(|logit| logit.is_finite()));
            let fooled = !random && wrong(logits, flight.image.label);
            each(flight, Row { loss, fooled, gradient: &[] });
        });
    }
}

/// Whether logits say another class than the label, or nothing that is a number.
pub(super) fn wrong(logits: &[f32], label: usize) -> bool {
    !logits.iter().all(|logit| logit.is_finite()) || first_of_greatest(logits) != label
}

/// Names and values of some rows, one after another.
pub(super) fn gathered<'a>(rows: impl Iterator<Item = (u64, &'a [f32])>) -> (Vec<u64>, Vec<f32>) {
    let (mut names, mut values) = (Vec::new(), Vec::new());
    for (name, x) in rows {
        names.push(name);
        values.extend_from_slice(x);
    }
    (names, values)
}

/// Names and values of the iterates.
pub(super) fn iterates<T>(flights: &[Flight<'_, T>]) -> (Vec<u64>, Vec<f32>) {
    gathered(flights.iter().map(|flight| (flight.image.name, &*flight.x)))
}

/// Lets go of the images that have fallen, and keeps what came of them.
pub(super) fn land<T>(flights: &mut Vec<Flight<'_, T>>, landed: &mut [Option<Found>]) {
    for flight in flights.extract_if(.., |flight| flight.found.fooled()) {
        landed[flight.place] = Some(flight.found);
    }
}

/// What came of every image, in their order, when the attack ends.
pub(super) fn land_all<T>(flights: Vec<Flight<'_, T>>, mut landed: Vec<Option<Found>>) -> Vec<Found> {
    for flight in flights {
        landed[flight.place] = Some(flight.found);
    }
    landed.into_iter().map(|found| found.expect("every image lands")).collect()
}

/// Random numbers that belong to a seed, an attack's run and an image.
pub(super) fn stream(seed: u64, run: &str, image: u64) -> Stream {
    Stream::new(seed, &format!("{run}.{image}"))
}
