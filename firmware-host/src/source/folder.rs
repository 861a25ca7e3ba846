//! The pictures of a folder, each for a second, again and again; of folders within one picture each, then the next of each.
//! The folder is read anew before every picture; what is new is shown next.

use super::{Pull, Source, SourceError};
use crate::frame::Frame;
use gabion_runtime::{PictureError, Rgb};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a picture is shown.
const HOLD: Duration = Duration::from_secs(1);
/// Most pixels of a picture.
const MOST_PIXELS: u64 = 50_000_000;
/// Sides above this are made smaller at once.
const SIDE: u32 = 640;
const ENDINGS: [&str; 4] = ["png", "jpg", "jpeg", "webp"];

/// A folder.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    known: BTreeSet<PathBuf>,
    /// The picture shown last.
    last: Option<PathBuf>,
}

impl Folder {
    /// A folder with pictures.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        let mut folder = Self { path: path.into(), known: BTreeSet::new(), last: None };
        folder.known = folder.list()?;
        Ok(folder)
    }

    fn list(&self) -> Result<BTreeSet<PathBuf>, SourceError> {
        let gone = |error| SourceError::gone(self.path.display(), error);
        let mut found = BTreeSet::new();
        for folder in std::fs::read_dir(&self.path).map_err(gone)? {
            let path = folder.map_err(gone)?.path();
            if path.is_dir() {
                // A folder in it is a class; one that cannot be read has no pictures.
                let inner = std::fs::read_dir(&path).into_iter().flatten().filter_map(Result::ok);
                found.extend(inner.map(|entry| entry.path()).filter(|path| is_picture(path)));
            } else if is_picture(&path) {
                found.insert(path);
            }
        }
        Ok(found)
    }

    /// What is new, else what follows the last one, else the first.
    fn next(&mut self) -> Result<Option<PathBuf>, SourceError> {
        let found = self.list()?;
        let new = found.difference(&self.known).next().cloned();
        // Further new ones stay new.
        self.known = self.known.intersection(&found).cloned().chain(new.clone()).collect();
        let turns = in_turn(&found);
        let last = self.last.as_ref().and_then(|last| turns.iter().position(|path| *path == last));
        let after = last.and_then(|last| turns.get(last + 1)).or(turns.first());
        Ok(new.or_else(|| after.map(|path| path.to_path_buf())))
    }
}

/// The first of every folder, the second of every one, and so on: whoever takes some has all classes.
fn in_turn(found: &BTreeSet<PathBuf>) -> Vec<&Path> {
    let mut places: BTreeMap<&Path, usize> = BTreeMap::new();
    let mut turns: Vec<(usize, &Path)> = found
        .iter()
        .map(|path| {
            let place = places.entry(path.parent().unwrap_or(path)).or_default();
            *place += 1;
            (*place, path.as_path())
        })
        .collect();
    turns.sort_unstable();
    turns.into_iter().map(|(_, path)| path).collect()
}

fn is_picture(path: &Path) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or("").to_ascii_lowercase();
    // A name with a dot is of a file that is still being written.
    let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    ENDINGS.contains(&ending.as_str()) && !hidden
}

/// Reads a picture file.
///
/// # Errors
/// When it is none, with its path.
pub(super) fn read(path: &Path) -> Result<Frame, SourceError> {
    let rgb = Rgb::open_within(path, MOST_PIXELS).map_err(|error| match error {
        PictureError::Io { path, source } => SourceError::gone(path.display(), source),
        error => SourceError::broken(path.display(), error),
    })?;
    let frame = Frame::try_from(rgb).map_err(|()| SourceError::broken(path.display(), "no pixels"))?;
    Ok(frame.within(SIDE))
}

impl Source for Folder {
    fn pull(&mut self, _: Duration) -> Result<Pull, SourceError> {
        let Some(path) = self.next()? else { return Ok(Pull::Waiting) };
        self.last = Some(path.clone());
        let mut frame = read(&path).map_err(|error| match error {
            // One file that went away is a broken frame of the folder.
            SourceError::Gone { what, why } | SourceError::Broken { what, why } => SourceError::Broken { what, why },
        })?;
        let folder = path.parent().filter(|folder| *folder != self.path);
        frame.label = folder.and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        Ok(Pull::Lasting(frame, HOLD))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn save(path: &Path, value: u8) {
        image::RgbImage::from_pixel(4, 3, image::Rgb([value; 3])).save(path).unwrap();
    }

    fn value(folder: &mut Folder) -> Option<u8> {
        match folder.pull(Duration::ZERO).unwrap() {
            Pull::Lasting(frame, _) => Some(frame.pixels[0]),
            _ => None,
        }
    }

    #[test]
    fn pictures_come_in_turn_and_new_ones_next() {
        let place = tempfile::tempdir().unwrap();
        let mut folder = Folder::open(place.path()).unwrap();
        assert_eq!(value(&mut folder), None);
        for at in [1, 5, 9] {
            save(&place.path().join(format!("{at}.png")), at);
        }
        std::fs::write(place.path().join("notes.txt"), "x").unwrap();
        assert_eq!([(); 4].map(|()| value(&mut folder).unwrap()), [1, 5, 9, 1]);
        save(&place.path().join("7.png"), 7);
        assert_eq!([(); 3].map(|()| value(&mut folder).unwrap()), [7, 9, 1]);
        std::fs::write(place.path().join("2.png"), "no picture").unwrap();
        let error = folder.pull(Duration::ZERO).unwrap_err();
        assert!(matches!(&error, SourceError::Broken { what, .. } if what.ends_with("2.png")), "{error}");
        assert_eq!(value(&mut folder), Some(5));
        let gone = Folder::open(&place.path().join("none")).err().unwrap();
        assert!(matches!(gone, SourceError::Gone { .. }));
        let path = place.path().to_path_buf();
        place.close().unwrap();
        assert!(matches!(folder.pull(Duration::ZERO).unwrap_err(), SourceError::Gone { .. }), "{}", path.display());
    }

    #[test]
    fn classes_take_turns() {
        let paths = ["a/1.png", "a/2.png", "a/3.png", "b/1.png", "c/1.png", "c/2.png"].map(PathBuf::from);
        let found = BTreeSet::from(paths);
        let wanted = ["a/1.png", "b/1.png", "c/1.png", "a/2.png", "c/2.png", "a/3.png"];
        assert_eq!(in_turn(&found), wanted.map(Path::new));
    }

    #[test]
    fn a_folder_within_is_a_class() {
        let place = tempfile::tempdir().unwrap();
        std::fs::create_dir(place.path().join("frog")).unwrap();
        save(&place.path().join("frog/1.png"), 1);
        let Pull::Lasting(frame, _) = Folder::open(place.path()).unwrap().pull(Duration::ZERO).unwrap() else {
            panic!()
        };
        assert_eq!(frame.label.as_deref(), Some("frog"));
    }
}
