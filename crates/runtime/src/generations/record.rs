//! `generation.json`, and what is checked of a generation's files.

use super::{Fault, Source};
use crate::bundle::{HEADER_BYTES, MANIFEST, MANIFEST_BYTES, WEIGHTS};
use crate::signature::hex;
use crate::{BundleError, durable, parameter_count, untrusted};
use gabion_spec::{FORMAT_VERSION, Manifest};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

/// The record's file name.
pub const RECORD: &str = "generation.json";
const RECORD_FORMAT: u32 = 1;
/// More than a record takes.
const RECORD_BYTES: u64 = 4096;

/// What a generation is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    format: u32,
    /// Its own.
    pub number: u64,
    /// Number of the generation that was adapted further; none for the base.
    pub parent: Option<u64>,
    /// SHA-256 of the weights that all of it started from, lowercase hexadecimal.
    pub base: String,
    /// SHA-256 of its `manifest.json`.
    pub manifest: String,
    /// SHA-256 of this record with an empty seal.
    seal: String,
}

impl Record {
    /// A record whose seal is right.
    pub(super) fn new(number: u64, parent: Source, base: &str, manifest: &[u8]) -> Self {
        let parent = match parent {
            Source::Base => None,
            Source::Generation(parent) => Some(parent),
        };
        let (base, manifest) = (base.into(), sha256(manifest));
        let mut record = Self { format: RECORD_FORMAT, number, parent, base, manifest, seal: String::new() };
        record.seal = sha256(&record.encode());
        record
    }

    /// What was adapted.
    pub fn parent(&self) -> Source {
        self.parent.map_or(Source::Base, Source::Generation)
    }

    fn encode(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).expect("a record is plain data");
        text.push(b'\n');
        text
    }

    /// Reads a record that is byte for byte what was written.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let record: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if record.format != RECORD_FORMAT {
            return Err(format!("its format is {}, this program reads {RECORD_FORMAT}", record.format));
        }
        let unsealed = Self { seal: String::new(), ..record.clone() };
        if record.seal != sha256(&unsealed.encode()) || record.encode() != bytes {
            return Err("its seal is broken".into());
        }
        Ok(record)
    }

    pub(super) fn read(dir: &Path) -> Result<Self, Fault> {
        // By hand, so that no link leads elsewhere.
        match fs::symlink_metadata(dir) {
            Ok(status) if status.is_dir() => {}
            Ok(_) => return Err(Fault::NotAFolder { path: dir.into() }),
            Err(source) => return Err(Fault::Io { path: dir.into(), source }),
        }
        let path = dir.join(RECORD);
        match untrusted::read_within(&path, RECORD_BYTES) {
            Ok(bytes) => Self::decode(&bytes).map_err(|why| Fault::Record { path, why }),
            Err(source) => Err(Fault::Io { path, source }),
        }
    }

    pub(super) fn write(&self, dir: &Path) -> io::Result<()> {
        durable::write_here(&dir.join(RECORD), &self.encode())
    }
}

/// The manifest of a generation, as its record knows it.
pub(super) fn read_manifest(dir: &Path, record: &Record) -> Result<(Vec<u8>, Manifest), Fault> {
    let path = dir.join(MANIFEST);
    let bytes = match untrusted::read_within(&path, MANIFEST_BYTES) {
        Ok(bytes) => bytes,
        Err(source) => return Err(Fault::Io { path, source }),
    };
    let found = sha256(&bytes);
    if found != record.manifest {
        return Err(Fault::Manifest { path, expected: record.manifest.clone(), found });
    }
    let manifest = parse(&path, &bytes)?;
    Ok((bytes, manifest))
}

/// A manifest from its bytes; numbers in it are not yet checked.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Manifest, BundleError> {
    #[derive(Deserialize)]
    struct Versioned {
        format: u64,
    }
    // The version first: a newer manifest may hold fields that this program does not know.
    match serde_json::from_slice(bytes) {
        Ok(Versioned { format: found }) if found != u64::from(FORMAT_VERSION) => {
            Err(BundleError::Version { path: path.into(), found, newest: FORMAT_VERSION })
        }
        _ => serde_json::from_slice(bytes)
            .map_err(|error| BundleError::Manifest { path: path.into(), why: error.to_string() }),
    }
}

/// Adaptation changes weights and what is said of them, not what they are for.
pub(super) fn fits(manifest: &Manifest, base: &Manifest) -> Result<(), Fault> {
    let pairs = [
        ("encoder", manifest.encoder == base.encoder),
        ("projector", manifest.projector == base.projector),
        ("input", manifest.input == base.input),
        ("classes", manifest.classes == base.classes),
        ("head", manifest.head.is_some() == base.head.is_some()),
    ];
    match pairs.into_iter().find(|(_, equal)| !equal) {
        Some((key, _)) => Err(Fault::Differs { key }),
        None => Ok(()),
    }
}

/// Checks that the weights are there and those of the manifest, without holding them.
pub(super) fn check_weights(dir: &Path, manifest: &Manifest) -> Result<(), BundleError> {
    let file = &manifest.weights.file;
    if file != WEIGHTS {
        return Err(BundleError::FileName { path: dir.join(MANIFEST), file: file.clone() });
    }
    let path = dir.join(file);
    let io = |source| BundleError::Io { doing: "read", path: path.clone(), source };
    let mut file = untrusted::open(&path).map_err(io)?;
    // A bound on the work alone: four bytes for each value and a header, however they are stored.
    let classes = if manifest.head.is_some() { manifest.classes.len() as u64 } else { 0 };
    let values = parameter_count(&manifest.encoder, &manifest.projector, classes);
    let limit = values.and_then(|values| values.checked_mul(4)?.checked_add(HEADER_BYTES)).unwrap_or(0);
    let found = file.metadata().map_err(io)?.len();
    if found > limit {
        return Err(BundleError::TooLarge { path, found, limit });
    }
    let (mut hash, mut chunk) = (Sha256::new(), vec![0; 1 << 16]);
    loop {
        match file.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => hash.update(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(io(error)),
        }
    }
    let (found, expected) = (hex(&hash.finalize()), manifest.weights.sha256.clone());
    if found == expected { Ok(()) } else { Err(BundleError::Hash { path, expected, found }) }
}

/// The manifest's bytes of a bundle whose weights are its own.
pub(crate) fn whole(dir: &Path) -> Result<Vec<u8>, BundleError> {
    let (bytes, manifest) = super::manifest_of(dir)?;
    check_weights(dir, &manifest)?;
    Ok(bytes)
}

/// Makes every file of a folder last, whoever wrote it.
pub(super) fn sync(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        File::open(entry?.path())?.sync_all()?;
    }
    Ok(())
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}
