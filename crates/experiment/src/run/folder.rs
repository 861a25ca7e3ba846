//! The files of a run folder: made once, checked before they are used again.

use super::log::Log;
use super::{Options, RunError, io_error};
use crate::checkpoint::hex;
use crate::data::{Data, Images};
use crate::recipe;
use gabion_runtime::durable;
use gabion_spec::{FORMAT_VERSION, Input, Manifest, Precision, Pretrain, Weights};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::path::Path;

/// `run.json`: what a run was made with, beside its recipe.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Facts {
    gabion: String,
    commit: String,
    burn: String,
    device: String,
    data: String,
    images: usize,
    /// Of the training images' pixels and labels.
    #[serde(default)]
    data_sha256: String,
    seed: u64,
}

impl Facts {
    fn of(recipe: &Pretrain, data: &Data, images: &Images, options: &Options<'_>) -> Self {
        let mut hash = Sha256::new_with_prefix(&images.pixels);
        for label in &images.labels {
            hash.update(label.to_le_bytes());
        }
        Self {
            gabion: env!("CARGO_PKG_VERSION").into(),
            commit: crate::COMMIT.into(),
            burn: crate::BURN.into(),
            device: options.device_name(),
            data: data.kind.name().into(),
            images: images.len(),
            data_sha256: hex(&hash.finalize()),
            seed: recipe.seed,
        }
    }

    /// The data in words, with the hash where the words alone would not tell them apart.
    fn data(&self, other: &Self) -> String {
        let words = format!("{} images of {}", self.images, self.data);
        if (self.images, &self.data) == (other.images, &other.data) {
            let sha256: String = self.data_sha256.chars().take(12).collect();
            return format!("{words} with SHA-256 {sha256}...");
        }
        words
    }
}

/// Makes the run folder, or checks that it is the one to resume; the log is open, and locked.
///
/// # Errors
/// When there is a run and none should be, or none and one should, or it was made with something else, or another
/// process works on it. A folder that is refused is not changed.
pub(super) fn prepare(
    recipe: &Pretrain,
    data: &Data,
    images: &Images,
    options: &Options<'_>,
) -> Result<(Facts, Log), RunError> {
    let out = options.out;
    let (recipe_path, facts_path) = (out.join("recipe.toml"), out.join("run.json"));
    let facts = Facts::of(recipe, data, images, options);
    if options.resume {
        let text = std::fs::read(&facts_path).map_err(|_| RunError::Nothing { path: out.into() })?;
        if recipe_of(out)? != *recipe {
            return Err(RunError::OtherRecipe { path: out.into() });
        }
        let was: Option<Facts> = serde_json::from_slice(&text).ok();
        if let Some(was) = was
            && (was.images, &was.data, &was.data_sha256) != (facts.images, &facts.data, &facts.data_sha256)
        {
            return Err(RunError::OtherData { path: out.into(), was: was.data(&facts), is: facts.data(&was) });
        }
        let log = Log::open(out)?;
        sweep(out);
        return Ok((facts, log));
    }
    if facts_path.exists() {
        return Err(RunError::Exists { path: out.into() });
    }
    let checkpoints = out.join("checkpoints");
    std::fs::create_dir_all(&checkpoints).map_err(io_error("cannot make the folder", &checkpoints))?;
    let log = Log::open(out)?;
    durable::write(&recipe_path, recipe::to_toml(recipe).as_bytes()).map_err(io_error("cannot write", &recipe_path))?;
    let text = serde_json::to_vec_pretty(&facts).expect("plain data");
    durable::write(&facts_path, &text).map_err(io_error("cannot write", &facts_path))?;
    Ok((facts, log))
}

/// Removes what a killed process left half-written in the folder itself, such as `.bundle.4711.tmp`.
fn sweep(out: &Path) {
    for entry in std::fs::read_dir(out).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(|name| name.starts_with('.') && name.ends_with(".tmp")) {
            let path = entry.path();
            let _ = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
        }
    }
}

/// The recipe of a run folder.
///
/// # Errors
/// When the folder holds none.
pub fn recipe_of(out: &Path) -> Result<Pretrain, RunError> {
    let path = out.join("recipe.toml");
    let text = std::fs::read_to_string(&path).map_err(|_| RunError::Nothing { path: out.into() })?;
    Ok(recipe::parse(&path.display().to_string(), &text, &[])?)
}

/// The metrics up to the checkpoint, ready to append, and their length.
pub(super) fn open_metrics(path: &Path, keep: u64) -> Result<(File, u64), RunError> {
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(io_error("cannot write", path))?;
    // Lines after the checkpoint are made again; a file that was taken away begins anew.
    let keep = file.metadata().map_err(io_error("cannot read", path))?.len().min(keep);
    file.set_len(keep).and_then(|()| file.seek(SeekFrom::End(0))).map_err(io_error("cannot write", path))?;
    Ok((file, keep))
}

/// The manifest of the bundle that a run ends in.
pub(super) fn manifest(recipe: &Pretrain, facts: &Facts) -> Manifest {
    let [height, width] = recipe.augment.size;
    Manifest {
        format: FORMAT_VERSION,
        name: format!("gabion-{}", facts.data),
        encoder: recipe.encoder,
        projector: recipe.projector,
        input: Input { height, width },
        classes: Vec::new(),
        head: None,
        pretrain: Some(recipe.clone()),
        finetune: Vec::new(),
        adapted: Vec::new(),
        data: Some(facts.data.clone()),
        weights: Weights { file: "model.safetensors".into(), sha256: String::new(), precision: Precision::F32 },
        claims: Vec::new(),
        writer: format!("gabion {} ({})", facts.gabion, facts.commit),
    }
}
