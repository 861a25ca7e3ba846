//! The libraries that `bench/peers/augment.py` serves, and the images that they are given.

use super::augment::{Error, Settings};
use super::peers::{Peer, Ready};
use crate::data::Images;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Longest wait for a peer that loads its libraries, or that is late with an answer: a machine may be busy.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// Other programs.
#[derive(Clone, Debug)]
pub struct Peers {
    /// A Python that has their packages.
    pub python: PathBuf,
    /// The folder of `augment.py`.
    pub folder: PathBuf,
}

/// A library, as its users use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Library {
    /// torchvision's transforms on PIL images: what all others are compared with.
    Pil,
    /// torchvision's transforms v2 on one tensor of bytes at a time.
    V2,
    /// kornia's augmentations on one tensor of all images.
    Kornia,
}

impl Library {
    pub const ALL: [Self; 3] = [Self::Pil, Self::V2, Self::Kornia];

    /// As in a table.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pil => "torchvision, PIL images",
            Self::V2 => "torchvision v2, uint8 tensors",
            Self::Kornia => "kornia, batch tensor",
        }
    }

    /// As `augment.py` knows it.
    const fn argument(self) -> &'static str {
        match self {
            Self::Pil => "pil",
            Self::V2 => "v2",
            Self::Kornia => "kornia",
        }
    }

    /// Starts `augment.py` with it, or says why not.
    pub fn start(self, peers: &Peers, images: &Handover, settings: &Settings) -> Result<(Peer, Ready), String> {
        let script = peers.folder.join("augment.py");
        if !script.is_file() {
            return Err(format!("{} is not there: name its folder with --peers", script.display()));
        }
        let mut command = Command::new(&peers.python);
        command.arg(script).args(["--serve", self.argument()]).arg("--images").arg(&images.0);
        command.args(["--side", &settings.size.to_string(), "--views", &settings.views.to_string()]);
        Peer::start(&mut command, PATIENCE).map_err(|error| error.to_string())
    }
}

/// The images as bytes in a file that goes away.
pub(super) struct Handover(PathBuf);

impl Handover {
    pub fn write(images: &Images) -> Result<Self, Error> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("gabion-bench-{}-{number}.bin", std::process::id()));
        let opened = OpenOptions::new().write(true).create_new(true).open(&path);
        let mut file = opened.map_err(|source| Error::Handover { path: path.clone(), source })?;
        let handover = Self(path.clone());
        file.write_all(&images.pixels).map_err(|source| Error::Handover { path, source })?;
        Ok(handover)
    }
}

impl Drop for Handover {
    fn drop(&mut self) {
        // A file that is left in the folder of temporary files does no harm.
        let _ = fs::remove_file(&self.0);
    }
}
