//! Why a bundle is not adapted.

use gabion_spec::Invalid;
use std::path::PathBuf;

/// Why a bundle is not adapted: one line each, with what to do. The bundle is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdaptError {
    /// A recipe that makes no sense.
    #[error("the recipe's {0}")]
    Recipe(#[from] Invalid),
    /// A bundle without a classifier: nothing could be guarded.
    #[error("the bundle `{name}` has no classifier: train one with `gabion probe`")]
    NoHead {
        /// Its name.
        name: String,
    },
    /// A bundle whose network cannot be prepared.
    #[error(transparent)]
    Bundle(#[from] crate::BundleError),
    /// Fewer images than it takes.
    #[error("{images} {what} images are too few: give {least} or more")]
    FewImages {
        /// `local` or `guard`.
        what: &'static str,
        /// How many there are.
        images: usize,
        /// How many it takes.
        least: usize,
    },
    /// An image without pixels, or with another number of bytes than its size has.
    #[error("{what} image {image} is {width}x{height} with {bytes} bytes: give 3 bytes for each of 1 or more pixels")]
    Image {
        /// `local` or `guard`.
        what: &'static str,
        /// Which, from 0.
        image: usize,
        /// Columns.
        width: usize,
        /// Rows.
        height: usize,
        /// Bytes there.
        bytes: usize,
    },
    /// Supervised training or a guard without labels.
    #[error("the {what} images have no labels: {remedy}")]
    NoLabels {
        /// `local` or `guard`.
        what: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// Not one label an image.
    #[error("there are {labels} labels for {images} {what} images: give one for each")]
    Labels {
        /// `local` or `guard`.
        what: &'static str,
        /// Labels.
        labels: usize,
        /// Images.
        images: usize,
    },
    /// A label that the head does not know.
    #[error("{what} image {image} has label {label}, the bundle tells {classes} classes, 0 to {}: correct the label", classes - 1)]
    Label {
        /// `local` or `guard`.
        what: &'static str,
        /// Which, from 0.
        image: usize,
        /// Its label.
        label: u16,
        /// Classes of the head.
        classes: usize,
    },
    /// Images of one class, on which a classifier learns to say that class.
    #[error("all local images are of class {label}: give images of two classes or more, or adapt with emp-ssl")]
    OneClass {
        /// The class.
        label: u16,
    },
    /// A share of source features without any.
    #[error("rehearsal is {share} without source features: write them with `gabion source`, or set it to 0")]
    NoSource {
        /// The recipe's.
        share: f64,
    },
    /// A memory budget below what the smallest step needs.
    #[error(
        "{what} needs {} MiB on top of what is resident, the budget is {} MiB: {remedy}",
        needed.div_ceil(1 << 20),
        given >> 20
    )]
    Memory {
        /// What does not fit.
        what: &'static str,
        /// Bytes that it takes.
        needed: u64,
        /// Bytes that there are.
        given: u64,
        /// What to do.
        remedy: &'static str,
    },
    /// The observer broke off.
    #[error("cancelled after {steps} steps: the bundle is as it was")]
    Cancelled {
        /// Optimizer steps done.
        steps: u64,
    },
    /// A loss that is no number.
    #[error("the loss is not finite at step {step}: lower the rate")]
    Diverged {
        /// The step, from 1.
        step: u64,
    },
    /// Weights that are no numbers.
    #[error("tensor `{tensor}` holds a NaN or an infinity after training: lower the rate")]
    NotFinite {
        /// The tensor.
        tensor: String,
    },
    /// A folder of local images that cannot be used.
    #[error("{} cannot be used ({why})", path.display())]
    Folder {
        /// The folder or file.
        path: PathBuf,
        /// What is wrong with it and what to do.
        why: String,
    },
    /// A picture that cannot be read.
    #[error(transparent)]
    Picture(#[from] crate::PictureError),
    /// A file of source features that is none, or of another network.
    #[error("{} holds no source features for this bundle ({why}): write them again with `gabion source`", path.display())]
    Source {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The system refused.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was tried, a verb.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
}
