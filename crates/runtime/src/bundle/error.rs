//! Why a bundle is refused.

use gabion_spec::{Misfit, one_line};
use std::io;
use std::path::PathBuf;

/// Why a bundle cannot be opened, written or used: one line each, with the file and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// The system refused.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was tried, a verb.
        doing: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A folder without a manifest.
    #[error("{} is missing: name a folder that holds a bundle", path.display())]
    NoManifest {
        /// Where it should be.
        path: PathBuf,
    },
    /// A manifest that is not one of this format.
    #[error("{} is not a bundle's manifest ({}): export the bundle again", path.display(), one_line(why))]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong, where in the file.
        why: String,
    },
    /// A network that is larger than the memory; refused before its weights are read.
    #[error(
        "{} describes a network that takes at least {needs} bytes of memory, the budget is {there}: use a smaller one, or allow more",
        path.display()
    )]
    Memory {
        /// The manifest.
        path: PathBuf,
        /// Fewer bytes than it takes.
        needs: u64,
        /// The bytes that are there, or were allowed.
        there: u64,
    },
    /// A file above its limit; refused before it is read.
    #[error("{} has {found} bytes, above the limit of {limit}: export the bundle again", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Bytes there.
        found: u64,
        /// Most bytes that are read.
        limit: u64,
    },
    /// A format that this program does not know.
    #[error("{} has format {found}, this program reads {newest}: use the version that wrote it", path.display())]
    Version {
        /// The manifest.
        path: PathBuf,
        /// Its format.
        found: u64,
        /// What this program reads.
        newest: u32,
    },
    /// A number in the manifest outside its range.
    #[error("{}: `{key}` is {found}, outside {least}..={most}: correct the manifest", path.display())]
    Limit {
        /// The manifest.
        path: PathBuf,
        /// The key, dotted.
        key: &'static str,
        /// Its value, or its length.
        found: u64,
        /// The least allowed.
        least: u64,
        /// The most allowed.
        most: u64,
    },
    /// A recipe in the manifest that makes no sense.
    #[error("{}: pretrain.{why}: correct the manifest", path.display())]
    Recipe {
        /// The manifest.
        path: PathBuf,
        /// The key and what is wrong with it.
        why: gabion_spec::Invalid,
    },
    /// A weights file that lies elsewhere.
    #[error("{}: `weights.file` is {file:?}, not a plain file name: use a name like model.safetensors", path.display())]
    FileName {
        /// The manifest.
        path: PathBuf,
        /// What it names.
        file: String,
    },
    /// Fewer bytes than the manifest's shapes imply, or more.
    #[error(
        "{} has {found} bytes where the manifest implies {least} to {most}: it was cut short or belongs to another \
         bundle, copy it again",
        path.display()
    )]
    Size {
        /// The weights file.
        path: PathBuf,
        /// Bytes there.
        found: u64,
        /// Bytes of the values alone.
        least: u64,
        /// Bytes with the largest header.
        most: u64,
    },
    /// Bytes that are not those of the manifest.
    #[error("{} has SHA-256 {found}, its manifest says {}: copy both again", path.display(), one_line(expected))]
    Hash {
        /// The weights file.
        path: PathBuf,
        /// Lowercase hexadecimal, from the manifest.
        expected: String,
        /// Lowercase hexadecimal.
        found: String,
    },
    /// A damaged safetensors header.
    #[error("{} is not a safetensors file ({}): export the bundle again", path.display(), one_line(why))]
    Header {
        /// The weights file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A tensor of another type than the manifest's.
    #[error("{}: tensor `{tensor}` is {found}, the manifest says {expected}: export the bundle again", path.display())]
    Precision {
        /// The weights file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type.
        found: String,
        /// The manifest's.
        expected: String,
    },
    /// A tensor that is missing, left over, of another shape, not finite or a negative variance.
    #[error("{}: {misfit}: the weights and the manifest are of different models, export the bundle again", path.display())]
    Tensor {
        /// The weights file.
        path: PathBuf,
        /// Which, and how.
        misfit: Misfit,
    },
    /// A value that half precision cannot hold.
    #[error("{}: tensor `{tensor}` holds {value}, beyond 16 bits (65504): write it in f32", path.display())]
    Range {
        /// The weights file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The value.
        value: f32,
    },
    /// A head for another number of classes.
    #[error("{}: tensor `head.weight` has {rows} rows, the manifest names {classes} classes: name one for each", path.display())]
    Classes {
        /// The file.
        path: PathBuf,
        /// Rows of the head.
        rows: u64,
        /// Classes of the manifest.
        classes: u64,
    },
    /// A manifest and modules that do not agree about the head.
    #[error("{}: the manifest says {manifest} and the modules have {modules}: give both or neither", path.display())]
    HeadDiffers {
        /// The manifest.
        path: PathBuf,
        /// `a head` or `no head`.
        manifest: &'static str,
        /// `a head` or `no head`.
        modules: &'static str,
    },
    /// Weights that are numbers each, and none once a normalisation is folded into the layer before it.
    #[error("the bundle `{}` overflows at `{layer}`: its training diverged, use an earlier one", one_line(name))]
    Overflow {
        /// Its name; it may never have been a file.
        name: String,
        /// The normalisation.
        layer: String,
    },
    /// A network in int8 whose activations' ranges nobody knows.
    #[error(
        "the bundle `{}` cannot be computed in int8 without images to calibrate it: give some, or use bf16",
        one_line(name)
    )]
    Uncalibrated {
        /// Its name.
        name: String,
    },
    /// A bundle that cannot classify.
    #[error("the bundle `{}` has no classifier: train one with `gabion probe`", one_line(name))]
    NoHead {
        /// Its name; it may never have been a file.
        name: String,
    },
}
