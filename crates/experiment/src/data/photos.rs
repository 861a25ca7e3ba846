//! Folders of photographs, laid out as ImageNet is: `train/<class>/*.jpg` with `val/<class>/*.jpg` (or `test/`).
//!
//! A picture becomes RGB of one size: it is turned as its EXIF says, what is transparent is laid on white (as a page
//! shows it; dropping alpha would show whatever colour lies hidden under it, often black), grey becomes three equal
//! channels, 16 bits become 8, the largest centred part of the wanted shape is cut out and resampled with a triangle
//! filter that widens when shrinking (antialiased, as Pillow's bilinear). The result equals "resize the short side,
//! crop the centre" up to the filter's reach over the crop's edge, and no strip of a picture can blow up.

use super::error::{Error, Result};
use super::{Images, Split};
use gabion_runtime::{PictureError, Rgb};
use rayon::prelude::*;
use std::collections::TryReserveError;
use std::fs;
use std::path::{Path, PathBuf};

/// How photographs are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Photos {
    /// Rows of the stored images.
    pub height: usize,
    /// Columns of the stored images.
    pub width: usize,
    /// Most pixels of a picture that is decoded; a larger one is an error before its pixels are allocated.
    pub most_pixels: u64,
}

impl Default for Photos {
    fn default() -> Self {
        Self { height: 64, width: 64, most_pixels: 100_000_000 }
    }
}

/// The folders of the two parts, when both are there; `val` before `test`, whose labels ImageNet does not publish.
pub(crate) fn parts(path: &Path) -> Option<[PathBuf; 2]> {
    let train = Some(path.join("train")).filter(|folder| folder.is_dir())?;
    let test = ["val", "test"].map(|name| path.join(name)).into_iter().find(|folder| folder.is_dir())?;
    Some([train, test])
}

impl Photos {
    /// Reads both parts. Classes are the folders of `train`, sorted by name; files are sorted by name within a class.
    /// Files with other endings than png, jpg, jpeg and webp, and hidden ones, are passed over.
    ///
    /// # Errors
    /// When a folder or a picture cannot be read, a class is empty, the test part has a class that the training part
    /// lacks, or the images do not fit the memory.
    ///
    /// # Panics
    /// When the size is 0.
    pub fn read(&self, path: &Path) -> Result<Split> {
        assert!(self.height > 0 && self.width > 0, "{}x{} holds no pixel", self.height, self.width);
        let Some([train, test]) = parts(path) else {
            return Err(Error::Unrecognised { path: path.into() });
        };
        let classes = folders(&train)?;
        if classes.is_empty() || classes.len() > usize::from(u16::MAX) {
            let why = format!("{} class folders, where 1 to 65535 can be read", classes.len());
            return Err(Error::Classes { path: train, why });
        }
        Ok(Split { train: self.part(&train, &classes)?, test: self.part(&test, &classes)? })
    }

    fn part(&self, folder: &Path, classes: &[String]) -> Result<Images> {
        let mut files = Vec::new();
        let mut labels = Vec::new();
        for name in folders(folder)? {
            let inside = folder.join(&name);
            let Ok(label) = classes.binary_search(&name) else {
                let why = "train has no class of this name: add it there or remove it here".into();
                return Err(Error::Classes { path: inside, why });
            };
            let pictures = pictures(&inside)?;
            if pictures.is_empty() {
                let why = "no .png, .jpg, .jpeg or .webp in it: add some or remove the folder".into();
                return Err(Error::Classes { path: inside, why });
            }
            labels.resize(labels.len() + pictures.len(), u16::try_from(label).expect("at most 65535 classes"));
            files.extend(pictures);
        }
        if files.is_empty() {
            let why = "no class folder in it: lay pictures out as <class>/<name>.jpg".into();
            return Err(Error::Classes { path: folder.into(), why });
        }
        let stride = self.height * self.width * 3;
        let bytes = files.len().saturating_mul(stride);
        let mut pixels = Vec::new();
        pixels.try_reserve_exact(bytes).map_err(|_: TryReserveError| Error::Memory { path: folder.into(), bytes })?;
        pixels.resize(bytes, 0);
        pixels.par_chunks_exact_mut(stride).zip(&files).try_for_each(|(into, path)| {
            into.copy_from_slice(&self.picture(path)?);
            Ok(())
        })?;
        Ok(Images { pixels, height: self.height, width: self.width, labels, classes: classes.to_vec() })
    }

    /// Reads one picture as `[height, width, 3]`.
    ///
    /// # Errors
    /// When it cannot be read or decoded, or is above the limit.
    pub fn picture(&self, path: &Path) -> Result<Vec<u8>> {
        let picture = Rgb::open_within(path, self.most_pixels).map_err(|error| match error {
            PictureError::Io { path, source } => Error::io("read", &path, source),
            PictureError::TooLarge { path, width, height, limit } => Error::TooLarge { path, width, height, limit },
            PictureError::Undecodable { path, why } => Error::Photo { path, why },
            error => Error::Photo { path: path.into(), why: error.to_string() },
        })?;
        Ok(picture.centre(self.height, self.width).pixels)
    }
}

/// Names of the folders in a folder, sorted.
fn folders(path: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for (name, inside) in entries(path)? {
        if inside.is_dir() {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// The pictures in a folder, sorted.
fn pictures(path: &Path) -> Result<Vec<PathBuf>> {
    let is_picture = |path: &PathBuf| {
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or("").to_ascii_lowercase();
        matches!(&*ending, "png" | "jpg" | "jpeg" | "webp") && path.is_file()
    };
    let mut pictures: Vec<_> = entries(path)?.into_iter().map(|(_, path)| path).filter(is_picture).collect();
    pictures.sort_unstable();
    Ok(pictures)
}

/// What is in a folder but hidden; a name that is not Unicode is an error.
fn entries(path: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path).map_err(|source| Error::io("read", path, source))? {
        let inside = entry.map_err(|source| Error::io("read", path, source))?.path();
        let name = inside.file_name().and_then(|name| name.to_str());
        let Some(name) = name.map(str::to_owned) else {
            return Err(Error::Classes { path: inside, why: "the name is not Unicode: rename it".into() });
        };
        if !name.starts_with('.') {
            found.push((name, inside));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Data, Kind};
    use image::{DynamicImage, GrayImage, ImageBuffer, Luma, Rgb, RgbImage, Rgba, RgbaImage};

    const SMALL: Photos = Photos { height: 4, width: 4, most_pixels: 1_000_000 };

    fn read(picture: &DynamicImage, name: &str) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        picture.save(&path).unwrap();
        SMALL.picture(&path).unwrap()
    }

    #[test]
    fn a_layout_is_read_in_the_order_of_names() {
        let folder = tempfile::tempdir().unwrap();
        let save = |name: &str, value: u8| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            RgbImage::from_pixel(9, 5, Rgb([value; 3])).save(path).unwrap();
        };
        save("train/wolf/2.png", 2);
        save("train/wolf/1.webp", 1);
        save("train/ant/3.JPG", 200);
        save("val/wolf/x.png", 7);
        fs::write(folder.path().join("train/ant/notes.txt"), "no picture").unwrap();
        fs::write(folder.path().join("train/.DS_Store"), "").unwrap();
        let data = Data::open_with(folder.path(), &SMALL).unwrap();
        assert_eq!(data.kind, Kind::Photos);
        assert_eq!(data.split.train.classes, ["ant", "wolf"]);
        assert_eq!(data.split.train.labels, [0, 1, 1]);
        assert_eq!((data.split.train.image(1), data.split.train.image(2)), (&[1; 48][..], &[2; 48][..]));
        assert_eq!((data.split.test.labels, data.split.test.pixels), (vec![1], vec![7; 48]));

        save("val/cat/x.png", 7);
        let error = Data::open_with(folder.path(), &SMALL).unwrap_err().to_string();
        assert!(error.contains("cat") && error.contains("train has no class"), "{error}");
        fs::remove_dir_all(folder.path().join("val/cat")).unwrap();
        fs::write(folder.path().join("train/ant/bad.png"), "no picture").unwrap();
        let error = Data::open_with(folder.path(), &SMALL).unwrap_err().to_string();
        assert!(error.contains("bad.png") && !error.contains('\n'), "{error}");
        fs::remove_dir_all(folder.path().join("train/ant")).unwrap();
        fs::create_dir(folder.path().join("train/ant")).unwrap();
        let error = Data::open_with(folder.path(), &SMALL).unwrap_err().to_string();
        assert!(error.contains("ant") && error.contains(".webp"), "{error}");
    }

    #[test]
    fn every_pixel_format_becomes_rgb() {
        assert_eq!(read(&GrayImage::from_pixel(8, 8, Luma([90])).into(), "grey.png"), [90; 48]);
        let deep: ImageBuffer<Rgb<u16>, _> = ImageBuffer::from_pixel(8, 8, Rgb([0, 0x8080, 0xFFFF]));
        assert_eq!(read(&deep.into(), "deep.png")[..3], [0, 128, 255]);
        let deep: ImageBuffer<Luma<u16>, _> = ImageBuffer::from_pixel(8, 8, Luma([0x4040]));
        assert_eq!(read(&deep.into(), "deep.png"), [64; 48]);
        // Transparent black is white, half of it is grey, an opaque pixel stays.
        for (pixel, expected) in [([0, 0, 0, 0], [255; 3]), ([0, 0, 0, 128], [127; 3]), ([9, 8, 7, 255], [9, 8, 7])] {
            assert_eq!(read(&RgbaImage::from_pixel(4, 4, Rgba(pixel)).into(), "alpha.png")[..3], expected);
        }
    }

    #[test]
    fn any_shape_fits() {
        assert_eq!(read(&RgbImage::from_pixel(1, 1, Rgb([3, 4, 5])).into(), "one.png"), [3, 4, 5].repeat(16));
        assert_eq!(read(&RgbImage::from_pixel(1, 20_000, Rgb([3; 3])).into(), "tall.png"), [3; 48]);
        assert_eq!(read(&RgbImage::from_pixel(20_000, 1, Rgb([3; 3])).into(), "wide.png"), [3; 48]);
        // The centre is kept: columns 3..7 of 10 as they are.
        let ramp = RgbImage::from_fn(10, 4, |x, _| Rgb([x as u8 * 10; 3]));
        let row: Vec<u8> = read(&ramp.into(), "ramp.png")[..12].iter().step_by(3).copied().collect();
        assert_eq!(row, [30, 40, 50, 60]);
        // Shrinking averages: a fine checkerboard becomes grey.
        let fine = RgbImage::from_fn(64, 64, |x, y| Rgb([if (x + y) % 2 == 0 { 255 } else { 0 }; 3]));
        assert!(read(&fine.into(), "fine.png").iter().all(|value| (125..131).contains(value)));
    }

    #[test]
    fn a_huge_picture_is_refused_by_its_header() {
        // A PNG whose header promises 20,000 x 20,000 pixels and whose data is a few bytes.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("huge.png");
        RgbImage::new(1, 1).save(&path).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        bytes[16..24].copy_from_slice(&[0, 0, 0x4E, 0x20, 0, 0, 0x4E, 0x20]);
        let mut crc = flate2::Crc::new();
        crc.update(&bytes[12..29]);
        bytes[29..33].copy_from_slice(&crc.sum().to_be_bytes());
        fs::write(&path, bytes).unwrap();
        let error = Photos::default().picture(&path).unwrap_err();
        assert!(matches!(error, Error::TooLarge { width: 20_000, height: 20_000, .. }), "{error}");
        assert!(error.to_string().contains("huge.png"));
    }
}
