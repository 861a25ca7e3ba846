//! What an evaluation has done so far, in a folder: one file a chunk of images and attack, written whole or not at all, so
//! that an evaluation that was killed goes on where it was and ends with the same result.

use crate::measure::{Error, Result, hexadecimal};
use gabion_learn::attack::{Found, Passes};
use gabion_runtime::durable;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// A folder of finished chunks, or none.
#[derive(Debug)]
pub(super) struct Journal {
    folder: Option<PathBuf>,
    key: String,
}

/// An attack, as a journal knows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row<'a> {
    /// Names the file.
    pub(super) name: &'a str,
    /// Everything that decides the result.
    pub(super) detail: &'a str,
}

/// The file that says what a folder is of.
const ABOUT: &str = "about.json";
/// Where chunks lie.
const CHUNKS: &str = "chunks";

/// A chunk of an attack. Of an image that was not fooled the values may be left out.
pub(super) struct Chunk {
    /// What came of each image.
    pub(super) found: Vec<Found>,
    /// Time that it took.
    pub(super) seconds: f64,
}

impl Journal {
    /// Opens or begins a folder. `key` is of everything that decides the result, `about` says it for people.
    pub(super) fn open(folder: Option<&Path>, key: String, about: &serde_json::Value) -> Result<Self> {
        let Some(folder) = folder else { return Ok(Self { folder: None, key }) };
        let file = folder.join(ABOUT);
        // One that is damaged is written anew: chunks have the key themselves.
        let theirs =
            std::fs::read(&file).ok().and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
        if let Some(theirs) = theirs {
            if theirs["key"] != json!(key) {
                return Err(Error::OtherEvaluation { path: folder.to_path_buf() });
            }
        } else {
            let chunks = folder.join(CHUNKS);
            std::fs::create_dir_all(&chunks).map_err(Error::io("make the folder", &chunks))?;
            let text = serde_json::to_vec_pretty(&json!({ "key": key, "about": about })).expect("plain data");
            durable::write(&file, &text).map_err(Error::io("write", &file))?;
        }
        Ok(Self { folder: Some(folder.to_path_buf()), key })
    }

    fn file(&self, row: &str, start: usize) -> Option<PathBuf> {
        let slug: String = row.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        Some(self.folder.as_ref()?.join(CHUNKS).join(format!("{slug}-{start:05}.safetensors")))
    }

    /// A finished chunk of exactly these images; none where there is no such file or it is damaged.
    pub(super) fn read(&self, row: Row<'_>, start: usize, names: &[u64], length: usize) -> Option<Chunk> {
        let bytes = std::fs::read(self.file(row.name, start)?).ok()?;
        let (_, header) = SafeTensors::read_metadata(&bytes).ok()?;
        let metadata = header.metadata().as_ref()?;
        if metadata.get("key")? != &self.key || metadata.get("row")? != row.detail {
            return None;
        }
        let tensors = SafeTensors::deserialize(&bytes).ok()?;
        if metadata.get("sha256")? != &fingerprint(&tensors) {
            return None;
        }
        let whole = |name: &str| -> Option<Vec<i64>> {
            Some(bytemuck::pod_collect_to_vec(tensors.tensor(name).ok().filter(|t| t.dtype() == Dtype::I64)?.data()))
        };
        let real = |name: &str| -> Option<Vec<f32>> {
            Some(bytemuck::pod_collect_to_vec(tensors.tensor(name).ok().filter(|t| t.dtype() == Dtype::F32)?.data()))
        };
        if whole("image")?.iter().map(|name| name.cast_unsigned()).ne(names.iter().copied()) {
            return None;
        }
        let (fooled, passes) = (whole("fooled_at")?, whole("passes")?);
        let (loss, earlier, x) = (real("loss")?, real("earlier_loss")?, real("x")?);
        let rows = names.len();
        let has_values = whole("has_values")?;
        let kept = has_values.iter().filter(|has| **has > 0).count();
        let lengths = [fooled.len(), loss.len(), earlier.len(), has_values.len(), passes.len() / 5];
        if lengths != [rows; 5] || x.len() != kept * length {
            return None;
        }
        let mut x = x.chunks_exact(length);
        let count = |at: usize| u32::try_from(passes[at]).ok();
        let found = (0..rows)
            .map(|row| {
                Some(Found {
                    x: if has_values[row] == 0 { Vec::new() } else { x.next()?.to_vec() },
                    fooled_at: if fooled[row] < 0 { None } else { Some(u32::try_from(fooled[row]).ok()?) },
                    loss: loss[row],
                    earlier_loss: earlier[row],
                    passes: Passes {
                        gradients: count(5 * row)?,
                        forwards: count(5 * row + 1)?,
                        zero_gradients: count(5 * row + 2)?,
                        saturated: count(5 * row + 3)?,
                        not_finite: count(5 * row + 4)?,
                    },
                })
            })
            .collect::<Option<Vec<_>>>()?;
        Some(Chunk { found, seconds: metadata.get("seconds")?.parse().ok()? })
    }

    /// Keeps a finished chunk.
    pub(super) fn write(&self, row: Row<'_>, start: usize, names: &[u64], chunk: &Chunk) -> Result<()> {
        let Some(file) = self.file(row.name, start) else { return Ok(()) };
        let Chunk { found, seconds } = chunk;
        let image: Vec<i64> = names.iter().map(|name| name.cast_signed()).collect();
        let fooled_at: Vec<i64> = found.iter().map(|found| found.fooled_at.map_or(-1, i64::from)).collect();
        let loss: Vec<f32> = found.iter().map(|found| found.loss).collect();
        let earlier: Vec<f32> = found.iter().map(|found| found.earlier_loss).collect();
        let passes: Vec<i64> = found
            .iter()
            .flat_map(|Found { passes: p, .. }| {
                [p.gradients, p.forwards, p.zero_gradients, p.saturated, p.not_finite].map(i64::from)
            })
            .collect();
        let has_values: Vec<i64> = found.iter().map(|found| i64::from(!found.x.is_empty())).collect();
        let kept = has_values.iter().filter(|has| **has > 0).count();
        let x: Vec<f32> = found.iter().flat_map(|found| found.x.iter().copied()).collect();
        let rows = names.len();
        fn view(dtype: Dtype, shape: Vec<usize>, bytes: &[u8]) -> TensorView<'_> {
            TensorView::new(dtype, shape, bytes).expect("the shape is that of the values")
        }
        let tensors = [
            ("image", view(Dtype::I64, vec![rows], bytemuck::cast_slice(&image))),
            ("fooled_at", view(Dtype::I64, vec![rows], bytemuck::cast_slice(&fooled_at))),
            ("loss", view(Dtype::F32, vec![rows], bytemuck::cast_slice(&loss))),
            ("earlier_loss", view(Dtype::F32, vec![rows], bytemuck::cast_slice(&earlier))),
            ("has_values", view(Dtype::I64, vec![rows], bytemuck::cast_slice(&has_values))),
            ("passes", view(Dtype::I64, vec![rows, 5], bytemuck::cast_slice(&passes))),
            ("x", view(Dtype::F32, vec![kept, x.len() / kept.max(1)], bytemuck::cast_slice(&x))),
        ];
        let mut hash = Sha256::new();
        tensors.iter().for_each(|(name, view)| add(&mut hash, name, view));
        let metadata = HashMap::from([
            ("sha256".to_string(), hexadecimal(&hash.finalize())),
            ("key".to_string(), self.key.clone()),
            ("row".to_string(), row.detail.to_string()),
            ("seconds".to_string(), seconds.to_string()),
        ]);
        safetensors::serialize(tensors, Some(metadata))
            .map_err(std::io::Error::other)
            .and_then(|whole| durable::write(&file, &whole))
            .map_err(Error::io("write", &file))
    }
}

fn add(hash: &mut Sha256, name: &str, view: &TensorView<'_>) {
    hash.update(format!("{name} {:?} {:?}\n", view.dtype(), view.shape()));
    hash.update(view.data());
}

/// SHA-256 of the tensors in the order in which [`Journal::write`] has them.
fn fingerprint(tensors: &SafeTensors<'_>) -> String {
    let mut hash = Sha256::new();
    for name in ["image", "fooled_at", "loss", "earlier_loss", "has_values", "passes", "x"] {
        if let Ok(view) = tensors.tensor(name) {
            add(&mut hash, name, &view);
        }
    }
    hexadecimal(&hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk() -> Chunk {
        let passes = Passes { gradients: 7, forwards: 6, zero_gradients: 5, saturated: 4, not_finite: 3 };
        let found = |fooled_at: Option<u32>, loss: f32| {
            let x = fooled_at.map_or_else(Vec::new, |_| vec![0.25, loss]);
            Found { x, fooled_at, loss, earlier_loss: 0.5, passes }
        };
        Chunk { found: vec![found(None, 0.75), found(Some(0), 1.0), found(Some(9), 0.0)], seconds: 1.5 }
    }

    #[test]
    fn a_chunk_comes_back_and_a_damaged_one_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("evaluation");
        let open = |key: &str| Journal::open(Some(&path), key.into(), &json!({}));
        let journal = open("a").unwrap();
        let row = Row { name: "pgd-20 8/255", detail: "20 steps of 0.01" };
        journal.write(row, 100, &[3, 5, 8], &chunk()).unwrap();
        let read = |journal: &Journal, names: &[u64]| journal.read(row, 100, names, 2);
        let back = read(&open("a").unwrap(), &[3, 5, 8]).unwrap();
        assert_eq!(back.found, chunk().found);
        assert!((back.seconds - 1.5).abs() < 1e-12);
        assert!(read(&journal, &[3, 5]).is_none() && read(&journal, &[3, 5, 9]).is_none());
        assert!(journal.read(row, 0, &[3, 5, 8], 2).is_none());
        assert!(journal.read(Row { detail: "of 0.02", ..row }, 100, &[3, 5, 8], 2).is_none());
        assert!(matches!(open("b"), Err(Error::OtherEvaluation { .. })));
        let file = journal.file("pgd-20 8/255", 100).unwrap();
        let bytes = std::fs::read(&file).unwrap();
        let mut flipped = bytes.clone();
        *flipped.last_mut().unwrap() ^= 1;
        std::fs::write(&file, &flipped).unwrap();
        assert!(read(&journal, &[3, 5, 8]).is_none(), "a flipped bit is believed");
        for length in [0, 10, bytes.len() - 1] {
            std::fs::write(&file, &bytes[..length]).unwrap();
            assert!(read(&journal, &[3, 5, 8]).is_none());
        }
    }
}
