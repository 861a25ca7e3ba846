//! What is done with bytes of others, for fuzzing and for the tests that run what fuzzing found again.
//!
//! Each function takes any bytes, must return, and asserts what has to hold of what was accepted. `fuzz/` calls them.

use crate::bundle::{MANIFEST, WEIGHTS};
use crate::generations::{Fault, RECORD, Record};
use crate::signature::{hex, keygen, verify_bytes};
use crate::{BundleError, Rgb, Stored, generations, weights};
use gabion_spec::{Manifest, Precision};
use sha2::{Digest, Sha256};
use std::fmt::Display;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Stands in a manifest for the hash of the weights, which no fuzzer would guess.
const HASH: &[u8] = b"0000000000000000000000000000000000000000000000000000000000000000";

/// A bundle: four bytes with the length of the manifest, the manifest, the weights.
pub fn bundle(data: &[u8]) {
    let Some((length, rest)) = data.split_first_chunk() else { return };
    let Some((manifest, weights)) = rest.split_at_checked(u32::from_le_bytes(*length) as usize) else { return };
    let mut manifest = manifest.to_vec();
    if let Some(at) = manifest.windows(HASH.len()).position(|window| window == HASH) {
        manifest[at..at + HASH.len()].copy_from_slice(hex(&Sha256::digest(weights)).as_bytes());
    }
    let folder = Folder::new();
    std::fs::write(folder.path().join(MANIFEST), &manifest).expect("the folder is ours");
    std::fs::write(folder.path().join(WEIGHTS), weights).expect("the folder is ours");
    let stored = match Stored::read(folder.path()) {
        Ok(stored) => stored,
        Err(error) => return refuses_plainly(&error),
    };
    assert!(stored.tensors.values().all(|tensor| tensor.values.iter().all(|value| value.is_finite())));
    assert!(stored.tensors.values().all(|tensor| tensor.values.len() == tensor.shape.iter().product::<usize>()));
    let again = folder.path().join("again");
    let precision = stored.manifest.weights.precision;
    let written = stored.write(&again, precision).expect("what was read can be written");
    let read = Stored::read(&again).expect("what was written can be read");
    assert_eq!((&read.manifest, &read.tensors), (&written, &stored.tensors));
}

/// A safetensors file where one tensor `a` of 2x2 values is expected; the first byte says how it is stored.
pub fn safetensors(data: &[u8]) {
    let Some((&precision, file)) = data.split_first() else { return };
    let precision = if precision & 1 == 0 { Precision::F32 } else { Precision::F16 };
    let expected = weights::Shapes::from([("a".into(), vec![2, 2])]);
    match weights::decode(Path::new("a"), file, &expected, precision, |_| true) {
        Ok(tensors) => {
            assert_eq!(tensors.len(), 1);
            let tensor = &tensors["a"];
            assert!(tensor.shape == [2, 2] && tensor.values.len() == 4, "{tensor:?}");
            let again = weights::encode(Path::new("a"), &tensors, precision).expect("what was read can be written");
            let again = weights::decode(Path::new("a"), &again, &expected, precision, |_| true);
            assert_eq!(again.expect("what was written can be read"), tensors);
        }
        Err(error) => refuses_plainly(&error),
    }
}

/// A manifest, of a bundle and of a generation.
pub fn manifest(data: &[u8]) {
    if let Ok(manifest) = serde_json::from_slice::<Manifest>(data) {
        let text = serde_json::to_vec(&manifest).expect("a manifest is plain data");
        assert_eq!(serde_json::from_slice::<Manifest>(&text).expect("what was written can be read"), manifest);
        let name = manifest.name;
        refuses_plainly(&BundleError::NoHead { name: name.clone() });
        refuses_plainly(&BundleError::Uncalibrated { name: name.clone() });
        refuses_plainly(&BundleError::Overflow { name, layer: "a".into() });
    }
    // One that passes its own checks goes on to the missing weights.
    let folder = Folder::new();
    std::fs::write(folder.path().join(MANIFEST), data).expect("the folder is ours");
    refuses_plainly(&Stored::read(folder.path()).expect_err("there are no weights"));
    refuses_plainly(&generations::whole(folder.path()).expect_err("there are no weights"));
}

/// The record of a generation and a signature, which start with the same bytes for this purpose.
pub fn record(data: &[u8]) {
    match Record::decode(data) {
        Ok(record) => {
            let _ = record.parent();
            refuses_plainly(&Fault::OtherBase { found: record.base, expected: "a".into() });
            let folder = Folder::new();
            let generation = folder.path().join("000001");
            std::fs::create_dir(&generation).expect("the folder is ours");
            std::fs::write(generation.join(RECORD), data).expect("the folder is ours");
            refuses_plainly(&generations::whole(&generation).expect_err("there is no manifest"));
        }
        Err(why) => refuses_plainly(&Fault::Record { path: "a".into(), why }),
    }
    let key = keygen().expect("the system has random numbers").public();
    verify_bytes(b"{}", data, &key).expect_err("nobody has this key");
}

/// A picture of at most 65536 pixels.
pub fn image(data: &[u8]) {
    match Rgb::decode(Cursor::new(data), Path::new("a"), 1 << 16) {
        Ok(rgb) => {
            assert_eq!(rgb.pixels.len(), rgb.height * rgb.width * 3);
            assert!(rgb.height > 0 && rgb.width > 0 && rgb.height * rgb.width <= 1 << 16);
            let centre = rgb.centre(8, 8);
            assert_eq!(centre.pixels.len(), 8 * 8 * 3);
        }
        Err(error) => refuses_plainly(&error),
    }
}

/// A refusal is one line, and nothing in it is a command to a terminal.
fn refuses_plainly(error: &impl Display) {
    let text = error.to_string();
    assert!(!text.contains(char::is_control), "{text:?}");
}

/// A folder that goes away with it, in memory where the system has such a place.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let memory = Path::new("/dev/shm");
        let place = if memory.is_dir() { memory.into() } else { std::env::temp_dir() };
        let name = format!("gabion-fuzz-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        std::fs::create_dir(place.join(&name)).expect("nothing else has this name");
        Self(place.join(name))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the committed corpus of a target and says how many files that were.
    fn corpus(target: &str, run: fn(&[u8])) -> usize {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
        let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let files = entries.map(|entry| std::fs::read(entry.unwrap().path()).unwrap());
        files.map(|bytes| run(&bytes)).count()
    }

    #[test]
    fn the_corpus_passes() {
        for (target, run) in [
            ("bundle", bundle as fn(&[u8])),
            ("image", image),
            ("manifest", manifest),
            ("record", record),
            ("safetensors", safetensors),
        ] {
            assert!(corpus(target, run) > 0, "{target} has no corpus");
        }
    }

    /// Whatever is cut from, or flipped in, what is in the corpus.
    #[test]
    fn neighbours_of_the_corpus_pass() {
        for (target, run) in
            [("image", image as fn(&[u8])), ("manifest", manifest), ("record", record), ("safetensors", safetensors)]
        {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
            for entry in std::fs::read_dir(folder).unwrap().take(40) {
                let whole = std::fs::read(entry.unwrap().path()).unwrap();
                let step = (whole.len() / 16).max(1);
                for at in (0..whole.len()).step_by(step) {
                    run(&whole[..at]);
                    let mut flipped = whole.clone();
                    flipped[at] ^= 1 << (at % 8);
                    run(&flipped);
                }
            }
        }
    }
}
