//! The folder of a demo: taken, filled and, when there is a former one, replaced.

use super::{Demo, DemoError, KINDS};
use gabion_runtime::durable;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// Tells a demo's folder from any other.
const RECORD: &str = "demo.json";

#[derive(Serialize, Deserialize)]
struct Record<D> {
    /// [`WHAT`].
    what: String,
    /// None until the demo has ended.
    demo: Option<D>,
}

const WHAT: &str = "gabion demo";

pub(super) struct Folder(PathBuf);

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DemoError {
    let path = path.to_path_buf();
    move |source| DemoError::Io { doing, path, source }
}

impl Folder {
    /// Makes the folder, or takes an empty one, or clears that of a former demo of what the demo had made.
    pub(super) fn take(path: &Path) -> Result<Self, DemoError> {
        fs::create_dir_all(path).map_err(io_error("make the folder", path))?;
        let folder = Self(path.into());
        let former = fs::read(folder.path(RECORD))
            .ok()
            .and_then(|text| serde_json::from_slice::<Record<serde_json::Value>>(&text).ok())
            .is_some_and(|record| record.what == WHAT);
        if former {
            folder.clear()?;
        } else if let Some(found) = first_of(path).map_err(io_error("read", path))? {
            return Err(DemoError::Occupied { path: path.into(), found });
        }
        // First of all: what is left of a stopped demo is a demo's as well.
        folder.record(None)?;
        Ok(folder)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), DemoError> {
        let path = self.path(name);
        durable::write(&path, bytes).map_err(io_error("write", &path))
    }

    /// Writes the numbers down.
    pub(super) fn finish(&self, demo: &Demo) -> Result<(), DemoError> {
        self.record(Some(demo))
    }

    fn record(&self, demo: Option<&Demo>) -> Result<(), DemoError> {
        let mut text = serde_json::to_vec_pretty(&Record { what: WHAT.into(), demo }).expect("plain data");
        text.push(b'\n');
        self.write(RECORD, &text)
    }

    /// Removes what a demo makes, each by its name; anything else stays.
    fn clear(&self) -> Result<(), DemoError> {
        let mut names: Vec<String> = ["report.html", "clean.png", "bundle"].map(String::from).to_vec();
        for kind in &KINDS {
            names.push(kind.attacked.into());
            let within = ["run.json", "recipe.toml", "metrics.jsonl", "checkpoints", "bundle"];
            names.extend(within.map(|name| format!("{}/{name}", kind.folder)));
        }
        for path in names.iter().map(|name| self.path(name)) {
            let removed = match fs::symlink_metadata(&path) {
                Ok(found) if found.is_dir() => fs::remove_dir_all(&path),
                Ok(_) => fs::remove_file(&path),
                Err(error) => Err(error),
            };
            match removed {
                Err(error) if !matches!(error.kind(), ErrorKind::NotFound) => {
                    return Err(io_error("remove", &path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The first name in a folder.
fn first_of(path: &Path) -> io::Result<Option<String>> {
    let names: io::Result<Vec<_>> =
        fs::read_dir(path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect();
    Ok(names?.into_iter().min())
}
