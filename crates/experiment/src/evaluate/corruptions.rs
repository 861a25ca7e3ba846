//! Accuracy under the common corruptions of Hendrycks and Dietterich 2019 (<https://arxiv.org/abs/1903.12261>).

use super::Progress;
use super::battery::{Battery, Order};
use crate::measure::{Rate, Result};
use gabion_corrupt::{Corruption, CorruptionSet, Scale, Severity, corrupt_batch};
use gabion_learn::attack::{Classifier, FRESH, Found, Pass, Passes, Region, first_of_greatest};
use gabion_spec::Attack;
use serde::Serialize;

/// Accuracy on corrupted images.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Corruptions {
    /// Every corruption at every severity.
    pub rows: Vec<CorruptionRow>,
    /// Mean corruption accuracy: over all rows.
    pub mean: f64,
}

/// One corruption at one severity.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CorruptionRow {
    /// Such as `gaussian-noise`.
    pub name: String,
    /// `noise`, `blur`, `weather` or `digital`.
    pub family: String,
    /// 1 to 5.
    pub severity: u8,
    /// Images that stay right.
    pub rate: Rate,
}

/// Shows every image under every corruption at every severity, those that are wrong without one too.
pub(super) fn measure(
    battery: &Battery<'_>,
    victim: &dyn Classifier,
    observer: &mut dyn FnMut(Progress),
) -> Result<Corruptions> {
    let size = [battery.images.height, battery.images.width];
    let places: Vec<usize> = (0..battery.indices.len()).collect();
    let mut rows = Vec::new();
    for corruption in Corruption::ALL {
        for severity in Severity::ALL {
            let set = CorruptionSet { corruption, severity, scale: Scale::of(size), seed: battery.seed };
            // What is kept of it are verdicts alone: the images can be made again.
            let name = format!("{corruption} {}", severity.get());
            let order = Order::named(name, Attack::Noise { draws: 0 }, Region::linf(1.0));
            let shown = battery.assault(&order, &places, observer, &mut |images| {
                let names: Vec<u64> = images.iter().map(|image| image.name).collect();
                let corrupted: Vec<f32> = names.iter().flat_map(|&name| planes(&set, battery, name)).collect();
                let logits = victim.logits(&corrupted, Pass { images: &names, draw: FRESH });
                let rows = logits.chunks_exact(victim.classes()).zip(images);
                Ok(rows
                    .map(|(logits, image)| Found {
                        x: Vec::new(),
                        fooled_at: (first_of_greatest(logits) != image.label).then_some(0),
                        loss: 0.0,
                        earlier_loss: 0.0,
                        passes: Passes { forwards: 1, ..Passes::default() },
                    })
                    .collect())
            })?;
            let right = places.len() - shown.fallen().len();
            rows.push(CorruptionRow {
                name: corruption.to_string(),
                family: corruption.family().to_string(),
                severity: severity.get(),
                rate: Rate::new(right as u64, places.len() as u64),
            });
        }
    }
    let mean = rows.iter().map(|row| row.rate.accuracy).sum::<f64>() / rows.len() as f64;
    Ok(Corruptions { rows, mean })
}

/// A corrupted image of the data set, `[3, height, width]` in `[0, 1]`.
fn planes(set: &CorruptionSet, battery: &Battery<'_>, index: u64) -> Vec<f32> {
    let (height, width) = (battery.images.height, battery.images.width);
    let image = battery.images.image(usize::try_from(index).expect("an index of an image"));
    let mut out = vec![0; image.len()];
    corrupt_batch(set, image, [height, width], index, &mut out).expect("an image of a data set has its size");
    (0..3).flat_map(|channel| out.iter().skip(channel).step_by(3).map(|&value| f32::from(value) / 255.0)).collect()
}
