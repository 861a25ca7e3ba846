//! Twins of a model that are known to be broken, and the one check that needs neither: gradients against differences.

use super::battery::Battery;
use super::disguises::{Pixelwise, Quantised};
use super::trust::{self, Grade};
use crate::measure::Result;
use gabion_learn::attack::{self, Campaign, Classifier, Found, Image, Pass, Region};
use gabion_spec::{Attack, Norm, Objective};

/// Images that twins are looked at with.
const IMAGES: usize = 64;
/// Images whose gradients are checked, and the length of the difference.
const CHECKED: usize = 32;
const DIFFERENCE: f32 = 1e-3;

/// What was seen of the twins.
pub(super) struct Seen {
    /// Images that the twin with hidden gradients gets right: those that it was looked at with.
    pub(super) hidden_images: usize,
    /// What looked at it, and how it grades it.
    pub(super) hidden: [(&'static str, Grade); 3],
    /// Images of the undefended twin that can fall, by the exact answer for a linear model, and those that do.
    pub(super) undefended: [usize; 2],
}

/// Looks at both twins.
pub(super) fn look(battery: &Battery<'_>, victim: &dyn Classifier, region: Region, right: &[usize]) -> Result<Seen> {
    let few = Few::new(battery, &right[..right.len().min(IMAGES)], region);
    let quantised = Quantised { victim, levels: 8.0 };
    // Rounding moves some images over the boundary by itself; the rest is attacked.
    let standing = few.right(&quantised);
    let hidden_images = standing.len();
    let flat = few.attacked(&quantised, &Attack::Fgsm { objective: Objective::CrossEntropy }, &standing);
    let short = Attack::Apgd { objective: Objective::CrossEntropy, iterations: 10, restarts: 1, eot: 1 };
    let fell = few.attacked(&quantised, &short, &standing);
    let left: Vec<usize> =
        standing.iter().zip(&fell).filter(|(_, found)| !found.fooled()).map(|(row, _)| *row).collect();
    let searched = few.attacked(&quantised, &Attack::Square { queries: 300 }, &left);
    let only = searched.iter().filter(|found| found.fooled()).count();
    let error = difference_error(battery, &quantised, few.places)?;
    let hidden = [
        ("no gradients", trust::missing(&flat).0),
        ("wrong gradients", trust::wrong(error)),
        ("falls to queries alone", trust::alone(only, standing.len())),
    ];

    // The exact answer is for L-infinity; the attacks are the same ones.
    let region = match region.norm {
        Norm::Linf => region,
        Norm::L2 => Region::linf(8.0 / 255.0),
    };
    let places: Vec<usize> = (0..battery.indices.len().min(1000)).collect();
    let labels: Vec<usize> = places.iter().map(|&place| battery.label(place)).collect();
    let twin = Pixelwise::trained(&battery.pixels(&places), &labels, victim.classes());
    let all = Few::new(battery, &places, region);
    let mut standing = all.right(&twin);
    standing.truncate(IMAGES);
    let can: Vec<usize> = standing
        .into_iter()
        .filter(|&row| twin.worst_margin(&all.x[row * all.length..][..all.length], labels[row], region.epsilon) < -1e-4)
        .collect();
    let attacks = [
        Attack::Apgd { objective: Objective::CrossEntropy, iterations: 20, restarts: 1, eot: 1 },
        Attack::FabTargeted { targets: 9, iterations: 20 },
    ];
    let mut stand = can.clone();
    for attack in &attacks {
        let found = all.attacked(&twin, attack, &stand);
        stand = stand.iter().zip(&found).filter(|(_, found)| !found.fooled()).map(|(row, _)| *row).collect();
    }
    let undefended = [can.len(), can.len() - stand.len()];
    Ok(Seen { hidden_images, hidden, undefended })
}

/// Some images of an evaluation, on the host.
struct Few<'a> {
    battery: &'a Battery<'a>,
    places: &'a [usize],
    region: Region,
    x: Vec<f32>,
    length: usize,
    names: Vec<u64>,
}

impl<'a> Few<'a> {
    fn new(battery: &'a Battery<'a>, places: &'a [usize], region: Region) -> Self {
        let x = battery.pixels(places);
        let names = places.iter().map(|&place| battery.indices[place] as u64).collect();
        Self { battery, places, region, length: x.len() / places.len().max(1), x, names }
    }

    /// Rows that a twin gets right.
    fn right(&self, twin: &dyn Classifier) -> Vec<usize> {
        let logits = twin.logits(&self.x, Pass { images: &self.names, draw: 0 });
        let rows = logits.chunks_exact(twin.classes()).enumerate();
        rows.filter(|(row, logits)| attack::first_of_greatest(logits) == self.battery.label(self.places[*row]))
            .map(|(row, _)| row)
            .collect()
    }

    fn attacked(&self, twin: &dyn Classifier, attack: &Attack, rows: &[usize]) -> Vec<Found> {
        let image = |&row: &usize| Image {
            name: self.names[row],
            label: self.battery.label(self.places[row]),
            x: &self.x[row * self.length..][..self.length],
        };
        let images: Vec<Image<'_>> = rows.iter().map(image).collect();
        let size = [self.battery.images.height, self.battery.images.width];
        let campaign = Campaign { victim: twin, region: self.region, size, seed: self.battery.seed };
        attack::run(attack, campaign, &images)
    }
}

/// The median relative error of the margin's gradient along its own sign, against a central difference in f32.
pub(super) fn difference_error(battery: &Battery<'_>, victim: &dyn Classifier, right: &[usize]) -> Result<f64> {
    let few = &right[..right.len().min(CHECKED)];
    if few.is_empty() {
        return Ok(0.0);
    }
    let x = battery.pixels(few);
    let length = x.len() / few.len();
    let classes = victim.classes();
    let names: Vec<u64> = few.iter().map(|&place| battery.indices[place] as u64).collect();
    let pass = Pass { images: &names, draw: 0 };
    let labels: Vec<usize> = few.iter().map(|&place| battery.label(place)).collect();
    // One rival an image, chosen once: the margin over it is smooth where the greatest of all rivals has kinks.
    let mut rivals = Vec::new();
    let back = victim.gradient(&x, pass, &mut |logits| {
        let mut weights = vec![0.0; logits.len()];
        for ((row, weights), &label) in logits.chunks_exact(classes).zip(weights.chunks_exact_mut(classes)).zip(&labels)
        {
            let others = (0..classes).filter(|&class| class != label);
            let rival = others.max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap_or(label);
            weights[rival] += 1.0;
            weights[label] -= 1.0;
            rivals.push(rival);
        }
        weights
    });
    let signs: Vec<f32> = back.x.iter().map(|g| if *g == 0.0 { 1.0 } else { g.signum() }).collect();
    let margins = |by: f32| -> Vec<f64> {
        let moved: Vec<f32> = x.iter().zip(&signs).map(|(x, sign)| x + by * sign).collect();
        let logits = victim.logits(&moved, pass);
        let rows = logits.chunks_exact(classes).zip(&rivals).zip(&labels);
        rows.map(|((row, &rival), &label)| f64::from(row[rival]) - f64::from(row[label])).collect()
    };
    let (above, below) = (margins(DIFFERENCE), margins(-DIFFERENCE));
    let mut errors: Vec<f64> = (0..few.len())
        .map(|row| {
            let slope = (above[row] - below[row]) / f64::from(2.0 * DIFFERENCE);
            let own = &back.x[row * length..][..length];
            let expected: f64 =
                own.iter().zip(&signs[row * length..]).map(|(g, s)| f64::from(*g) * f64::from(*s)).sum();
            let (error, size) = ((slope - expected).abs(), slope.abs().max(expected.abs()));
            if size == 0.0 { 0.0 } else { error / size }
        })
        .collect();
    errors.sort_by(f64::total_cmp);
    Ok(errors[errors.len() / 2])
}
