//! The patch pipeline: random views of images, drawn counter-based and computed on the CPU.
//!
//! [`sample`] turns a distribution ([`Augment`]) and the name of a view ([`ViewId`]) into numbers ([`Draw`]); [`cpu`]
//! turns a source image and a `Draw` into pixels. All randomness is in the first, so whatever computes the second
//! has to agree on pixels only.
//!
//! Operations and their order are torchvision's and PIL's (METHOD section 2). The arithmetic is f32 from the source's
//! bytes to the end: PIL rounds to 8 bits after every operation, this does not.
//!
//! ```
//! use gabion_augment::{Augment, Draw, ViewId, cpu, sample};
//!
//! let image = vec![127; 48 * 64 * 3];
//! let sources = [cpu::Source::bytes(&image, [48, 64])];
//! let augment = Augment::default();
//! let draws: Vec<Draw> = (0..16)
//!     .map(|view| Draw { image: 0, ..sample(&augment, ViewId { seed: 0, epoch: 0, image: 9, view }, [48, 64]) })
//!     .collect();
//! let mut views = vec![0.0; 16 * 3 * 32 * 32];
//! cpu::apply_batch(&sources, &draws, augment.size, &mut views);
//! ```
//!
//! Without the feature `std` it is `no_std` and needs `alloc`, and libm (feature `libm`): views are made one after another
//! with the instructions that the compiler was told of, and a ratio or a blur's weight may differ in its last bit.
#![cfg_attr(not(feature = "std"), no_std)]
extern crate alloc;

#[cfg(not(any(feature = "std", feature = "libm")))]
compile_error!("without `std` there are no square roots: turn on the feature `libm`");

pub mod cpu;
#[cfg(not(feature = "std"))]
mod float;
#[cfg(feature = "gpu")]
pub mod gpu;
mod philox;
mod sample;

pub use gabion_spec::{Augment, Draw};
pub use sample::{ViewId, sample};
