//! The verdicts of an evaluation, as attack after attack comes in.

use super::battery::{Attacked, Battery, Order};
use super::{CLEAN, Cost, Evaluation, Keep, Options, Progress, Row, Scene, Stage, Verdict};
use crate::measure::{Rate, Result};
use gabion_learn::attack::{Classifier, Found, Region, first_of_greatest};
use gabion_spec::{self as spec, Pixels};

/// The verdicts as attack after attack comes in.
pub(super) struct Course {
    pub(super) verdicts: Vec<Verdict>,
    pub(super) rows: Vec<Row>,
    /// Of each row and image the greatest loss and that after three quarters of the steps, where it was attacked.
    pub(super) losses: Vec<Vec<Option<[f32; 2]>>>,
    /// Of each budget, by place.
    adversarial: Vec<(Pixels, Vec<Option<Perturbed>>)>,
}

/// The first image that fooled; while there is none, the last that did not.
#[derive(Clone)]
struct Perturbed {
    fooled: bool,
    x: Vec<f32>,
}

impl Course {
    pub(super) fn new(
        battery: &Battery<'_>,
        victim: &dyn Classifier,
        observer: &mut dyn FnMut(Progress),
    ) -> Result<Self> {
        let images = battery.indices.len();
        let logits = battery.clean(victim, &mut |done, right| {
            observer(Progress { what: CLEAN.into(), done, total: images, right, images });
        })?;
        let verdicts = logits.iter().zip(battery.indices).map(|(logits, &index)| Verdict {
            index,
            label: battery.images.labels[index],
            predicted: u16::try_from(first_of_greatest(logits)).expect("class counts fit u16"),
            robust: Vec::new(),
            fooled_at: Vec::new(),
        });
        Ok(Self { verdicts: verdicts.collect(), rows: Vec::new(), losses: Vec::new(), adversarial: Vec::new() })
    }

    /// Images whose clean prediction is right.
    pub(super) fn right(&self) -> Vec<usize> {
        let right = |verdict: &Verdict| verdict.predicted == verdict.label;
        (0..self.verdicts.len()).filter(|&place| right(&self.verdicts[place])).collect()
    }

    /// Runs a stage within a region.
    pub(super) fn run(
        &mut self,
        battery: &Battery<'_>,
        victim: &dyn Classifier,
        stage: &Stage,
        region: Region,
        observer: &mut dyn FnMut(Progress),
    ) -> Result<()> {
        let mut standing = self.right();
        let begin = self.rows.len();
        for attack in &stage.attacks {
            let order = Order::new(*attack, region);
            let attacked = battery.attack(victim, &order, &standing, observer)?;
            let fallen = self.row(&order, stage.name, &standing, attacked);
            standing.retain(|place| !fallen.contains(place));
        }
        if let Some(name) = stage.name {
            let parts = &self.rows[begin..];
            let (passes, seconds) = parts
                .iter()
                .fold((Cost::default(), 0.0), |(cost, seconds), row| (cost.and(row.passes), seconds + row.seconds));
            let farthest = parts.iter().fold(0.0f32, |most, row| most.max(row.farthest));
            let (epsilon, images) = (Pixels(region.epsilon), self.verdicts.len() as u64);
            self.losses.push(vec![None; self.verdicts.len()]);
            self.rows.push(Row {
                name: name.into(),
                norm: region.norm,
                epsilon,
                attack: None,
                cascade: stage.name,
                rate: Rate::new(standing.len() as u64, images),
                attacked: self.right().len() as u64,
                farthest,
                passes,
                seconds,
                withheld: false,
            });
            for (place, verdict) in self.verdicts.iter_mut().enumerate() {
                verdict.robust.push(standing.binary_search(&place).is_ok());
                verdict.fooled_at.push(None);
            }
        }
        Ok(())
    }

    /// Writes down what came of an attack; returns the places that fell.
    fn row(
        &mut self,
        order: &Order,
        cascade: Option<&'static str>,
        standing: &[usize],
        attacked: Attacked,
    ) -> Vec<usize> {
        let row = Row { cascade, ..self.summary(order.attack.name(), order, &attacked) };
        let epsilon = row.epsilon;
        if !self.adversarial.iter().any(|(budget, _)| *budget == epsilon) {
            self.adversarial.push((epsilon, vec![None; self.verdicts.len()]));
        }
        let kept = self.adversarial.iter_mut().find(|(budget, _)| *budget == epsilon).expect("pushed above");
        let mut fallen = Vec::new();
        let mut fooled_at = vec![None; self.verdicts.len()];
        let mut losses = vec![None; self.verdicts.len()];
        for (place, Found { x, fooled_at: at, loss, earlier_loss, .. }) in attacked.found {
            losses[place] = Some([loss, earlier_loss]);
            if at.is_some() {
                fooled_at[place] = at;
                fallen.push(place);
            }
            if !x.is_empty() && !kept.1[place].as_ref().is_some_and(|kept| kept.fooled) {
                kept.1[place] = Some(Perturbed { fooled: at.is_some(), x });
            }
        }
        for (place, (verdict, at)) in self.verdicts.iter_mut().zip(fooled_at).enumerate() {
            verdict.robust.push(standing.binary_search(&place).is_ok() && at.is_none());
            verdict.fooled_at.push(at);
        }
        self.losses.push(losses);
        self.rows.push(row);
        fallen
    }

    /// Marks the numbers of a cascade that a trust report does not believe.
    pub(super) fn withhold(&mut self, region: Region) {
        let of = |row: &Row| row.cascade.is_some() && row.norm == region.norm && row.epsilon.0 == region.epsilon;
        self.rows.iter_mut().filter(|row| of(row)).for_each(|row| row.withheld = true);
    }

    /// Images outside of the region that an adversarial image of a budget is in, box and ball, and the greatest distance.
    pub(super) fn outside(&self, battery: &Battery<'_>, region: Region) -> (usize, f32) {
        let Some((_, kept)) = self.adversarial.iter().find(|(epsilon, _)| epsilon.0 == region.epsilon) else {
            return (0, 0.0);
        };
        let fooling = kept.iter().enumerate().filter_map(|(place, kept)| Some((place, kept.as_ref()?)));
        fooling.fold((0, 0.0f32), |(outside, farthest), (place, Perturbed { x, .. })| {
            let clean = battery.pixels(&[place]);
            let distance = region.distance(&clean, x);
            (outside + usize::from(!region.contains(&clean, x, 1e-6)), farthest.max(distance))
        })
    }

    /// A row for an attack; what it did not attack does not stand.
    pub(super) fn summary(&self, name: String, order: &Order, attacked: &Attacked) -> Row {
        let mut passes = Cost::default();
        attacked.found.iter().for_each(|(_, found)| passes.add(found.passes));
        let right = attacked.found.len() - attacked.fallen().len();
        Row {
            name,
            norm: order.region.norm,
            epsilon: Pixels(order.region.epsilon),
            attack: Some(order.attack),
            cascade: None,
            rate: Rate::new(right as u64, self.verdicts.len() as u64),
            attacked: attacked.found.len() as u64,
            farthest: attacked.farthest,
            passes,
            seconds: attacked.seconds,
            withheld: false,
        }
    }

    /// What speaks against taking the numbers at their word.
    pub(super) fn doubts(&self) -> Vec<String> {
        let mut doubts = Vec::new();
        for (at, row) in self.rows.iter().enumerate() {
            let what = row.what();
            let smaller = self.rows[..at].iter().rev().find(|other| other.name == row.name);
            if let Some(smaller) = smaller.filter(|smaller| smaller.rate.right < row.rate.right) {
                let (more, fewer) = (row.rate.right, smaller.rate.right);
                doubts.push(format!(
                    "{what}: {more} images stay right, at {} only {fewer}: the attack is too weak to tell them apart",
                    smaller.epsilon
                ));
            }
            let Cost { gradients, zero_gradients, not_finite, .. } = row.passes;
            if row.attack.is_some() && zero_gradients > 0 && row.epsilon.0 > 0.0 {
                doubts.push(format!(
                    "{what}: {zero_gradients} of {gradients} gradients were 0 everywhere: look for a vanishing gradient"
                ));
            }
            if row.attack.is_some() && not_finite > 0 {
                doubts
                    .push(format!("{what}: {not_finite} passes gave a value that is not finite; it counts as fooled"));
            }
        }
        doubts
    }

    pub(super) fn evaluation(
        self,
        scene: &Scene<'_>,
        recipe: &spec::Evaluate,
        options: &Options,
        warnings: Vec<String>,
    ) -> Evaluation {
        let images = self.verdicts.len() as u64;
        let right = self.right().len() as u64;
        let battery = scene.battery();
        let adversarial = (options.keep != Keep::Nothing).then(|| {
            let places: Vec<usize> = (0..self.verdicts.len()).collect();
            let clean = battery.pixels(&places);
            let stride = clean.len() / places.len();
            let whole = |found: &[Option<Perturbed>]| {
                let mut all = clean.clone();
                for (x, found) in all.chunks_exact_mut(stride).zip(found) {
                    if let Some(found) = found {
                        x.copy_from_slice(&found.x);
                    }
                }
                all
            };
            self.adversarial.iter().map(|(epsilon, found)| (*epsilon, whole(found))).collect()
        });
        Evaluation {
            protocol: recipe.protocol,
            seed: recipe.seed,
            images,
            data_sha256: scene.data_sha256.clone(),
            weights_sha256: scene.weights.clone(),
            over: scene.over,
            clean: Rate::new(right, images),
            seconds: scene.seconds.get(),
            attacks: self.rows,
            verdicts: self.verdicts,
            warnings,
            adversarial,
            size: [scene.test.height, scene.test.width],
        }
    }
}
