//! PNG files.

use super::{Kept, Shape, Target, TargetError, at};
use crate::state::ViewState;
use gabion_runtime::durable;
use image::RgbImage;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Numbered files that are kept in a folder.
const MOST: u32 = 10_000;

/// A file that is always the newest screen, or a folder of numbered ones.
#[derive(Debug)]
pub struct Still {
    path: PathBuf,
    numbered: bool,
    next: u32,
    screen: Kept,
}

impl Still {
    /// A path that ends in `.png` is a file, any other a folder.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn open(path: &Path, shape: Shape) -> Result<Self, TargetError> {
        let numbered = path.extension().is_none_or(|ending| !ending.eq_ignore_ascii_case("png"));
        if numbered {
            std::fs::create_dir_all(path).map_err(at(path))?;
        }
        Ok(Self { path: path.into(), numbered, next: 0, screen: Kept::new(shape) })
    }
}

/// Writes a picture whole or not at all.
///
/// # Errors
/// Whatever the system refuses, with the path.
pub fn save(path: &Path, image: &RgbImage) -> Result<(), TargetError> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png).map_err(|error| TargetError::new(path.display(), error))?;
    durable::write(path, bytes.get_ref()).map_err(at(path))
}

impl Target for Still {
    fn show(&mut self, state: &ViewState<'_>, _: Duration) -> Result<(), TargetError> {
        if self.screen.update(state).is_none() {
            return Ok(());
        }
        let path = if self.numbered {
            self.next = self.next % MOST + 1;
            self.path.join(format!("{:05}.png", self.next))
        } else {
            self.path.clone()
        };
        let saved = save(&path, &self.screen.image());
        if saved.is_err() {
            self.screen.forget();
        }
        saved
    }
}
