//! The classifier over many crops under attack: its crops as they were drawn, and the image through fresh ones.

use super::battery::{Attacked, Battery, Order};
use super::crops::{Crops, DrawnCrops, Over};
use super::plan::pgd;
use super::subject::Subject;
use super::{Cost, Progress};
use crate::measure::{Rate, Result};
use gabion_learn::attack::{self, Campaign, Classifier, FRESH, Found, Image, Pass, Region, first_of_greatest};
use gabion_spec::{Attack, Norm, Objective, Pixels, Start};
use serde::Serialize;

/// How many draws gradients of the image are averaged over.
pub const EOT: [u32; 3] = [1, 5, 20];

/// The classifier over many crops, measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Views {
    /// Crops of an image.
    pub views: u32,
    /// Test images that were measured.
    pub images: u64,
    /// Unperturbed, by fresh crops.
    pub clean: Rate,
    /// The attacks, at rising budgets.
    pub rows: Vec<ViewRow>,
}

/// An attack on it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ViewRow {
    /// `pgd-20 on drawn crops`, or `pgd-20 on the image, eot-5`.
    pub name: String,
    /// How the budget is measured.
    pub norm: Norm,
    /// Budget.
    pub epsilon: Pixels,
    /// Draws of a gradient; none where every crop is perturbed by itself.
    pub eot: Option<u32>,
    /// Images that stay right.
    pub rate: Rate,
    /// Passes that it took, crops counted as one image each.
    pub passes: Cost,
    /// Time that it took.
    pub seconds: f64,
}

impl ViewRow {
    /// Name and budget; the norm where it is not L-infinity.
    pub fn what(&self) -> String {
        match self.norm {
            Norm::Linf => format!("{} {}", self.name, self.epsilon),
            Norm::L2 => format!("{} L2 {}", self.name, self.epsilon),
        }
    }
}

/// Measures the head on the mean feature of `views` crops: clean, attacked crop by crop as the reference does, and attacked
/// as an image through fresh crops, with gradients over 1, 5 and 20 draws.
pub(super) fn measure(
    battery: &Battery<'_>,
    subject: &Subject,
    views: u32,
    (norm, epsilons): (Norm, &[Pixels]),
    observer: &mut dyn FnMut(Progress),
) -> Result<Views> {
    let over = || Over::new(subject, views, battery.seed);
    let (crops, drawn) = (Crops(over()?), DrawnCrops(over()?));
    let images = battery.indices.len();
    let what = format!("clean, {views} views");
    let logits = battery.clean(&crops, &mut |done, right| {
        observer(Progress { what: what.clone(), done, total: images, right, images });
    })?;
    let right: Vec<usize> =
        (0..images).filter(|&place| first_of_greatest(&logits[place]) == battery.label(place)).collect();
    let extra = drawn.0.described();
    let mut rows = Vec::new();
    let mut row = |name: String, epsilon: Pixels, eot: Option<u32>, attacked: Attacked| {
        let mut passes = Cost::default();
        attacked.found.iter().for_each(|(_, found)| passes.add(found.passes));
        let rate = Rate::new((right.len() - attacked.fallen().len()) as u64, images as u64);
        rows.push(ViewRow { name, norm, epsilon, eot, rate, passes, seconds: attacked.seconds });
    };
    for &epsilon in epsilons {
        let region = Region { norm, epsilon: epsilon.0 };
        let step = Pixels(epsilon.0 / 8.0);
        let attack = pgd(20, step, 1, Start::Zero);
        let order = Order {
            extra: extra.clone(),
            ..Order::named(format!("{views} drawn crops, {} {epsilon}", attack.name()), attack, region)
        };
        let attacked =
            battery.assault(&order, &right, observer, &mut |images| Ok(per_crop(&drawn, &attack, region, images)))?;
        row(format!("{} on drawn crops", attack.name()), epsilon, None, attacked);
        for eot in EOT {
            let objective = Objective::CrossEntropy;
            let attack =
                Attack::Pgd { objective, steps: 20, step, restarts: 1, start: Start::Zero, momentum: 0.0, eot };
            let order = Order {
                extra: extra.clone(),
                ..Order::named(format!("{views} views, {} {epsilon}", attack.name()), attack, region)
            };
            let attacked = battery.attack(&crops, &order, &right, observer)?;
            row(format!("pgd-20 on the image, eot-{eot}"), epsilon, Some(eot), attacked);
        }
    }
    Ok(Views { views, images: images as u64, clean: Rate::new(right.len() as u64, images as u64), rows })
}

/// Perturbs each crop of the deployed draw by itself. What it finds are crops and no image: the image stays as it was.
fn per_crop(drawn: &DrawnCrops, attack: &Attack, region: Region, images: &[Image<'_>]) -> Vec<Found> {
    let names: Vec<u64> = images.iter().map(|image| image.name).collect();
    let x: Vec<f32> = images.iter().flat_map(|image| image.x.iter().copied()).collect();
    let rows = drawn.rows(&x, Pass { images: &names, draw: FRESH });
    let length = rows.len() / images.len().max(1);
    let crops: Vec<Image<'_>> =
        images.iter().zip(rows.chunks_exact(length)).map(|(image, x)| Image { x, ..*image }).collect();
    let size = drawn.0.size.map(|side| side as usize);
    let campaign = Campaign { victim: drawn as &dyn Classifier, region, size, seed: drawn.0.seed };
    let found = attack::run(attack, campaign, &crops);
    found.into_iter().zip(images).map(|(found, image)| Found { x: image.x.to_vec(), ..found }).collect()
}
