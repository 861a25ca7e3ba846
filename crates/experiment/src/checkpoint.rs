//! Checkpoints: two generations, each whole or absent, each with its SHA-256.
//!
//! `checkpoint-STEP.safetensors` holds the tensors; `checkpoint-STEP.json` is written after it and names its hash, so
//! that a checkpoint without its JSON does not exist.

use burn::tensor::TensorData;
use gabion_runtime::durable;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// What stands beside the tensors of a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Minibatches done.
    pub minibatches: u64,
    /// Length of `metrics.jsonl` in bytes.
    pub metrics_bytes: u64,
    /// Seconds trained.
    pub seconds: f64,
    /// Best robust accuracy that the guard has seen, in percent.
    pub best_guard: Option<f64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Seal {
    sha256: String,
    position: Position,
}

/// A checkpoint that could not be written or read.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum CheckpointError {
    #[error("cannot write the checkpoint {}: {source}; free space or make the folder writable, then --resume", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{} holds no whole checkpoint; start again without --resume", folder.display())]
    NoneWhole { folder: PathBuf },
}

/// A checkpoint in memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Checkpoint {
    /// Where training stands.
    pub position: Position,
    /// Every tensor by name, f32.
    pub tensors: BTreeMap<String, TensorData>,
}

/// Bytes of a safetensors file with f32 tensors.
pub fn to_bytes(tensors: &BTreeMap<String, TensorData>) -> Vec<u8> {
    let views: Vec<(&str, TensorView<'_>)> = tensors
        .iter()
        .map(|(name, data)| {
            let view = TensorView::new(Dtype::F32, data.shape().to_vec(), data.as_bytes());
            (name.as_str(), view.expect("a tensor's bytes fit its shape"))
        })
        .collect();
    safetensors::serialize(views, None).expect("names are distinct")
}

/// The f32 tensors of a safetensors file; none when it is not one.
pub fn from_bytes(bytes: &[u8]) -> Option<BTreeMap<String, TensorData>> {
    let file = SafeTensors::deserialize(bytes).ok()?;
    file.tensors()
        .into_iter()
        .map(|(name, view)| {
            if view.dtype() != Dtype::F32 {
                return None;
            }
            let values: Vec<f32> = view.data().as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
            Some((name, TensorData::new(values, view.shape().to_vec())))
        })
        .collect()
}

impl Checkpoint {
    /// Writes this generation and removes all but it and the one before: older ones, later ones (which were damaged, or
    /// training would have gone on from them) and what a killed process left half-written.
    ///
    /// # Errors
    /// When the folder cannot be written; older generations are left as they were.
    pub fn write(&self, folder: &Path) -> Result<(), CheckpointError> {
        let stem = format!("checkpoint-{:010}", self.position.minibatches);
        let (weights, seal) = (folder.join(format!("{stem}.safetensors")), folder.join(format!("{stem}.json")));
        let bytes = to_bytes(&self.tensors);
        let sha256 = hex(&Sha256::digest(&bytes));
        let wrong = |path: &Path| {
            let path = path.to_path_buf();
            move |source| CheckpointError::Write { path, source }
        };
        durable::write(&weights, &bytes).map_err(wrong(&weights))?;
        let text = serde_json::to_vec_pretty(&Seal { sha256, position: self.position.clone() }).expect("plain data");
        durable::write(&seal, &text).map_err(wrong(&seal))?;
        let kept: Vec<PathBuf> =
            generations(folder).into_iter().rev().skip_while(|other| *other > seal).take(2).collect();
        let mut over = files(folder, |name| name.trim_start_matches('.').starts_with("checkpoint-"));
        over.retain(|path| !kept.contains(&path.with_extension("json")));
        // Seals first: what is left without one does not count.
        over.sort_by_key(|path| path.extension().is_none_or(|extension| extension != "json"));
        for path in over {
            let _ = std::fs::remove_file(path);
        }
        Ok(())
    }

    /// The newest whole generation.
    ///
    /// # Errors
    /// When there is none.
    pub fn newest(folder: &Path) -> Result<Self, CheckpointError> {
        generations(folder)
            .iter()
            .rev()
            .find_map(|seal| Self::read(seal))
            .ok_or_else(|| CheckpointError::NoneWhole { folder: folder.into() })
    }

    fn read(seal: &Path) -> Option<Self> {
        let Seal { sha256, position } = serde_json::from_slice(&std::fs::read(seal).ok()?).ok()?;
        let bytes = std::fs::read(seal.with_extension("safetensors")).ok()?;
        if hex(&Sha256::digest(&bytes)) != sha256 {
            return None;
        }
        Some(Self { position, tensors: from_bytes(&bytes)? })
    }

    /// The tensors under a prefix, without it.
    pub fn under(&self, prefix: &str) -> BTreeMap<String, TensorData> {
        self.tensors
            .iter()
            .filter_map(|(name, data)| Some((name.strip_prefix(prefix)?.to_string(), data.clone())))
            .collect()
    }
}

/// Seals in a folder, oldest first.
fn generations(folder: &Path) -> Vec<PathBuf> {
    let mut seals = files(folder, |name| name.starts_with("checkpoint-") && name.ends_with(".json"));
    seals.sort();
    seals
}

/// Files in a folder by their names; none where it cannot be read.
fn files(folder: &Path, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().to_str().is_some_and(&wanted)).map(|entry| entry.path()).collect()
}

/// Lowercase hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minibatches: u64) -> Checkpoint {
        let values: Vec<f32> = (0..6u8).map(|i| f32::from(i) + 0.1).collect();
        let tensors = BTreeMap::from([("model/a".to_string(), TensorData::new(values, [2, 3]))]);
        Checkpoint { position: Position { minibatches, ..Position::default() }, tensors }
    }

    #[test]
    fn two_generations_stay_and_a_broken_one_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Checkpoint::newest(folder.path()).is_err());
        for minibatches in [3, 9, 12] {
            at(minibatches).write(folder.path()).unwrap();
        }
        assert_eq!(generations(folder.path()).len(), 2);
        assert_eq!(Checkpoint::newest(folder.path()).unwrap(), at(12));
        let weights = folder.path().join("checkpoint-0000000012.safetensors");
        let mut bytes = std::fs::read(&weights).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&weights, bytes).unwrap();
        assert_eq!(Checkpoint::newest(folder.path()).unwrap(), at(9));
        std::fs::remove_file(folder.path().join("checkpoint-0000000009.json")).unwrap();
        assert!(Checkpoint::newest(folder.path()).is_err());
    }

    #[test]
    fn later_generations_and_half_written_files_are_swept() {
        let folder = tempfile::tempdir().unwrap();
        for minibatches in [8, 9] {
            at(minibatches).write(folder.path()).unwrap();
        }
        for (name, text) in [
            ("checkpoint-0000000008.json", "damaged"),
            ("checkpoint-0000000009.json", "damaged"),
            ("checkpoint-0000000002.safetensors", "no seal"),
            (".checkpoint-0000000007.json.99.tmp", "cut"),
        ] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        at(3).write(folder.path()).unwrap();
        assert_eq!(Checkpoint::newest(folder.path()).unwrap(), at(3));
        assert_eq!(files(folder.path(), |_| true).len(), 2);
    }

    #[test]
    fn an_unwritable_folder_is_an_error_with_its_path() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = at(1).write(&file.path().join("below")).unwrap_err();
        assert!(error.to_string().contains("below"), "{error}");
    }
}
