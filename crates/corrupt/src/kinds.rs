//! What there is to choose: the corruption, its severity and the scale of its constants.

use crate::CorruptError;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// One of the 15 common corruptions, in the order of the paper (section 3, figure 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Corruption {
    /// Normal noise on every value, as in low light.
    GaussianNoise,
    /// The noise of counting photons.
    ShotNoise,
    /// Values that are black or white, as from bit errors.
    ImpulseNoise,
    /// A disk, as of a lens out of focus.
    DefocusBlur,
    /// Pixels moved within a small window, as behind frosted glass.
    GlassBlur,
    /// A streak in a random direction, as of a camera that moves.
    MotionBlur,
    /// A mean over magnifications, as of a camera that moves towards the scene.
    ZoomBlur,
    /// Falling flakes on a whitened image.
    Snow,
    /// Crystals of ice on a window. The texture is drawn, not a photograph: see [`crate::corrupt`].
    Frost,
    /// A plasma fractal that covers and dims.
    Fog,
    /// Light added.
    Brightness,
    /// Contrast taken away.
    Contrast,
    /// A random affine map and small displacements.
    ElasticTransform,
    /// Fewer pixels.
    Pixelate,
    /// What JPEG loses.
    JpegCompression,
}

/// What corruptions have in common, as the paper groups them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// Noise.
    Noise,
    /// Blur.
    Blur,
    /// Weather.
    Weather,
    /// What digital processing does.
    Digital,
}

impl Corruption {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::GaussianNoise,
        Self::ShotNoise,
        Self::ImpulseNoise,
        Self::DefocusBlur,
        Self::GlassBlur,
        Self::MotionBlur,
        Self::ZoomBlur,
        Self::Snow,
        Self::Frost,
        Self::Fog,
        Self::Brightness,
        Self::Contrast,
        Self::ElasticTransform,
        Self::Pixelate,
        Self::JpegCompression,
    ];

    /// The name as it is written in recipes and reports, such as `gaussian-noise`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::GaussianNoise => "gaussian-noise",
            Self::ShotNoise => "shot-noise",
            Self::ImpulseNoise => "impulse-noise",
            Self::DefocusBlur => "defocus-blur",
            Self::GlassBlur => "glass-blur",
            Self::MotionBlur => "motion-blur",
            Self::ZoomBlur => "zoom-blur",
            Self::Snow => "snow",
            Self::Frost => "frost",
            Self::Fog => "fog",
            Self::Brightness => "brightness",
            Self::Contrast => "contrast",
            Self::ElasticTransform => "elastic-transform",
            Self::Pixelate => "pixelate",
            Self::JpegCompression => "jpeg-compression",
        }
    }

    /// The family that it belongs to.
    pub const fn family(self) -> Family {
        match self {
            Self::GaussianNoise | Self::ShotNoise | Self::ImpulseNoise => Family::Noise,
            Self::DefocusBlur | Self::GlassBlur | Self::MotionBlur | Self::ZoomBlur => Family::Blur,
            Self::Snow | Self::Frost | Self::Fog | Self::Brightness => Family::Weather,
            Self::Contrast | Self::ElasticTransform | Self::Pixelate | Self::JpegCompression => Family::Digital,
        }
    }
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Noise, Self::Blur, Self::Weather, Self::Digital];
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Noise => "noise",
            Self::Blur => "blur",
            Self::Weather => "weather",
            Self::Digital => "digital",
        })
    }
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Corruption {
    type Err = CorruptError;

    /// Reads a name; underscores, as in the files of CIFAR-10-C, are taken for hyphens.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = text.trim().replace('_', "-");
        let known = Self::ALL.into_iter().find(|corruption| corruption.name() == name);
        known.ok_or_else(|| CorruptError::UnknownCorruption(text.to_owned()))
    }
}

/// How strong a corruption is, 1 to 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Severity(u8);

impl Severity {
    /// All of them, rising.
    pub const ALL: [Self; 5] = [Self(1), Self(2), Self(3), Self(4), Self(5)];

    /// A severity of 1 to 5.
    ///
    /// # Errors
    /// [`CorruptError::Severity`] for any other number.
    pub fn new(level: u8) -> Result<Self, CorruptError> {
        if (1..=5).contains(&level) { Ok(Self(level)) } else { Err(CorruptError::Severity(level)) }
    }

    /// The number.
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl TryFrom<u8> for Severity {
    type Error = CorruptError;

    fn try_from(level: u8) -> Result<Self, Self::Error> {
        Self::new(level)
    }
}

impl From<Severity> for u8 {
    fn from(severity: Severity) -> Self {
        severity.0
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Which of the two published sets of constants. Most are in pixels, so that they belong to a size of image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scale {
    /// CIFAR-10-C's, for images of 32 pixels a side.
    Cifar,
    /// ImageNet-C's, for images of 224 pixels a side.
    Imagenet,
}

impl Scale {
    /// Longest side in pixels that CIFAR's constants are taken for.
    pub const CIFAR_SIDE: usize = 64;

    /// The scale for images of `size` = `[height, width]` pixels.
    pub fn of(size: [usize; 2]) -> Self {
        if size[0].max(size[1]) <= Self::CIFAR_SIDE { Self::Cifar } else { Self::Imagenet }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for corruption in Corruption::ALL {
            assert_eq!(corruption.to_string().parse(), Ok(corruption));
            assert_eq!(corruption.name().replace('-', "_").parse(), Ok(corruption));
            let json = serde_json::to_string(&corruption).unwrap();
            assert_eq!(json, format!("\"{corruption}\""));
            assert_eq!(serde_json::from_str::<Corruption>(&json).unwrap(), corruption);
        }
        let error = "fogg".parse::<Corruption>().unwrap_err().to_string();
        assert!(error.contains("`fogg`") && error.contains("jpeg-compression"), "{error}");
    }

    #[test]
    fn a_severity_is_1_to_5() {
        for level in 0..=u8::MAX {
            assert_eq!(Severity::new(level).is_ok(), (1..=5).contains(&level));
        }
        assert_eq!(serde_json::from_str::<Severity>("3").unwrap(), Severity::ALL[2]);
        assert!(serde_json::from_str::<Severity>("6").unwrap_err().to_string().contains("1 to 5"));
    }

    #[test]
    fn families_hold_three_or_four() {
        let count = |family| Corruption::ALL.iter().filter(|corruption| corruption.family() == family).count();
        assert_eq!(Family::ALL.map(count), [3, 4, 4, 4]);
    }

    #[test]
    fn constants_follow_the_longer_side() {
        assert_eq!(Scale::of([32, 32]), Scale::Cifar);
        assert_eq!(Scale::of([64, 1]), Scale::Cifar);
        assert_eq!(Scale::of([32, 65]), Scale::Imagenet);
    }
}
