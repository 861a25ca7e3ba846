//! One set of corrupted images, and what makes it.

use crate::random::Random;
use crate::{
    CorruptError, Corruption, Scale, Severity, blur, digital, elastic, frost, jpeg, noise, published, weather,
};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Longest side of an image in pixels. The plasma of fog is a square of the next power of two.
pub const MAX_SIDE: usize = 4096;

/// What decides a set of corrupted images completely, but for the images: one of the benchmark's 75.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CorruptionSet {
    /// What happens.
    pub corruption: Corruption,
    /// How strongly.
    pub severity: Severity,
    /// With whose constants. [`Scale::of`] says what fits a size; the original fits one only.
    pub scale: Scale,
    /// Sets of different seeds share no random number, nor do two corruptions or two severities of one seed.
    pub seed: u64,
}

/// Keeps the numbers of images apart from whatever else is drawn with the same seed.
const PURPOSE: u64 = 0x434F_5252_5550_5431;

/// Corrupts the image that is number `index` of its data set.
///
/// The result is a function of `set`, the pixels and `index` alone, on any machine with the same rounding of `exp`,
/// `ln`, `sin` and `cos`.
///
/// # What differs from the original
/// Algorithms, constants and the order of operations are those of
/// [hendrycks/robustness](https://github.com/hendrycks/robustness), slips of it included where they shape the published
/// images: glass blur copies where it means to swap, and JPEG's colours are at half resolution as PIL stores them.
/// - Random numbers are others, so images agree in distribution and not one by one.
/// - Frost is drawn: the five photographs of the original are not free to be passed on. Mean colour, contrast and
///   magnification of each are kept.
/// - Images need not be square; lengths that the original takes from the side are taken from the shorter side, and
///   magnifications treat rows and columns alike.
/// - ImageNet-C's files are stored as JPEG of quality 85 after the corruption. That is not done here.
/// - A value that is whole but for rounding is not cut down to the next lower.
///
/// # Shapes
/// `size` is `[height, width]` in pixels; `image` and `out` are `[height, width, 3]` bytes, 255 is white.
///
/// # Errors
/// [`CorruptError::Size`] when a side is 0 or above [`MAX_SIDE`], [`CorruptError::Length`] when a slice does not have
/// its shape's length.
pub fn corrupt(
    set: &CorruptionSet,
    image: &[u8],
    size: [usize; 2],
    index: u64,
    out: &mut [u8],
) -> Result<(), CorruptError> {
    let bytes = bytes_of(size)?;
    check_length("pixels", size, bytes, image.len())?;
    check_length("the output's pixels", size, bytes, out.len())?;
    apply(set, image, size, index, out);
    Ok(())
}

/// Corrupts many images in parallel on rayon's current pool, the first of which is number `first` of its data set.
///
/// Each result is that of [`corrupt`] with its own index, whatever the batch.
///
/// # Shapes
/// `images` and `out` are `[n, height, width, 3]` bytes. No images are no work.
///
/// # Errors
/// Those of [`corrupt`].
pub fn corrupt_batch(
    set: &CorruptionSet,
    images: &[u8],
    size: [usize; 2],
    first: u64,
    out: &mut [u8],
) -> Result<(), CorruptError> {
    let bytes = bytes_of(size)?;
    check_length("whole images", size, images.len().next_multiple_of(bytes), images.len())?;
    check_length("the output's images", size, images.len(), out.len())?;
    out.par_chunks_exact_mut(bytes)
        .zip(images.par_chunks_exact(bytes))
        .enumerate()
        .for_each(|(place, (out, image))| apply(set, image, size, first.wrapping_add(place as u64), out));
    Ok(())
}

/// Bytes of an image.
fn bytes_of([height, width]: [usize; 2]) -> Result<usize, CorruptError> {
    let sides = 1..=MAX_SIDE;
    if sides.contains(&height) && sides.contains(&width) {
        Ok(height * width * 3)
    } else {
        Err(CorruptError::Size { height, width })
    }
}

fn check_length(what: &'static str, size: [usize; 2], expected: usize, got: usize) -> Result<(), CorruptError> {
    let [height, width] = size;
    if expected == got { Ok(()) } else { Err(CorruptError::Length { what, height, width, expected, got }) }
}

/// Corrupts an image whose lengths are right.
fn apply(set: &CorruptionSet, image: &[u8], size: [usize; 2], index: u64, out: &mut [u8]) {
    let CorruptionSet { corruption, severity, scale, seed } = *set;
    // The places of variants in their enums are part of the name: a new one goes last.
    let mut random = Random::named(&[PURPOSE, seed, corruption as u64, u64::from(severity.get()), scale as u64, index]);
    match corruption {
        Corruption::GaussianNoise => {
            noise::gaussian_noise(image, published::GAUSSIAN_NOISE.at(scale, severity), || random.normal(), out);
        }
        Corruption::ShotNoise => {
            noise::shot_noise(image, published::SHOT_NOISE.at(scale, severity), &mut random, out);
        }
        Corruption::ImpulseNoise => {
            noise::impulse_noise(image, published::IMPULSE_NOISE.at(scale, severity), || random.unit(), out);
        }
        Corruption::DefocusBlur => {
            let (radius, softness) = published::DEFOCUS_BLUR.at(scale, severity);
            blur::defocus_blur(image, size, radius, softness, out);
        }
        Corruption::GlassBlur => {
            let constants = published::GLASS_BLUR.at(scale, severity);
            let reach = constants.1;
            let mut offset = || random.below(2 * reach).cast_signed() - reach.cast_signed();
            blur::glass_blur(image, size, constants, || [offset(), offset()], out);
        }
        Corruption::MotionBlur => {
            let (radius, sigma) = published::MOTION_BLUR.at(scale, severity);
            let degrees = random.between(-45.0, 45.0);
            blur::motion_blur(image, size, radius, sigma, f64::from(degrees), out);
        }
        Corruption::ZoomBlur => blur::zoom_blur(image, size, published::ZOOM_BLUR.at(scale, severity), out),
        Corruption::Snow => {
            let degrees = random.between(-135.0, -45.0);
            let constants = published::SNOW.at(scale, severity);
            weather::snow(image, size, constants, || random.normal(), f64::from(degrees), out);
        }
        Corruption::Frost => {
            frost::frost(image, size, scale, published::FROST.at(scale, severity), &mut random, out);
        }
        Corruption::Fog => {
            weather::fog(image, size, published::FOG.at(scale, severity), || random.signed(), out);
        }
        Corruption::Brightness => weather::brightness(image, published::BRIGHTNESS.at(scale, severity), out),
        Corruption::Contrast => digital::contrast(image, published::CONTRAST.at(scale, severity), out),
        Corruption::ElasticTransform => {
            let constants = published::ELASTIC_TRANSFORM.at(scale, severity);
            elastic::elastic_transform(image, size, constants, || random.signed(), out);
        }
        Corruption::Pixelate => digital::pixelate(image, size, published::PIXELATE.at(scale, severity), out),
        Corruption::JpegCompression => {
            jpeg::jpeg_compression(image, size, published::JPEG_COMPRESSION.at(scale, severity), out);
        }
    }
}
