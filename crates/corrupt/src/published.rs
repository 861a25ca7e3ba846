//! The published constants of every corruption.
//!
//! CIFAR-10-C's are those of `ImageNet-C/create_c/make_cifar_c.py`, ImageNet-C's those of `make_imagenet_c.py`, both in
//! <https://github.com/hendrycks/robustness>. Lengths are pixels and intensities are parts of white, where nothing else
//! is said.

use crate::{Scale, Severity};

/// One corruption's constants at severities 1 to 5.
pub(crate) struct Published<T> {
    cifar: [T; 5],
    imagenet: [T; 5],
}

impl<T: Copy> Published<T> {
    pub(crate) fn at(&self, scale: Scale, severity: Severity) -> T {
        let level = usize::from(severity.get()) - 1;
        match scale {
            Scale::Cifar => self.cifar[level],
            Scale::Imagenet => self.imagenet[level],
        }
    }
}

/// Standard deviation.
pub(crate) const GAUSSIAN_NOISE: Published<f32> =
    Published { cifar: [0.04, 0.06, 0.08, 0.09, 0.10], imagenet: [0.08, 0.12, 0.18, 0.26, 0.38] };

/// Photons of a white value.
pub(crate) const SHOT_NOISE: Published<f32> =
    Published { cifar: [500.0, 250.0, 100.0, 75.0, 50.0], imagenet: [60.0, 25.0, 12.0, 5.0, 3.0] };

/// Share of the values that are replaced.
pub(crate) const IMPULSE_NOISE: Published<f32> =
    Published { cifar: [0.01, 0.02, 0.03, 0.05, 0.07], imagenet: [0.03, 0.06, 0.09, 0.17, 0.27] };

/// Radius of the disk, and sigma of the blur that softens its edge.
pub(crate) const DEFOCUS_BLUR: Published<(f64, f64)> = Published {
    cifar: [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1)],
    imagenet: [(3.0, 0.1), (4.0, 0.5), (6.0, 0.5), (8.0, 0.5), (10.0, 0.5)],
};

/// Sigma of the blur before and after, how far a pixel moves, and how often.
pub(crate) const GLASS_BLUR: Published<(f64, usize, usize)> = Published {
    cifar: [(0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)],
    imagenet: [(0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2)],
};

/// Radius and sigma.
pub(crate) const MOTION_BLUR: Published<(usize, f64)> = Published {
    cifar: [(6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5)],
    imagenet: [(10, 3.0), (15, 5.0), (15, 8.0), (15, 12.0), (20, 15.0)],
};

/// Step between two zooms and their number, the first being 1. (`numpy.arange(1, 1.11, 0.01)` has 12 and not 11.)
pub(crate) const ZOOM_BLUR: Published<(f64, usize)> = Published {
    cifar: [(0.01, 7), (0.01, 12), (0.01, 16), (0.01, 21), (0.01, 26)],
    imagenet: [(0.01, 12), (0.01, 16), (0.02, 11), (0.02, 13), (0.03, 11)],
};

/// What falls, and what lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Snow {
    /// Mean and standard deviation of the noise that flakes are cut from.
    pub mean: f32,
    pub deviation: f32,
    /// Magnification of the noise.
    pub zoom: f64,
    /// Noise below this is no flake.
    pub threshold: f32,
    /// Radius and sigma of the motion blur.
    pub radius: usize,
    pub sigma: f64,
    /// Share of the image that is not whitened.
    pub kept: f32,
}

const fn snow(noise: (f32, f32), zoom: f64, threshold: f32, motion: (usize, f64), kept: f32) -> Snow {
    Snow { mean: noise.0, deviation: noise.1, zoom, threshold, radius: motion.0, sigma: motion.1, kept }
}

pub(crate) const SNOW: Published<Snow> = Published {
    cifar: [
        snow((0.1, 0.2), 1.0, 0.6, (8, 3.0), 0.95),
        snow((0.1, 0.2), 1.0, 0.5, (10, 4.0), 0.9),
        snow((0.15, 0.3), 1.75, 0.55, (10, 4.0), 0.9),
        snow((0.25, 0.3), 2.25, 0.6, (12, 6.0), 0.85),
        snow((0.3, 0.3), 1.25, 0.65, (14, 12.0), 0.8),
    ],
    imagenet: [
        snow((0.1, 0.3), 3.0, 0.5, (10, 4.0), 0.8),
        snow((0.2, 0.3), 2.0, 0.5, (12, 4.0), 0.7),
        snow((0.55, 0.3), 4.0, 0.9, (12, 8.0), 0.7),
        snow((0.55, 0.3), 4.5, 0.85, (12, 8.0), 0.65),
        snow((0.55, 0.3), 2.5, 0.85, (12, 12.0), 0.55),
    ],
};

/// Weights of the image and of the frost.
pub(crate) const FROST: Published<(f32, f32)> = Published {
    cifar: [(1.0, 0.2), (1.0, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)],
    imagenet: [(1.0, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)],
};

/// Density, and by what the roughness falls from one octave to the next.
pub(crate) const FOG: Published<(f32, f64)> = Published {
    cifar: [(0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75)],
    imagenet: [(1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4)],
};

/// What is added to the value of HSV.
pub(crate) const BRIGHTNESS: Published<f64> =
    Published { cifar: [0.05, 0.1, 0.15, 0.2, 0.3], imagenet: [0.1, 0.2, 0.3, 0.4, 0.5] };

/// Factor of the distance from the channel's mean.
pub(crate) const CONTRAST: Published<f64> =
    Published { cifar: [0.75, 0.5, 0.4, 0.3, 0.15], imagenet: [0.4, 0.3, 0.2, 0.1, 0.05] };

/// A displacement of pixels, in parts of the image's side.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Elastic {
    /// Factor of the blurred noise.
    pub alpha: f64,
    /// Sigma of its blur.
    pub sigma: f64,
    /// How far the three points move that make the affine part.
    pub affine: f64,
}

const fn elastic(alpha: f64, sigma: f64, affine: f64) -> Elastic {
    Elastic { alpha, sigma, affine }
}

/// ImageNet's are parts of 244 in the original, which says itself that 224 was meant, for images of 224 pixels.
pub(crate) const ELASTIC_TRANSFORM: Published<Elastic> = Published {
    cifar: [
        elastic(0.0, 0.0, 0.08),
        elastic(0.05, 0.2, 0.07),
        elastic(0.08, 0.06, 0.06),
        elastic(0.1, 0.04, 0.05),
        elastic(0.1, 0.03, 0.03),
    ],
    imagenet: [
        elastic(2.0 * SLIP, 0.7 * SLIP, 0.1 * SLIP),
        elastic(2.0 * SLIP, 0.08 * SLIP, 0.2 * SLIP),
        elastic(0.05 * SLIP, 0.01 * SLIP, 0.02 * SLIP),
        elastic(0.07 * SLIP, 0.01 * SLIP, 0.02 * SLIP),
        elastic(0.12 * SLIP, 0.01 * SLIP, 0.02 * SLIP),
    ],
};
const SLIP: f64 = 244.0 / 224.0;

/// Side of the small image in parts of the large one.
pub(crate) const PIXELATE: Published<f64> =
    Published { cifar: [0.95, 0.9, 0.85, 0.75, 0.65], imagenet: [0.6, 0.5, 0.4, 0.3, 0.25] };

/// Quality, as libjpeg counts it.
pub(crate) const JPEG_COMPRESSION: Published<u32> =
    Published { cifar: [80, 65, 58, 50, 40], imagenet: [25, 18, 15, 10, 7] };
