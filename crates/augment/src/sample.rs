//! (distribution, view) -> the numbers of that view.

#[cfg(not(feature = "std"))]
use crate::float::Float as _;
use crate::philox::philox4x32;
use gabion_spec::{Augment, BlurFilter, Crop, Draw, Jitter};

/// Which view is drawn. Equal ids give equal [`Draw`]s, different ids independent ones, in any order of evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ViewId {
    /// Seed of the run.
    pub seed: u64,
    /// Pass over the data set.
    pub epoch: u32,
    /// Index of the image in its data set (not in its batch).
    pub image: u32,
    /// Index of the view among those of the image.
    pub view: u32,
}

/// Tries of [`sample`] for a crop that fits, before the central one (torchvision's `RandomResizedCrop.get_params`).
const CROP_TRIES: u32 = 10;

/// A view's random words come in blocks of four. Every quantity has its own place, so a recipe that differs in
/// one probability or range still draws the same numbers for all the rest.
mod block {
    /// First of the crop tries: area, aspect ratio, top, left.
    pub const CROP: u32 = 0;
    /// Whether: flip, jitter, grayscale, blur.
    pub const WHETHER: u32 = 16;
    /// Brightness, contrast, saturation, hue.
    pub const JITTER: u32 = 17;
    /// Order of the jitter, whether solarize, blur's sigma, none.
    pub const REST: u32 = 18;
}

/// Draws the numbers of one view of an image of `source` = `[height, width]` pixels.
///
/// The distribution is torchvision's `RandomResizedCrop`, `RandomHorizontalFlip`, `RandomApply(ColorJitter)`,
/// `RandomGrayscale`, a random Gaussian blur and `RandomSolarize`, with quantities that do not apply left neutral
/// (factor 1, hue 0, sigma 0, threshold 2). [`Draw::image`] is 0; the caller sets it to the image's place in its batch:
/// `Draw { image: place, ..sample(&augment, id, [32, 32]) }`.
///
/// # Panics
/// When the source has no pixels.
pub fn sample(augment: &Augment, id: ViewId, source: [u32; 2]) -> Draw {
    assert!(source[0] > 0 && source[1] > 0, "a view needs a source with pixels, got {}x{}", source[0], source[1]);
    let words = |block| philox4x32([block, id.view, id.image, id.epoch], [id.seed as u32, (id.seed >> 32) as u32]);
    let [top, left, height, width] = crop(&augment.crop, source, words);
    let mut draw = Draw {
        top,
        left,
        height,
        width,
        order: IN_ORDER,
        brightness: 1.0,
        contrast: 1.0,
        saturation: 1.0,
        solarize: Draw::NO_SOLARIZE,
        ..Draw::default()
    };
    let whether = words(block::WHETHER);
    let rest = words(block::REST);
    draw.flip = happens(augment.flip, whether[0]).into();
    if let Some(strength) = augment.jitter.as_ref().filter(|jitter| happens(jitter.probability, whether[1])) {
        jitter(&mut draw, strength, words(block::JITTER), rest[0]);
    }
    draw.grayscale = happens(augment.grayscale, whether[2]).into();
    if let Some(blur) = augment.blur.as_ref().filter(|blur| happens(blur.probability, whether[3])) {
        draw.blur_sigma = between(blur.sigma, rest[2]) as f32;
        draw.blur_filter = match blur.filter {
            BlurFilter::Gaussian => 0,
            BlurFilter::PilBoxes => 1,
        };
    }
    if let Some(solarize) = augment.solarize.as_ref().filter(|solarize| happens(solarize.probability, rest[1])) {
        draw.solarize = solarize.threshold.0;
    }
    draw
}

/// `[top, left, height, width]` of torchvision's `RandomResizedCrop.get_params`.
fn crop(crop: &Crop, [rows, columns]: [u32; 2], words: impl Fn(u32) -> [u32; 4]) -> [u32; 4] {
    let area = f64::from(rows) * f64::from(columns);
    let log_ratio = crop.ratio.map(f64::ln);
    for attempt in 0..CROP_TRIES {
        let word = words(block::CROP + attempt);
        let target = area * between(crop.scale, word[0]);
        let ratio = between(log_ratio, word[1]).exp();
        // Python's round() takes halves to even.
        let width = (target * ratio).sqrt().round_ties_even();
        let height = (target / ratio).sqrt().round_ties_even();
        if 0.0 < width && width <= f64::from(columns) && 0.0 < height && height <= f64::from(rows) {
            let (height, width) = (height as u32, width as u32);
            return [below(rows - height + 1, word[2]), below(columns - width + 1, word[3]), height, width];
        }
    }
    let ratio = f64::from(columns) / f64::from(rows);
    let least = crop.ratio[0].min(crop.ratio[1]);
    let greatest = crop.ratio[0].max(crop.ratio[1]);
    // torchvision would crop 0 pixels of a thin image with an extreme ratio; a Draw has at least 1.
    let (height, width) = if ratio < least {
        (((f64::from(columns) / least).round_ties_even() as u32).max(1), columns)
    } else if ratio > greatest {
        (rows, ((f64::from(rows) * greatest).round_ties_even() as u32).max(1))
    } else {
        (rows, columns)
    };
    [(rows - height) / 2, (columns - width) / 2, height, width]
}

/// The four factors and their order (torchvision's `ColorJitter.get_params`).
fn jitter(draw: &mut Draw, strength: &Jitter, factors: [u32; 4], order: u32) {
    let around_one = |strength: f64, word| between([(1.0 - strength).max(0.0), 1.0 + strength], word) as f32;
    draw.jitter = 1;
    draw.order = permutation(below(24, order));
    draw.brightness = around_one(strength.brightness, factors[0]);
    draw.contrast = around_one(strength.contrast, factors[1]);
    draw.saturation = around_one(strength.saturation, factors[2]);
    draw.hue = between([-strength.hue, strength.hue], factors[3]) as f32;
}

/// [`Draw::order`] of brightness, contrast, saturation, hue.
const IN_ORDER: u32 = 0x0302_0100;

/// The `rank`-th of the 24 orders of four operations, in the layout of [`Draw::order`].
fn permutation(mut rank: u32) -> u32 {
    let mut left = [0, 1, 2, 3];
    let mut order = 0;
    for place in 0..4 {
        let choices = 4 - place;
        let chosen = (rank % choices) as usize;
        rank /= choices;
        order |= left[chosen] << (8 * place);
        left.copy_within(chosen + 1.., chosen);
    }
    order
}

/// Uniform in `[0, 1)`, in steps of 2^-32.
fn unit(word: u32) -> f64 {
    f64::from(word) * (1.0 / 4_294_967_296.0)
}

/// Uniform between two bounds.
fn between([low, high]: [f64; 2], word: u32) -> f64 {
    low + (high - low) * unit(word)
}

/// Uniform in `0..n`, each with probability 1/n to within 2^-32.
fn below(n: u32, word: u32) -> u32 {
    ((u64::from(n) * u64::from(word)) >> 32) as u32
}

/// True with a probability.
fn happens(probability: f64, word: u32) -> bool {
    unit(word) < probability
}

#[cfg(test)]
mod tests {
    use super::*;
    use gabion_spec::JitterOp;
    use proptest::prelude::*;
    use std::collections::HashSet;

    const ID: ViewId = ViewId { seed: 7, epoch: 0, image: 0, view: 0 };

    #[test]
    fn orders_are_the_24_permutations() {
        let orders: HashSet<u32> = (0..24).map(permutation).collect();
        assert_eq!(orders.len(), 24);
        for order in orders {
            let ops: HashSet<u32> =
                Draw { order, ..Draw::default() }.jitter_order().into_iter().map(|op| op as u32).collect();
            assert_eq!(ops.len(), 4, "{order:#010x}");
        }
        let ops = Draw { order: IN_ORDER, ..Draw::default() }.jitter_order();
        assert_eq!(ops, [JitterOp::Brightness, JitterOp::Contrast, JitterOp::Saturation, JitterOp::Hue]);
    }

    #[test]
    fn every_part_of_the_id_changes_the_draw() {
        let augment = Augment::default();
        let draw = sample(&augment, ID, [32, 32]);
        for id in [
            ViewId { seed: 8, ..ID },
            ViewId { seed: 7 | 1 << 40, ..ID },
            ViewId { epoch: 1, ..ID },
            ViewId { image: 1, ..ID },
            ViewId { view: 1, ..ID },
        ] {
            assert_ne!(sample(&augment, id, [32, 32]), draw, "{id:?}");
        }
    }

    #[test]
    fn identity_is_the_whole_image() {
        let draw = sample(&Augment::identity([8, 8]), ID, [5, 9]);
        let neutral = Draw {
            height: 5,
            width: 9,
            order: IN_ORDER,
            brightness: 1.0,
            contrast: 1.0,
            saturation: 1.0,
            solarize: Draw::NO_SOLARIZE,
            ..Draw::default()
        };
        // Ratio 1 of a 5x9 image never fits; the central fallback is 5x5.
        assert_eq!(draw, Draw { left: 2, width: 5, ..neutral });
        assert_eq!(sample(&Augment::identity([8, 8]), ID, [6, 6]), Draw { height: 6, width: 6, ..neutral });
    }

    #[test]
    fn patches_are_a_quarter_of_the_area() {
        let augment = Augment { crop: Crop::PATCH, ..Augment::default() };
        for view in 0..100 {
            let draw = sample(&augment, ViewId { view, ..ID }, [32, 32]);
            assert_eq!((draw.height, draw.width), (16, 16));
        }
    }

    #[test]
    fn a_thin_image_falls_back_to_the_centre() {
        let augment = Augment { crop: Crop { scale: [1.0, 1.0], ratio: [0.75, 4.0 / 3.0] }, ..Augment::default() };
        let draw = sample(&augment, ID, [10, 100]);
        assert_eq!([draw.top, draw.left, draw.height, draw.width], [0, 43, 10, 13]);
        let draw = sample(&augment, ID, [100, 10]);
        assert_eq!([draw.top, draw.left, draw.height, draw.width], [43, 0, 13, 10]);
    }

    #[test]
    fn probabilities_zero_and_one() {
        let mut augment = Augment { flip: 1.0, grayscale: 0.0, ..Augment::default() };
        augment.jitter.as_mut().unwrap().probability = 1.0;
        augment.blur.as_mut().unwrap().probability = 1.0;
        augment.solarize.as_mut().unwrap().probability = 0.0;
        for view in 0..1000 {
            let draw = sample(&augment, ViewId { view, ..ID }, [32, 32]);
            assert_eq!((draw.flip, draw.jitter, draw.grayscale), (1, 1, 0));
            assert!((0.1..2.0).contains(&draw.blur_sigma) && draw.blur_filter == 1);
            assert_eq!(draw.solarize, Draw::NO_SOLARIZE);
        }
    }

    #[test]
    fn one_changed_probability_leaves_the_rest() {
        let gray = Augment { grayscale: 1.0, ..Augment::default() };
        for view in 0..100 {
            let id = ViewId { view, ..ID };
            let draw = sample(&Augment::default(), id, [32, 32]);
            assert_eq!(sample(&gray, id, [32, 32]), Draw { grayscale: 1, ..draw });
        }
    }

    #[test]
    fn choices_have_their_probabilities_and_are_independent() {
        let n = 100_000;
        let draws = (0..n).map(|image| sample(&Augment::default(), ViewId { image, ..ID }, [32, 32]));
        type Choice = fn(&Draw) -> bool;
        let choices: [(f64, Choice); 6] = [
            (0.5, |draw| draw.flip == 1),
            (0.8, |draw| draw.jitter == 1),
            (0.2, |draw| draw.grayscale == 1),
            (0.1, |draw| draw.blur_sigma > 0.0),
            (0.1, |draw| draw.solarize == 128.0 / 255.0),
            (0.1 * 0.25, |draw| draw.blur_sigma > 0.1 + 1.9 * 0.75),
        ];
        let mut counts = [[0.0f64; 6]; 6];
        for draw in draws {
            let taken = choices.map(|(_, choice)| choice(&draw));
            for (row, a) in counts.iter_mut().zip(taken) {
                for (count, b) in row.iter_mut().zip(taken) {
                    *count += f64::from(a && b);
                }
            }
        }
        for (i, row) in counts.iter().enumerate() {
            for (j, count) in row.iter().enumerate() {
                // Choice 5, a wide blur, is a part of choice 3.
                let expected = match (i, j) {
                    (3 | 5, 5) | (5, 3) => choices[5].0,
                    _ if i == j => choices[i].0,
                    _ => choices[i].0 * choices[j].0,
                };
                let standard_error = (expected * (1.0 - expected) / f64::from(n)).sqrt();
                let found = count / f64::from(n);
                assert!((found - expected).abs() < 5.0 * standard_error, "{i} and {j}: {found}, {expected}");
            }
        }
    }

    proptest! {
        #[test]
        fn draws_are_inside_the_source_and_independent_of_order(
            seed: u64, rows in 1u32..300, columns in 1u32..300, low in 0.01f64..1.0, thin in 0.1f64..1.0,
        ) {
            let crop = Crop { scale: [low, 1.0], ratio: [thin, 1.0 / thin] };
            let augment = Augment { crop, ..Augment::default() };
            let ids: Vec<ViewId> = (0..40).map(|n| ViewId { seed, epoch: n % 2, image: n % 5, view: n }).collect();
            let forward: Vec<Draw> = ids.iter().map(|&id| sample(&augment, id, [rows, columns])).collect();
            let mut backward: Vec<Draw> = ids.iter().rev().map(|&id| sample(&augment, id, [rows, columns])).collect();
            backward.reverse();
            prop_assert_eq!(&forward, &backward);
            for draw in forward {
                prop_assert!(draw.height >= 1 && draw.top + draw.height <= rows);
                prop_assert!(draw.width >= 1 && draw.left + draw.width <= columns);
            }
        }
    }
}
