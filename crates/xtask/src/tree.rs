//! The repository's files.

use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file that git tracks or would.
#[derive(Clone, Debug)]
pub struct File {
    /// From the root, with `/`.
    pub path: String,
    /// Its content; `None` when it is not UTF-8.
    pub text: Option<String>,
}

/// The files of a repository.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    /// In the order of their paths.
    pub files: Vec<File>,
}

/// The workspace's folder, as cargo says it at run time: a build may be shared by several clones.
pub fn root() -> Result<PathBuf> {
    match std::env::var_os("CARGO_MANIFEST_DIR") {
        Some(here) => Path::new(&here).ancestors().nth(2).map(PathBuf::from).context("xtask lies in crates/xtask"),
        None => Ok(std::env::current_dir()?),
    }
}

impl Tree {
    /// What git tracks and what it does not ignore.
    pub fn read(root: &Path) -> Result<Self> {
        let listed = Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(root)
            .output()
            .context("cannot start git")?;
        ensure!(listed.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listed.stderr).trim());
        let mut paths: Vec<String> = String::from_utf8(listed.stdout)
            .context("a file name is not UTF-8")?
            .split_terminator('\0')
            .map(String::from)
            .collect();
        paths.sort();
        paths.dedup();
        let mut files = Vec::with_capacity(paths.len());
        for path in paths {
            // Removed and not yet committed, or a link to a folder.
            if !root.join(&path).is_file() {
                continue;
            }
            let bytes = std::fs::read(root.join(&path)).with_context(|| format!("cannot read {path}"))?;
            files.push(File { path, text: String::from_utf8(bytes).ok() });
        }
        Ok(Self { files })
    }

    /// Path and content of the text files of which the path passes `wanted`.
    pub fn texts(&self, wanted: impl Fn(&str) -> bool) -> impl Iterator<Item = (&str, &str)> {
        self.files
            .iter()
            .filter(move |file| wanted(&file.path))
            .filter_map(|file| Some((file.path.as_str(), file.text.as_deref()?)))
    }

    /// Whether there is such a file.
    pub fn has(&self, path: &str) -> bool {
        self.files.iter().any(|file| file.path == path)
    }
}

#[cfg(test)]
impl Tree {
    /// A tree of given files.
    pub fn of(files: &[(&str, &str)]) -> Self {
        let file = |&(path, text): &(&str, &str)| File { path: path.into(), text: Some(text.into()) };
        Self { files: files.iter().map(file).collect() }
    }
}
