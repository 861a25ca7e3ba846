//! The patch pipeline as data: a distribution over views, and the numbers of one view.

use crate::Pixels;
use crate::invalid::{Invalid, ensure, ordered, probability};
use alloc::format;
use serde::{Deserialize, Serialize};

/// A distribution over views, applied in this order: crop and resize, flip, colour jitter, grayscale, blur,
/// solarize (METHOD section 2; torchvision's transforms of the same names).
///
/// An operation whose key is left out of a recipe does not happen; a recipe without any `augment` has
/// [`Augment::default`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Augment {
    /// Height and width of a view in pixels.
    pub size: [u32; 2],
    /// Which part of the image a view shows.
    pub crop: Crop,
    /// Probability of a horizontal flip.
    #[serde(default)]
    pub flip: f64,
    /// Colour jitter, or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jitter: Option<Jitter>,
    /// Probability of the ITU-R 601 gray image in all three channels.
    #[serde(default)]
    pub grayscale: f64,
    /// Gaussian blur, or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blur: Option<Blur>,
    /// Solarization, or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub solarize: Option<Solarize>,
}

/// A random crop by area and aspect ratio (torchvision's `RandomResizedCrop`).
///
/// The paper's *crop-based* views are scale `[0.08, 1]`, ratio `[3/4, 4/3]`; its *patch-based* views are scale
/// `[0.25, 0.25]`, ratio `[1, 1]`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Crop {
    /// Least and greatest share of the image's area, drawn uniformly.
    pub scale: [f64; 2],
    /// Least and greatest width / height, drawn uniformly in the logarithm.
    pub ratio: [f64; 2],
}

impl Crop {
    /// The paper's crop-based views.
    pub const CROP: Self = Self { scale: [0.08, 1.0], ratio: [3.0 / 4.0, 4.0 / 3.0] };
    /// The paper's patch-based views.
    pub const PATCH: Self = Self { scale: [0.25, 0.25], ratio: [1.0, 1.0] };
    /// The whole image.
    pub const WHOLE: Self = Self { scale: [1.0, 1.0], ratio: [1.0, 1.0] };
}

/// Colour jitter: four operations in a random order, each clamped to `[0, 1]` (torchvision's `ColorJitter`).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jitter {
    /// Probability that any of it happens.
    pub probability: f64,
    /// Brightness factor is uniform in `[max(0, 1 - b), 1 + b]`.
    pub brightness: f64,
    /// Contrast factor, likewise.
    pub contrast: f64,
    /// Saturation factor, likewise.
    pub saturation: f64,
    /// Hue shift is uniform in `[-h, h]` turns of the colour circle, h at most 0.5.
    pub hue: f64,
}

/// One of the four jitter operations; its discriminant is the number used in [`Draw::order`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u32)]
pub enum JitterOp {
    /// Scale every channel.
    Brightness = 0,
    /// Blend with the mean gray of the view.
    Contrast = 1,
    /// Blend with the gray image.
    Saturation = 2,
    /// Turn the colour circle.
    Hue = 3,
}

/// Gaussian blur with a random width.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blur {
    /// Probability.
    pub probability: f64,
    /// Least and greatest standard deviation in pixels of the view, drawn uniformly.
    pub sigma: [f64; 2],
    /// How the blur is computed.
    pub filter: BlurFilter,
}

/// How a blur is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BlurFilter {
    /// A sampled Gaussian with reflect padding.
    #[default]
    Gaussian,
    /// PIL's `GaussianBlur`: three box passes with fractional edges, edge pixels repeated.
    PilBoxes,
}

/// Inverts every value at or above a threshold.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Solarize {
    /// Probability.
    pub probability: f64,
    /// Values `>=` this become one minus themselves; the paper's is 128/255.
    pub threshold: Pixels,
}

impl Default for Augment {
    /// The paper's crop-based recipe for 32x32 views.
    fn default() -> Self {
        Self {
            size: [32, 32],
            crop: Crop::CROP,
            flip: 0.5,
            jitter: Some(Jitter { probability: 0.8, brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.2 }),
            grayscale: 0.2,
            blur: Some(Blur { probability: 0.1, sigma: [0.1, 2.0], filter: BlurFilter::PilBoxes }),
            solarize: Some(Solarize { probability: 0.1, threshold: Pixels::of_255(128.0) }),
        }
    }
}

impl Augment {
    /// No change but a resize of the whole image to `size` (height, width).
    pub fn identity(size: [u32; 2]) -> Self {
        Self { size, crop: Crop::WHOLE, flip: 0.0, jitter: None, grayscale: 0.0, blur: None, solarize: None }
    }
}

/// The numbers of one view: everything random about it has been drawn. The layout is the one of the WGSL struct.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[repr(C)]
pub struct Draw {
    /// Index of the source image in its batch.
    pub image: u32,
    /// First row of the crop in the source image.
    pub top: u32,
    /// First column of the crop.
    pub left: u32,
    /// Rows of the crop, at least 1.
    pub height: u32,
    /// Columns of the crop, at least 1.
    pub width: u32,
    /// 1 for a horizontal flip, else 0.
    pub flip: u32,
    /// 1 when the four jitter operations are applied, else 0.
    pub jitter: u32,
    /// The order of the jitter operations: [`JitterOp`] numbers, the first in the lowest byte.
    pub order: u32,
    /// Brightness factor.
    pub brightness: f32,
    /// Contrast factor.
    pub contrast: f32,
    /// Saturation factor.
    pub saturation: f32,
    /// Hue shift in turns.
    pub hue: f32,
    /// 1 for gray, else 0.
    pub grayscale: u32,
    /// Standard deviation of the blur in pixels of the view; 0 for no blur.
    pub blur_sigma: f32,
    /// 0 for a Gaussian, 1 for PIL's boxes.
    pub blur_filter: u32,
    /// Values at or above this are inverted; 2 for no solarization.
    pub solarize: f32,
}

impl Draw {
    /// [`Draw::solarize`] of a view that is not solarized.
    pub const NO_SOLARIZE: f32 = 2.0;

    /// The jitter operations in the order in which they are applied.
    pub fn jitter_order(&self) -> [JitterOp; 4] {
        let op = |place: u32| match (self.order >> (8 * place)) & 0xff {
            0 => JitterOp::Brightness,
            1 => JitterOp::Contrast,
            2 => JitterOp::Saturation,
            _ => JitterOp::Hue,
        };
        [op(0), op(1), op(2), op(3)]
    }
}

impl Augment {
    /// Checks every range.
    ///
    /// # Errors
    /// The first key out of its range.
    pub fn validate(&self) -> Result<(), Invalid> {
        let [height, width] = self.size;
        ensure((1..=1024).contains(&height) && (1..=1024).contains(&width), "augment.size", || {
            format!("{height}x{width} is outside 1..=1024 pixels")
        })?;
        ordered(self.crop.scale, 1e-6, 1.0, "augment.crop.scale")?;
        ordered(self.crop.ratio, 1e-2, 1e2, "augment.crop.ratio")?;
        probability(self.flip, "augment.flip")?;
        probability(self.grayscale, "augment.grayscale")?;
        if let Some(jitter) = &self.jitter {
            probability(jitter.probability, "augment.jitter.probability")?;
            ordered([0.0, jitter.brightness], 0.0, 100.0, "augment.jitter.brightness")?;
            ordered([0.0, jitter.contrast], 0.0, 100.0, "augment.jitter.contrast")?;
            ordered([0.0, jitter.saturation], 0.0, 100.0, "augment.jitter.saturation")?;
            ordered([0.0, jitter.hue], 0.0, 0.5, "augment.jitter.hue")?;
        }
        if let Some(blur) = &self.blur {
            probability(blur.probability, "augment.blur.probability")?;
            ordered(blur.sigma, 0.01, 100.0, "augment.blur.sigma")?;
        }
        if let Some(solarize) = &self.solarize {
            probability(solarize.probability, "augment.solarize.probability")?;
        }
        Ok(())
    }
}
