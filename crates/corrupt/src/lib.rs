//! Common corruptions: noise, blur, weather and digital processing, 15 of them at 5 severities each.
//!
//! Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations", ICLR 2019
//! (<https://arxiv.org/abs/1903.12261>). [`corrupt`] makes one image and [`corrupt_batch`] many; a [`CorruptionSet`]
//! says which corruption, how strong, with whose constants and from which seed. Every image has a random row of its own,
//! so that results depend on nothing else.
//!
//! ```
//! use gabion_corrupt::{Corruption, CorruptionSet, Scale, Severity, corrupt};
//!
//! let image = vec![127; 32 * 32 * 3];
//! let mut corrupted = vec![0; image.len()];
//! for corruption in Corruption::ALL {
//!     for severity in Severity::ALL {
//!         let set = CorruptionSet { corruption, severity, scale: Scale::of([32, 32]), seed: 0 };
//!         corrupt(&set, &image, [32, 32], 9, &mut corrupted)?;
//!     }
//! }
//! # Ok::<(), gabion_corrupt::CorruptError>(())
//! ```

mod axis;
mod blur;
mod convolve;
mod digital;
mod elastic;
mod error;
mod frost;
mod jpeg;
mod kinds;
mod levels;
mod noise;
mod published;
mod random;
mod set;
mod weather;

pub use error::CorruptError;
pub use kinds::{Corruption, Family, Scale, Severity};
pub use set::{CorruptionSet, MAX_SIDE, corrupt, corrupt_batch};

#[cfg(test)]
mod golden;
