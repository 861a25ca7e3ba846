//! Where frames come from.
//!
//! | module | what it is |
//! |---|---|
//! | [`synth`] | drawn shapes; no file, no camera |
//! | [`folder`] | pictures in a folder, looked at again and again, so that new ones are seen |
//! | [`animation`] | a GIF or APNG, or one picture |
//! | [`video`] | YUV4MPEG2, which ffmpeg makes of any video: a file, or a pipe |
//! | [`faulty`] | another source with every fault that one can have |
//! | [`convert`] | a camera's and a video's bytes to RGB |
//! | `camera` | V4L2, with the feature of that name |
//!
//! Compressed video is ffmpeg's: no decoder of a common format is written in Rust alone and kept up.

pub mod animation;
#[cfg(feature = "camera")]
pub mod camera;
pub mod convert;
pub mod faulty;
pub mod folder;
pub mod synth;
pub mod video;

use crate::frame::Frame;
use std::fmt;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// What a source has.
#[derive(Debug)]
pub enum Pull {
    /// A frame.
    Frame(Frame),
    /// A frame that is shown for so long before the next one is asked for.
    Lasting(Frame, Duration),
    /// None yet.
    Waiting,
    /// None any more.
    End,
}

/// Why there is no frame: one line each, with what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// It cannot be opened, or went away: opened again later.
    #[error("{what}: {why}")]
    Gone {
        /// The path.
        what: String,
        /// The reason.
        why: String,
    },
    /// A frame that is none; the next may be one.
    #[error("{what}: {why}")]
    Broken {
        /// The path.
        what: String,
        /// The reason.
        why: String,
    },
}

impl SourceError {
    fn gone(what: impl fmt::Display, why: impl fmt::Display) -> Self {
        Self::Gone { what: what.to_string(), why: why.to_string() }
    }

    fn broken(what: impl fmt::Display, why: impl fmt::Display) -> Self {
        Self::Broken { what: what.to_string(), why: why.to_string() }
    }
}

/// A stream of frames.
pub trait Source: Send {
    /// The next frame, waited for no longer than `patience`.
    ///
    /// # Errors
    /// A broken frame, after which the next may be asked for, or the end of the source.
    fn pull(&mut self, patience: Duration) -> Result<Pull, SourceError>;

    /// The program rested for so long, and what waits for it goes on where it was.
    fn rested(&mut self, _time: Duration) {}
}

/// What is opened, as it is written: `synth`, `folder:PATH`, `file:PATH`, `camera:/dev/video0`; `faulty:` and one of
/// these.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(try_from = "String")]
pub enum Origin {
    /// Drawn shapes.
    #[default]
    Synth,
    /// Another source, and every fault.
    Faulty(Box<Origin>),
    /// The pictures of a folder.
    Folder(PathBuf),
    /// An animation, a picture or a video; a pipe with a video.
    File(PathBuf),
    /// A V4L2 device.
    Camera(PathBuf),
}

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "synth" => Ok(Self::Synth),
            None if text == "faulty" => Ok(Self::Synth.faulty()),
            Some(("faulty", inner)) => inner.parse().map(Self::faulty),
            Some(("folder", path)) if !path.is_empty() => Ok(Self::Folder(path.into())),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            Some(("camera", path)) if !path.is_empty() => Ok(Self::Camera(path.into())),
            _ => Err(format!("`{text}` is no source: use synth, folder:PATH, file:PATH or camera:/dev/video0")),
        }
    }
}

impl TryFrom<String> for Origin {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Synth => f.write_str("synth"),
            Self::Faulty(inner) => write!(f, "faulty {inner}"),
            Self::Folder(path) | Self::File(path) | Self::Camera(path) => path.display().fmt(f),
        }
    }
}

impl Origin {
    /// The file that it reads.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Faulty(inner) => inner.file(),
            _ => None,
        }
    }

    /// The same with every fault.
    #[must_use]
    pub fn faulty(self) -> Self {
        if matches!(self, Self::Faulty(_)) { self } else { Self::Faulty(Box::new(self)) }
    }

    /// Opens it; `seed` is for what is drawn.
    ///
    /// # Errors
    /// When there is no such thing, with its path.
    pub fn open(&self, seed: u64) -> Result<Box<dyn Source>, SourceError> {
        Ok(match self {
            Self::Synth => Box::new(synth::Stream::new(seed)),
            Self::Faulty(inner) => Box::new(faulty::Faulty::new(inner.open(seed)?, seed)),
            Self::Folder(path) => Box::new(folder::Folder::open(path)?),
            Self::File(path) => file(path)?,
            #[cfg(feature = "camera")]
            Self::Camera(path) => Box::new(camera::Camera::open(path)?),
            #[cfg(not(feature = "camera"))]
            Self::Camera(path) => {
                let why = "this program was built without cameras: build it with --features camera";
                return Err(SourceError::gone(path.display(), why));
            }
        })
    }
}

/// What a file holds says what it is, not its name; what can be read once is a video.
fn file(path: &Path) -> Result<Box<dyn Source>, SourceError> {
    let gone = |error: std::io::Error| SourceError::gone(path.display(), error);
    let mut file = video::open(path).map_err(gone)?;
    if !file.metadata().map_err(gone)?.is_file() {
        return Ok(Box::new(video::Video::new(path, file)?));
    }
    let mut start = [0; 12];
    let length = file.read(&mut start).map_err(gone)?;
    let start = &start[..length];
    if start.starts_with(video::MAGIC) {
        file.rewind().map_err(gone)?;
        return Ok(Box::new(video::Video::new(path, file)?));
    }
    // MP4 and QuickTime, Matroska and WebM, AVI.
    let compressed = start.get(4..8) == Some(b"ftyp")
        || start.starts_with(b"\x1a\x45\xdf\xa3")
        || (start.starts_with(b"RIFF") && start.get(8..12) == Some(b"AVI "));
    if compressed {
        let why = "a compressed video: ffmpeg -i it -f yuv4mpegpipe - | firmware-host --source file:/dev/stdin";
        return Err(SourceError::gone(path.display(), why));
    }
    Ok(Box::new(animation::Animation::open(path)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_read() {
        assert_eq!("synth".parse(), Ok(Origin::Synth));
        assert_eq!("folder:a b".parse(), Ok(Origin::Folder("a b".into())));
        assert_eq!("camera:/dev/video0".parse(), Ok(Origin::Camera("/dev/video0".into())));
        assert_eq!("faulty".parse(), Ok(Origin::Faulty(Box::new(Origin::Synth))));
        assert_eq!("faulty:folder:a".parse(), Ok(Origin::Folder("a".into()).faulty()));
        for wrong in ["", "faulty:", "faulty:x", "folder", "folder:", "synth:1", "x.gif"] {
            assert!(wrong.parse::<Origin>().unwrap_err().contains("folder:PATH"), "{wrong}");
        }
    }
}
