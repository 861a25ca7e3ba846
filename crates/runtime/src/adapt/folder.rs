//! Local images from a folder: one folder a class, named as the bundle names it, or pictures without labels.

use super::{AdaptError, Samples};
use crate::Rgb;
use std::path::{Path, PathBuf};

/// Most pictures that are read.
pub const MOST_PICTURES: usize = 100_000;

/// Pictures, cut and resampled to what a network takes.
#[derive(Clone, Debug)]
pub struct Folder {
    /// The pictures, by class and by name.
    pub images: Vec<Rgb>,
    /// The class of each; none of pictures that lie in the folder itself.
    pub labels: Option<Vec<u16>>,
}

impl Folder {
    /// Reads every PNG, JPEG and WebP of a folder of class folders, or of a folder without any.
    ///
    /// # Errors
    /// When the folder cannot be read or holds no picture, a class folder has another name than the bundle's classes, a
    /// picture lies beside class folders, or one cannot be decoded.
    pub fn open(path: &Path, classes: &[String], size: [usize; 2]) -> Result<Self, AdaptError> {
        let wrong = |path: &Path, why: String| AdaptError::Folder { path: path.into(), why };
        let (folders, pictures) = entries(path)?;
        let mut files: Vec<(PathBuf, Option<u16>)> = pictures.iter().map(|path| (path.clone(), None)).collect();
        for folder in &folders {
            let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let Some(label) = classes.iter().position(|class| class == name) else {
                return Err(wrong(folder, format!("the bundle has no such class; it tells {}", classes.join(", "))));
            };
            if let Some(picture) = pictures.first() {
                return Err(wrong(picture, "it lies beside class folders: move it into one of them".into()));
            }
            let label = u16::try_from(label).expect("a bundle has at most 65536 classes");
            files.extend(entries(folder)?.1.into_iter().map(|path| (path, Some(label))));
        }
        if files.is_empty() {
            return Err(wrong(path, "there is no .png, .jpg, .jpeg or .webp in it: add some".into()));
        }
        if files.len() > MOST_PICTURES {
            return Err(wrong(path, format!("{} pictures are more than {MOST_PICTURES}: name fewer", files.len())));
        }
        let open = |(path, _): &(PathBuf, Option<u16>)| Ok(Rgb::open(path)?.centre(size[0], size[1]));
        let images = files.iter().map(open).collect::<Result<_, AdaptError>>()?;
        Ok(Self { images, labels: files.iter().map(|(_, label)| *label).collect() })
    }

    /// As adaptation takes them.
    pub fn samples(&self) -> Samples<'_> {
        Samples { images: &self.images, labels: self.labels.as_deref() }
    }
}

/// Folders and pictures in a folder, hidden ones left out, sorted.
fn entries(path: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>), AdaptError> {
    let io = |source| AdaptError::Io { doing: "read", path: path.into(), source };
    let (mut folders, mut pictures) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(path).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')) {
            continue;
        }
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or("").to_ascii_lowercase();
        if path.is_dir() {
            folders.push(path);
        } else if matches!(&*ending, "png" | "jpg" | "jpeg" | "webp") {
            pictures.push(path);
        }
    }
    folders.sort_unstable();
    pictures.sort_unstable();
    Ok((folders, pictures))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(path: &Path) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        image::RgbImage::from_pixel(6, 4, image::Rgb([9, 8, 7])).save(path).unwrap();
    }

    #[test]
    fn class_folders_give_labels_and_a_flat_folder_none() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let classes = ["cat", "dog"].map(String::from);
        let open = || Folder::open(folder.path(), &classes, [4, 4]);
        assert!(open().unwrap_err().to_string().contains("no .png"));
        put(&at("dog/b.png"));
        put(&at("cat/a.png"));
        put(&at("dog/a.png"));
        let found = open().unwrap();
        assert_eq!(found.labels, Some(vec![0, 1, 1]));
        assert!(found.images.iter().all(|image| (image.height, image.width) == (4, 4)));
        put(&at("stray.png"));
        assert!(open().unwrap_err().to_string().contains("stray.png"));
        std::fs::remove_file(at("stray.png")).unwrap();
        put(&at("bird/a.png"));
        let error = open().unwrap_err().to_string();
        assert!(error.contains("bird") && error.contains("cat, dog"), "{error}");
        let flat = Folder::open(&at("dog"), &classes, [4, 4]).unwrap();
        assert_eq!((flat.images.len(), flat.labels), (2, None));
        std::fs::write(at("dog/broken.png"), b"x").unwrap();
        assert!(Folder::open(&at("dog"), &classes, [4, 4]).unwrap_err().to_string().contains("broken.png"));
        assert!(Folder::open(&at("absent"), &classes, [4, 4]).is_err());
    }
}
