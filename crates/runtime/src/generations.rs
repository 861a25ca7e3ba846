//! Weights that a device adapted, kept beside the base that they came from.
//!
//! ```text
//! BUNDLE/manifest.json, model.safetensors     the base, never touched
//! BUNDLE/generations/000007/                  a bundle of its own, and generation.json
//! BUNDLE/generations/000008.withdrawn/        rolled back; never served again
//! BUNDLE/generations/.000009.1234.tmp/        being written, or left by a crash
//! BUNDLE/generations/.000006.old/             being removed, or left by a crash
//! BUNDLE/generations/lock                     held by the process that writes
//! ```
//!
//! The names are the record: each change is one rename, made to last before it is promised, so there is no second file
//! that could say otherwise. [`open`] serves the newest generation that is whole and of this base, else the base, and says
//! what it passed over. [`write()`] keeps the last two sound generations. [`rollback`] withdraws by renaming, the newest
//! first: a crash in between leaves an earlier state, and the base is what no rollback can lose. Numbers only grow; the
//! highest one stays, live or withdrawn, until a higher one is there.
//!
//! `generation.json` ([`Record`]) holds the SHA-256 of the base's weights and of the generation's manifest, which holds that
//! of its weights, and one of itself: a flipped bit in any of the three files is found.
//!
//! Readers take no lock. Writers exclude each other by a lock of the system on `lock`, which ends with the process.

mod error;
mod folder;
mod record;
mod write;

pub use error::{Fault, GenerationError};
pub(crate) use record::whole;
pub use record::{RECORD, Record};
pub use write::{Rolled, Written, adaptable, rollback, write};

use crate::bundle::{MANIFEST, MANIFEST_BYTES};
use crate::signature::{Trust, verify_beside};
use crate::{BundleError, untrusted};
use folder::Names;
use gabion_spec::Manifest;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// The folder of generations in a bundle's.
pub const GENERATIONS: &str = "generations";
/// Sound generations that are kept.
pub const KEPT: usize = 2;
/// Times that a reader starts again because a writer removed what it was about to open.
const RESTARTS: u32 = 32;

/// Which weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// The bundle's own.
    Base,
    /// Adapted ones, by number, from 1.
    Generation(u64),
}

impl Source {
    /// 0 for the base.
    pub fn number(self) -> u64 {
        match self {
            Self::Base => 0,
            Self::Generation(number) => number,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Base => f.write_str("base"),
            Self::Generation(number) => write!(f, "generation {number}"),
        }
    }
}

/// What adapted weights came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The weights that were adapted.
    pub source: Source,
    /// SHA-256 of the base's, lowercase hexadecimal.
    pub base: String,
}

/// What was opened.
#[derive(Debug)]
pub struct Served<T> {
    /// As `read` made it.
    pub bundle: T,
    /// Where it came from, and what is adapted from it.
    pub origin: Origin,
    /// Newer generations that were passed over, the newest first.
    pub skipped: Vec<Skipped>,
}

/// A generation that is not served.
#[derive(Debug)]
pub struct Skipped {
    /// Its number.
    pub number: u64,
    /// Why not.
    pub why: Fault,
}

/// A generation in [`list`].
#[derive(Debug)]
pub struct Listed {
    /// Its number.
    pub number: u64,
    /// Its folder.
    pub path: PathBuf,
    /// What became of it.
    pub state: State,
}

/// What became of a generation.
#[derive(Debug)]
pub enum State {
    /// Whole; the newest of these is served.
    Sound(Record),
    /// Rolled back.
    Withdrawn,
    /// Passed over.
    Faulty(Fault),
}

/// Opens the newest generation that is whole, of this base and trusted, else the base. `read` opens a bundle's folder; it
/// has to check the weights against their manifest, as [`crate::Stored::read`] does. What it parsed is compared with the
/// manifest whose hash and signature were checked, so a file that changes in between serves nothing.
///
/// The base's manifest is needed in any case; its weights only where no generation is served.
///
/// # Errors
/// When the base is not trusted or cannot be opened, or generations cannot be listed. A generation's own fault is none: it
/// is passed over and named in [`Served::skipped`].
pub fn open<T: AsRef<Manifest>>(
    bundle: &Path,
    trust: &Trust,
    read: impl Fn(&Path) -> Result<T, BundleError>,
) -> Result<Served<T>, GenerationError> {
    let base = trusted_base(bundle, trust)?;
    let mut restarts = 0;
    'again: loop {
        let mut skipped = Vec::new();
        for (number, path) in Names::read(bundle)?.live {
            let opened = check(&path, number, &base, trust).and_then(|(_, manifest)| {
                let opened = read(&path)?;
                if *opened.as_ref() == manifest { Ok(opened) } else { Err(Fault::Changed) }
            });
            match opened {
                Ok(bundle) => {
                    let origin = Origin { source: Source::Generation(number), base: base.weights.sha256 };
                    return Ok(Served { bundle, origin, skipped });
                }
                // A writer removed it: there are newer ones, or it was withdrawn.
                Err(_) if restarts < RESTARTS && fs::symlink_metadata(&path).is_err() => {
                    restarts += 1;
                    continue 'again;
                }
                Err(why) => skipped.push(Skipped { number, why }),
            }
        }
        let opened = read(bundle)?;
        if *opened.as_ref() != base {
            return Err(GenerationError::Changed { path: bundle.join(MANIFEST) });
        }
        let origin = Origin { source: Source::Base, base: base.weights.sha256 };
        return Ok(Served { bundle: opened, origin, skipped });
    }
}

/// What decides what is served, seen without reading weights: while it is the same, so is what [`open`] finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// SHA-256 of the base's manifest, lowercase hexadecimal.
    pub base: String,
    /// The numbers that are not withdrawn, the newest first.
    pub live: Vec<u64>,
}

/// Where a bundle stands now.
///
/// # Errors
/// When the base's manifest cannot be read, or generations cannot be listed.
pub fn standing(bundle: &Path) -> Result<Standing, GenerationError> {
    let (bytes, _) = manifest_of(bundle)?;
    let live = Names::read(bundle)?.live.into_iter().map(|(number, _)| number).collect();
    Ok(Standing { base: record::sha256(&bytes), live })
}

/// Every generation in the folder, the newest first, each read and its weights hashed.
///
/// # Errors
/// As [`open`], but for the base's weights, which are not read.
pub fn list(bundle: &Path, trust: &Trust) -> Result<Vec<Listed>, GenerationError> {
    let base = trusted_base(bundle, trust)?;
    let names = Names::read(bundle)?;
    let live = names.live.into_iter().map(|(number, path)| {
        let state = match sound(&path, number, &base, trust) {
            Ok(record) => State::Sound(record),
            Err(why) => State::Faulty(why),
        };
        Listed { number, path, state }
    });
    let withdrawn = names.withdrawn.into_iter().map(|(number, path)| Listed { number, path, state: State::Withdrawn });
    let mut listed: Vec<_> = live.chain(withdrawn).collect();
    listed.sort_by_key(|listed| std::cmp::Reverse(listed.number));
    Ok(listed)
}

/// The base's manifest.
///
/// # Errors
/// When it cannot be read or is not trusted.
fn trusted_base(bundle: &Path, trust: &Trust) -> Result<Manifest, GenerationError> {
    let (bytes, base) = manifest_of(bundle)?;
    if let Some(key) = trust.key() {
        verify_beside(bundle, &bytes, key)?;
    }
    Ok(base)
}

/// A manifest and the bytes that it was parsed from.
fn manifest_of(dir: &Path) -> Result<(Vec<u8>, Manifest), BundleError> {
    let path = dir.join(MANIFEST);
    match untrusted::read_within(&path, MANIFEST_BYTES) {
        Ok(bytes) => record::parse(&path, &bytes).map(|manifest| (bytes, manifest)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(BundleError::NoManifest { path }),
        Err(source) => Err(BundleError::Io { doing: "read", path, source }),
    }
}

/// Checks all of a generation but its weights.
fn check(path: &Path, number: u64, base: &Manifest, trust: &Trust) -> Result<(Record, Manifest), Fault> {
    let record = Record::read(path)?;
    if record.number != number {
        return Err(Fault::Number { found: record.number });
    }
    if record.base != base.weights.sha256 {
        return Err(Fault::OtherBase { found: record.base, expected: base.weights.sha256.clone() });
    }
    let (bytes, manifest) = record::read_manifest(path, &record)?;
    if let Some(key) = trust.key_of_generations() {
        verify_beside(path, &bytes, key)?;
    }
    record::fits(&manifest, base)?;
    Ok((record, manifest))
}

/// Checks all of a generation.
fn sound(path: &Path, number: u64, base: &Manifest, trust: &Trust) -> Result<Record, Fault> {
    let (record, manifest) = check(path, number, base, trust)?;
    record::check_weights(path, &manifest)?;
    Ok(record)
}

impl AsRef<Manifest> for crate::Stored {
    fn as_ref(&self) -> &Manifest {
        &self.manifest
    }
}

#[cfg(feature = "burn")]
impl AsRef<Manifest> for crate::Bundle {
    fn as_ref(&self) -> &Manifest {
        &self.manifest
    }
}

#[cfg(test)]
mod tests;
