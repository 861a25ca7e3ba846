//! A folder with `manifest.json` and `model.safetensors`: opened with every difference named, written whole.

use crate::weights::Tensor;
use crate::{durable, untrusted, weights};
use gabion_spec::{Encoder, FORMAT_VERSION, Manifest, Precision, Projector, Stem, Weights};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read};
use std::ops::RangeInclusive;
use std::path::Path;

mod error;
#[cfg(feature = "burn")]
mod modules;

pub use error::BundleError;
#[cfg(feature = "burn")]
pub use modules::Bundle;

/// The manifest's file name.
pub const MANIFEST: &str = "manifest.json";
/// The name under which weights are written.
pub const WEIGHTS: &str = "model.safetensors";
/// Most bytes of a manifest.
pub const MANIFEST_BYTES: u64 = 1 << 20;
/// Most bytes of a weights file beside the values.
pub const HEADER_BYTES: u64 = 1 << 20;
/// Most bytes of a weights file: 268 million values in f32.
pub const WEIGHTS_BYTES: u64 = 1 << 30;
/// Most classes of a head.
pub const MOST_CLASSES: u64 = 65_536;

/// A bundle as it is stored: a manifest, and the tensors that it implies by torch's names.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The manifest.
    pub manifest: Manifest,
    /// Every tensor, checked against the manifest and finite.
    pub tensors: BTreeMap<String, Tensor>,
}

/// Values in the weights file of a network with so many classes (0 without a head), from its description alone; none
/// where the number exceeds 64 bits.
pub fn parameter_count(encoder: &Encoder, projector: &Projector, classes: u64) -> Option<u64> {
    weights::values(&weights::shapes(encoder, projector, classes)?)
}

impl Stored {
    /// Reads a bundle. Nothing in it is trusted: the format, every size, the hash, every name, shape and type are checked
    /// before anything is made of it.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn read(dir: &Path) -> Result<Self, BundleError> {
        Self::read_where(dir, |_| true)
    }

    /// The same, with the tensors alone that answers are made of: the projection is as large as all the rest.
    pub(crate) fn read_to_answer(dir: &Path) -> Result<Self, BundleError> {
        Self::read_where(dir, |name| !name.starts_with("projector.projection."))
    }

    fn read_where(dir: &Path, wanted: impl Fn(&str) -> bool) -> Result<Self, BundleError> {
        let path = dir.join(MANIFEST);
        let manifest = read_manifest(&path)?;
        let expected = check(&path, &manifest)?;
        let file = dir.join(&manifest.weights.file);
        // Of weights that are not there the file's own report is the better one.
        if weights_are_there(&file, &manifest, &expected)
            && let Some(there) = machine_memory()
        {
            fits(&path, &manifest, there)?;
        }
        let bytes = read_weights(&file, &manifest, &expected)?;
        let tensors = weights::decode(&file, &bytes, &expected, manifest.weights.precision, wanted)?;
        Ok(Self { manifest, tensors })
    }

    /// Writes a bundle and returns its manifest, whose `format` and `weights` are set here.
    ///
    /// A folder that is not there appears whole: it is written beside its place and renamed. In a folder that is there,
    /// the weights are replaced, then the manifest, each whole or not at all; a crash between the two leaves a pair that
    /// [`Stored::read`] refuses by its hash.
    ///
    /// # Errors
    /// When manifest and tensors disagree, a value is not finite or does not fit the precision, or the system refuses;
    /// a folder that was not there then still is not.
    pub fn write(&self, dir: &Path, precision: Precision) -> Result<Manifest, BundleError> {
        let (manifest_path, weights_path) = (dir.join(MANIFEST), dir.join(WEIGHTS));
        let mut manifest = self.manifest.clone();
        manifest.format = FORMAT_VERSION;
        manifest.weights = Weights { file: WEIGHTS.into(), sha256: String::new(), precision };
        let expected = check(&manifest_path, &manifest)?;
        let sides = |tensor: &Tensor| tensor.shape.iter().map(|&side| side as u64).collect();
        let found = self.tensors.iter().map(|(name, tensor)| (name.clone(), sides(tensor))).collect();
        weights::compare(&found, &expected)
            .map_err(|misfit| BundleError::Tensor { path: weights_path.clone(), misfit })?;
        let bytes = weights::encode(&weights_path, &self.tensors, precision)?;
        if bytes.len() as u64 > WEIGHTS_BYTES {
            let found = bytes.len() as u64;
            return Err(BundleError::TooLarge { path: weights_path, found, limit: WEIGHTS_BYTES });
        }
        manifest.weights.sha256 = sha256(&bytes);
        let mut text = serde_json::to_vec_pretty(&manifest)
            .map_err(|error| BundleError::Manifest { path: manifest_path.clone(), why: error.to_string() })?;
        text.push(b'\n');
        if text.len() as u64 > MANIFEST_BYTES {
            let found = text.len() as u64;
            return Err(BundleError::TooLarge { path: manifest_path, found, limit: MANIFEST_BYTES });
        }
        let write = |dir: &Path| {
            durable::write_here(&dir.join(WEIGHTS), &bytes)?;
            durable::write_here(&dir.join(MANIFEST), &text)
        };
        let written = if dir.is_dir() { write(dir) } else { durable::create_folder(dir, write) };
        written.map_err(|source| BundleError::Io { doing: "write the bundle", path: dir.into(), source })?;
        Ok(manifest)
    }
}

/// Fewer bytes than an answer from the bundle takes, by its manifest alone: the values in f32, and what the first layer
/// makes of one image.
#[must_use]
pub fn least_memory(manifest: &Manifest) -> u64 {
    let classes = if manifest.head.is_some() { manifest.classes.len() as u64 } else { 0 };
    let values = weights::shapes(&manifest.encoder, &manifest.projector, classes).and_then(|of| weights::values(&of));
    let [height, width] = [manifest.input.height, manifest.input.width].map(u64::from);
    let pace = match manifest.encoder.stem {
        Stem::Cifar => 1,
        Stem::Imagenet => 2,
    };
    let first = u64::from(manifest.encoder.width) * height.div_ceil(pace) * width.div_ceil(pace);
    values.and_then(|values| values.checked_add(first)?.checked_mul(4)).unwrap_or(u64::MAX)
}

/// Whether a file is as long as its manifest says.
fn weights_are_there(path: &Path, manifest: &Manifest, expected: &weights::Shapes) -> bool {
    let values = weights::values(expected).expect("the limits exclude an overflow");
    let least = values * weights::width(manifest.weights.precision);
    fs::metadata(path).is_ok_and(|file| file.len() >= least)
}

/// Refuses by its manifest what cannot fit into `there` bytes.
///
/// # Errors
/// [`BundleError::Memory`].
pub(crate) fn fits(path: &Path, manifest: &Manifest, there: u64) -> Result<(), BundleError> {
    let needs = least_memory(manifest);
    if needs <= there { Ok(()) } else { Err(BundleError::Memory { path: path.into(), needs, there }) }
}

/// Memory of the machine, where it says.
fn machine_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// A regular file that `too_large` does not refuse by its length.
fn read(path: &Path, too_large: impl Fn(u64) -> Option<BundleError>) -> Result<Vec<u8>, BundleError> {
    let io = |source| BundleError::Io { doing: "read", path: path.into(), source };
    let file = untrusted::open(path).map_err(io)?;
    let length = file.metadata().map_err(io)?.len();
    if let Some(error) = too_large(length) {
        return Err(error);
    }
    let mut bytes = Vec::new();
    let capacity = usize::try_from(length).unwrap_or(usize::MAX);
    bytes.try_reserve_exact(capacity).map_err(|_| io(io::ErrorKind::OutOfMemory.into()))?;
    // No more than was measured, should the file grow.
    file.take(length).read_to_end(&mut bytes).map_err(io)?;
    Ok(bytes)
}

pub(crate) fn read_manifest(path: &Path) -> Result<Manifest, BundleError> {
    if fs::metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Err(BundleError::NoManifest { path: path.into() });
    }
    let bytes = read(path, |found| {
        (found > MANIFEST_BYTES).then(|| BundleError::TooLarge { path: path.into(), found, limit: MANIFEST_BYTES })
    })?;
    let why = |error: serde_json::Error| BundleError::Manifest { path: path.into(), why: error.to_string() };
    // The version first: a newer manifest may hold fields that this program does not know.
    let format = serde_json::from_slice::<serde_json::Value>(&bytes).map_err(why)?["format"].as_u64();
    match format {
        Some(found) if found != u64::from(FORMAT_VERSION) => {
            Err(BundleError::Version { path: path.into(), found, newest: FORMAT_VERSION })
        }
        _ => serde_json::from_slice(&bytes).map_err(why),
    }
}

/// Checks what a manifest says and returns the tensors that it implies.
fn check(path: &Path, manifest: &Manifest) -> Result<weights::Shapes, BundleError> {
    let within = |key, found: u64, range: RangeInclusive<u64>| {
        let (&least, &most) = (range.start(), range.end());
        if range.contains(&found) {
            return Ok(());
        }
        Err(BundleError::Limit { path: path.into(), key, found, least, most })
    };
    within("encoder.width", manifest.encoder.width.into(), 1..=1024)?;
    within("projector.hidden", manifest.projector.hidden.into(), 1..=65_536)?;
    within("projector.output", manifest.projector.output.into(), 1..=65_536)?;
    within("input.height", manifest.input.height.into(), 1..=1024)?;
    within("input.width", manifest.input.width.into(), 1..=1024)?;
    let least = u64::from(manifest.head.is_some());
    within("classes", manifest.classes.len() as u64, least..=MOST_CLASSES)?;
    if let Some(pretrain) = &manifest.pretrain {
        pretrain.augment.validate().map_err(|why| BundleError::Recipe { path: path.into(), why })?;
    }
    let file = &manifest.weights.file;
    // By hand, so that a bundle is refused on every system alike.
    if file.is_empty()
        || matches!(&**file, "." | ".." | MANIFEST)
        || file.contains(['/', '\\', ':'])
        || file.contains(char::is_control)
    {
        return Err(BundleError::FileName { path: path.into(), file: file.clone() });
    }
    let classes = if manifest.head.is_some() { manifest.classes.len() as u64 } else { 0 };
    Ok(weights::shapes(&manifest.encoder, &manifest.projector, classes).expect("the limits exclude an overflow"))
}

/// The weights file's bytes, whose length and hash are right.
fn read_weights(path: &Path, manifest: &Manifest, expected: &weights::Shapes) -> Result<Vec<u8>, BundleError> {
    let values = weights::values(expected).expect("the limits exclude an overflow");
    let least = values * weights::width(manifest.weights.precision);
    let most = least + HEADER_BYTES;
    let size = |found| BundleError::Size { path: path.into(), found, least, most };
    let too_large = |found| BundleError::TooLarge { path: path.into(), found, limit: WEIGHTS_BYTES };
    // A sparse file takes no disk, and all of the memory.
    let bytes = read(path, |found| {
        (found > most).then(|| size(found)).or_else(|| (found > WEIGHTS_BYTES).then(|| too_large(found)))
    })?;
    let found = sha256(&bytes);
    if found == manifest.weights.sha256 {
        return Ok(bytes);
    }
    // A file that was cut short is the likelier report than another hash.
    if (bytes.len() as u64) < least {
        return Err(size(bytes.len() as u64));
    }
    Err(BundleError::Hash { path: path.into(), expected: manifest.weights.sha256.clone(), found })
}

/// Lowercase hexadecimal.
fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes all");
        text
    })
}
