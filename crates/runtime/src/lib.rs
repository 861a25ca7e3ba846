//! A bundle, opened: weights checked against their manifest, a device to run them on, and images classified.
//!
//! | module | what it is |
//! |---|---|
//! | [`frozen`] | a bundle's network prepared for the CPU, without Burn |
//! | [`bundle`] | a folder with `manifest.json` and `model.safetensors`: opened with every difference named, written whole |
//! | [`session`] | a bundle that classifies: one view of an image, or the mean feature over many |
//! | [`picture`] | PNG, JPEG and WebP files as 8-bit RGB, with a limit before anything is allocated |
//! | `adapt` | free adversarial training of a bundle on local images, guarded (features `flex`, `wgpu`, `cuda`) |
//! | `pipeline` | what makes views: the CPU, or the device itself (the same) |
//! | `devices` | what can compute here, and the choice of one (the same) |
//! | [`deployed`] | a bundle in service: the newest generation, while the next one is made |
//! | [`durable`] | files that are written whole or not at all |
//! | [`generations`] | weights that a device adapted, beside their base: written whole, served, rolled back |
//! | [`signature`] | who wrote a bundle, and which bundles are served |
//! | [`untrusted`] | files of others, opened without following, waiting or guessing |
//!
//! Nothing here trains from scratch, and nothing here fetches: a bundle is untrusted input, and whatever is wrong with one
//! is a typed error that names the file and says what to do.

#[cfg(feature = "burn")]
pub mod adapt;
pub mod bundle;
pub mod deployed;
#[cfg(feature = "burn")]
pub mod devices;
pub mod durable;
pub mod frozen;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod generations;
pub mod picture;
#[cfg(feature = "burn")]
pub mod pipeline;
pub mod session;
pub mod signature;
pub mod untrusted;
mod weights;

#[cfg(feature = "burn")]
pub use adapt::{AdaptError, Adapted, Local, Samples, Verdict, adapt};
#[cfg(feature = "burn")]
pub use bundle::Bundle;
pub use bundle::{BundleError, Stored, parameter_count};
pub use deployed::{Deployed, DeployedError, Serving};
#[cfg(feature = "burn")]
pub use devices::{Choice, DeviceError, Limits, Offered, choose, offered};
pub use gabion_kernels::{Level, VARIABLE as LEVEL_VARIABLE};
pub use generations::{GenerationError, Origin, Served, Source};
pub use picture::{PictureError, Rgb};
#[cfg(feature = "burn")]
pub use pipeline::{Pipeline, PipelineError, Wanted};
#[cfg(feature = "candle")]
pub use session::CandleError;
#[cfg(feature = "burn")]
pub use session::SessionError;
pub use session::{Arithmetic, Classify, ClassifyError, Prediction, Session, Stream, Vote};
pub use signature::{PublicKey, SecretKey, SignatureError, Trust};
pub use weights::Tensor;
