//! A bundle, opened: weights checked against their manifest, a device to run them on, and images classified.
//!
//! | module | what it is |
//! |---|---|
//! | [`bundle`] | a folder with `manifest.json` and `model.safetensors`: opened with every difference named, written whole |
//! | [`session`] | a bundle that classifies: one view of an image, or the mean feature over many |
//! | [`picture`] | PNG, JPEG and WebP files as 8-bit RGB, with a limit before anything is allocated |
//! | [`pipeline`] | what makes views: the CPU, or the device itself |
//! | [`devices`] | what can compute here, and the choice of one |
//! | [`durable`] | files that are written whole or not at all |
//!
//! Nothing here trains, and nothing here fetches: a bundle is untrusted input, and whatever is wrong with one is a typed
//! error that names the file and says what to do.

pub mod bundle;
pub mod devices;
pub mod durable;
pub mod picture;
pub mod pipeline;
pub mod session;
mod weights;

pub use bundle::{Bundle, BundleError, parameter_count};
pub use devices::{Choice, DeviceError, Offered, choose, offered};
pub use picture::{PictureError, Rgb};
pub use pipeline::{Pipeline, PipelineError, Wanted};
pub use session::{Classify, ClassifyError, Prediction, Session, Vote};
