//! Twins of a model that are known to be broken, and the one check that needs neither: gradients against differences.

use super::Progress;
use super::battery::{Battery, Order};
use super::disguises::{Pixelwise, Quantised};
use crate::measure::{Rate, Result};
use gabion_learn::attack::{self, Campaign, Classifier, Image, Pass, Region};
use gabion_spec::{Attack, Objective};

/// Images that twins are looked at with.
const IMAGES: usize = 64;
/// Images whose gradients are checked, and the length of the difference.
const CHECKED: usize = 32;
const DIFFERENCE: f32 = 1e-3;

/// What was seen of the twins.
pub(super) struct Seen {
    /// What looked at the twin with hidden gradients, and whether it found it out.
    pub(super) hidden: Vec<(&'static str, bool)>,
    /// Of the undefended twin, under APGD.
    pub(super) undefended: Rate,
}

/// Looks at both twins.
pub(super) fn look(
    battery: &Battery<'_>,
    victim: &dyn Classifier,
    region: Region,
    right: &[usize],
    observer: &mut dyn FnMut(Progress),
) -> Result<Seen> {
    let quantised = Quantised { victim, levels: 8.0 };
    let few = &right[..right.len().min(IMAGES)];
    let x = battery.pixels(few);
    let length = x.len() / few.len().max(1);
    let names: Vec<u64> = few.iter().map(|&place| battery.indices[place] as u64).collect();
    let of = |twin: &dyn Classifier, attack: &Attack, rows: &[usize]| {
        let images: Vec<Image<'_>> = rows
            .iter()
            .map(|&row| Image { name: names[row], label: battery.label(few[row]), x: &x[row * length..][..length] })
            .collect();
        let size = [battery.images.height, battery.images.width];
        attack::run(attack, Campaign { victim: twin, region, size, seed: battery.seed }, &images)
    };
    // Rounding moves some images over the boundary by itself; the rest is attacked.
    let logits = quantised.logits(&x, Pass { images: &names, draw: 0 });
    let standing: Vec<usize> = logits
        .chunks_exact(victim.classes())
        .enumerate()
        .filter(|(row, logits)| attack::first_of_greatest(logits) == battery.label(few[*row]))
        .map(|(row, _)| row)
        .collect();
    let flat = of(&quantised, &Attack::Fgsm { objective: Objective::CrossEntropy }, &standing);
    let gone = flat.iter().filter(|found| found.passes.zero_gradients > 0).count();
    let short = Attack::Apgd { objective: Objective::CrossEntropy, iterations: 10, restarts: 1, eot: 1 };
    let fell = of(&quantised, &short, &standing);
    let left: Vec<usize> =
        standing.iter().zip(&fell).filter(|(_, found)| !found.fooled()).map(|(row, _)| *row).collect();
    let searched = of(&quantised, &Attack::Square { queries: 300 }, &left);
    let only = searched.iter().filter(|found| found.fooled()).count();
    let share = |count: usize, of: usize| 100.0 * count as f64 / of.max(1) as f64;
    let error = difference_error(battery, &quantised, few)?;
    let hidden = vec![
        ("no gradients", share(gone, standing.len()) > 10.0),
        ("wrong gradients", error > 0.25),
        ("falls to Square alone", share(only, standing.len()) > 2.0),
    ];

    let places: Vec<usize> = (0..battery.indices.len().min(1000)).collect();
    let labels: Vec<usize> = places.iter().map(|&place| battery.label(place)).collect();
    let twin = Pixelwise::trained(&battery.pixels(&places), &labels, victim.classes());
    let logits = battery.logits(&twin, &battery.pixels(&places), &places)?;
    let mut standing: Vec<usize> =
        places.into_iter().filter(|&place| attack::first_of_greatest(&logits[place]) == labels[place]).collect();
    standing.truncate(IMAGES);
    let attack = Attack::Apgd { objective: Objective::CrossEntropy, iterations: 20, restarts: 1, eot: 1 };
    let order = Order { name: format!("undefended {}", Order::new(attack, region).name), attack, region };
    let attacked = battery.attack(&twin, &order, &standing, observer)?;
    let stand = standing.len() - attacked.fallen().len();
    Ok(Seen { hidden, undefended: Rate::new(stand as u64, standing.len() as u64) })
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
