//! One operation at a time: every view is cropped and has this one on top.

use super::ours::Batch;
use super::rounds::median;
use gabion_augment::{Augment, Draw};
use gabion_spec::JitterOp;
use serde::Serialize;

/// What every view has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Crop, resize and flip; all others have this too.
    Crop,
    /// Brightness.
    Brightness,
    /// Contrast.
    Contrast,
    /// Saturation.
    Saturation,
    /// Hue.
    Hue,
    /// Grayscale.
    Grayscale,
    /// A sampled Gaussian, sigma as the recipe draws it.
    GaussianBlur,
    /// PIL's three boxes, likewise.
    PilBoxBlur,
    /// Solarize.
    Solarize,
}

impl Stage {
    /// All of them, the crop first.
    pub const ALL: [Self; 9] = [
        Self::Crop,
        Self::Brightness,
        Self::Contrast,
        Self::Saturation,
        Self::Hue,
        Self::Grayscale,
        Self::GaussianBlur,
        Self::PilBoxBlur,
        Self::Solarize,
    ];

    /// As in a table.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Crop => "crop",
            Self::Brightness => "+ brightness",
            Self::Contrast => "+ contrast",
            Self::Saturation => "+ saturation",
            Self::Hue => "+ hue",
            Self::Grayscale => "+ grayscale",
            Self::GaussianBlur => "+ gaussian blur",
            Self::PilBoxBlur => "+ PIL-box blur",
            Self::Solarize => "+ solarize",
        }
    }

    /// How often a view has it: a [`Draw`] has all four operations of the jitter or none, so it has one four times over.
    pub const fn times(self) -> u32 {
        match self.jitter() {
            Some(_) => 4,
            None => 1,
        }
    }

    const fn jitter(self) -> Option<JitterOp> {
        match self {
            Self::Brightness => Some(JitterOp::Brightness),
            Self::Contrast => Some(JitterOp::Contrast),
            Self::Saturation => Some(JitterOp::Saturation),
            Self::Hue => Some(JitterOp::Hue),
            _ => None,
        }
    }

    /// Draws views that all have it, on the current pool. Their crops are those of every other stage.
    pub(super) fn draw(self, batch: &Batch<'_>, draws: &mut [Draw]) {
        batch.draw(&everything(&batch.augment), 0, draws);
        for draw in draws {
            *draw = self.alone(*draw);
        }
    }

    /// What is left of a view that has everything.
    fn alone(self, all: Draw) -> Draw {
        let crop = Draw {
            jitter: 0,
            order: 0,
            brightness: 1.0,
            contrast: 1.0,
            saturation: 1.0,
            hue: 0.0,
            grayscale: 0,
            blur_sigma: 0.0,
            blur_filter: 0,
            solarize: Draw::NO_SOLARIZE,
            ..all
        };
        if let Some(op) = self.jitter() {
            let Draw { brightness, contrast, saturation, hue, .. } = all;
            let order = op as u32 * 0x0101_0101;
            return Draw { jitter: 1, order, brightness, contrast, saturation, hue, ..crop };
        }
        match self {
            Self::Grayscale => Draw { grayscale: 1, ..crop },
            Self::GaussianBlur => Draw { blur_sigma: all.blur_sigma, blur_filter: 0, ..crop },
            Self::PilBoxBlur => Draw { blur_sigma: all.blur_sigma, blur_filter: 1, ..crop },
            Self::Solarize => Draw { solarize: all.solarize, ..crop },
            _ => crop,
        }
    }
}

/// The recipe with every operation certain.
fn everything(augment: &Augment) -> Augment {
    let mut all = Augment { grayscale: 1.0, ..augment.clone() };
    if let Some(jitter) = &mut all.jitter {
        jitter.probability = 1.0;
    }
    if let Some(blur) = &mut all.blur {
        blur.probability = 1.0;
    }
    if let Some(solarize) = &mut all.solarize {
        solarize.probability = 1.0;
    }
    all
}

/// What a stage costs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct StageCost {
    /// What every view had.
    pub stage: Stage,
    /// How often each view had it.
    pub times: u32,
    /// Views a second with all of them, median of the rounds.
    pub views_per_second: f64,
    /// Microseconds a view that one of them adds to the crop, median of the rounds' differences; for the crop itself all
    /// that it takes.
    pub microseconds: f64,
}

/// The costs from rates in rounds, the crop's first.
pub(super) fn costs(rates: &[(Stage, Vec<f64>)]) -> Vec<StageCost> {
    let Some((_, crop)) = rates.first() else { return Vec::new() };
    let cost = |(stage, rates): &(Stage, Vec<f64>)| {
        let added: Vec<f64> = rates
            .iter()
            .zip(crop)
            .map(|(rate, crop)| {
                let without = if *stage == Stage::Crop { 0.0 } else { 1e6 / crop };
                (1e6 / rate - without) / f64::from(stage.times())
            })
            .collect();
        let (views_per_second, microseconds) = (median(rates)?, median(&added)?);
        Some(StageCost { stage: *stage, times: stage.times(), views_per_second, microseconds })
    };
    rates.iter().filter_map(cost).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use gabion_augment::{ViewId, sample};

    #[test]
    fn every_view_of_a_stage_has_it_and_nothing_else() {
        let all = everything(&Augment::default());
        for view in 0..50 {
            let all = sample(&all, ViewId { seed: 0, epoch: 0, image: 3, view }, [32, 32]);
            let crop = Stage::Crop.alone(all);
            assert_eq!((crop.jitter, crop.grayscale, crop.blur_sigma, crop.solarize), (0, 0, 0.0, Draw::NO_SOLARIZE));
            for stage in Stage::ALL {
                let draw = stage.alone(all);
                let place = |draw: Draw| [draw.image, draw.top, draw.left, draw.height, draw.width, draw.flip];
                assert_eq!(place(draw), place(all));
                assert_eq!(draw != crop, stage != Stage::Crop, "{stage:?}");
                if let Some(op) = stage.jitter() {
                    assert_eq!((draw.jitter, draw.jitter_order()), (1, [op; 4]));
                }
            }
            let blurs = [Stage::GaussianBlur, Stage::PilBoxBlur].map(|stage| stage.alone(all));
            assert!(blurs[0].blur_sigma >= 0.1 && blurs[0].blur_sigma == blurs[1].blur_sigma);
            assert_eq!(blurs.map(|draw| draw.blur_filter), [0, 1]);
            assert_eq!(Stage::Solarize.alone(all).solarize, 128.0 / 255.0);
        }
    }

    #[test]
    fn a_stage_costs_what_it_adds_to_the_crop_of_its_round() {
        let rates = [
            (Stage::Crop, vec![1e6, 0.5e6, 1e6]),
            (Stage::Grayscale, vec![0.5e6, 0.25e6, 0.5e6]),
            (Stage::Hue, vec![0.2e6, 0.1e6, 0.2e6]),
        ];
        let costs = costs(&rates);
        let figures: Vec<f64> = costs.iter().map(|cost| (1e6 * cost.microseconds).round() / 1e6).collect();
        assert_eq!(figures, [1.0, 1.0, 1.0]);
        assert_eq!(costs.iter().map(|cost| cost.times).collect::<Vec<_>>(), [1, 1, 4]);
        assert_eq!(costs[1].views_per_second, 0.5e6);
    }
}
