//! Data sets: whole in memory, every image of one size, read from files, drawn from a seed or fetched.
//!
//! | module | subject |
//! |---|---|
//! | (here) | [`Images`], [`Split`], [`Data::open`] |
//! | [`cifar`] | CIFAR-10 and CIFAR-100 from `.bin` files or the original archives |
//! | [`photos`] | folders of photographs, `train/<class>/*.jpg` |
//! | [`synth`] | an embedded set of ten drawn shapes, no files |
//! | [`archive`] | what the published archives hold, and [`archive::verify`] |
//! | [`fetch`] | download, check, unpack |
//! | [`order`] | epoch orders and subsets that a seed decides |
//! | [`prefetch`] | batches prepared ahead by other threads |
//!
//! Nothing here reads the environment or a clock that decides a result.

pub mod archive;
pub mod cifar;
mod error;
pub mod fetch;
pub mod order;
pub mod photos;
pub mod prefetch;
pub mod synth;
mod unpack;

pub use error::{Error, Result};

use archive::Which;
use photos::Photos;
use std::path::Path;
use synth::Synth;

/// Labelled images of one size, 8 bits a channel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Images {
    /// `[len, height, width, 3]`, RGB.
    pub pixels: Vec<u8>,
    /// Rows of an image.
    pub height: usize,
    /// Columns of an image.
    pub width: usize,
    /// The class of each image, an index into `classes`.
    pub labels: Vec<u16>,
    /// Names of the classes.
    pub classes: Vec<String>,
}

impl Images {
    /// How many images there are.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Bytes of one image: `height * width * 3`.
    pub fn stride(&self) -> usize {
        self.height * self.width * 3
    }

    /// The pixels of one image, `[height, width, 3]`.
    ///
    /// # Panics
    /// When there is no such image.
    pub fn image(&self, index: usize) -> &[u8] {
        &self.pixels[index * self.stride()..][..self.stride()]
    }

    /// The images at `indices`, in that order.
    ///
    /// # Panics
    /// When an index is past the end.
    pub fn select(&self, indices: &[usize]) -> Self {
        let mut pixels = Vec::with_capacity(indices.len() * self.stride());
        for &index in indices {
            pixels.extend_from_slice(self.image(index));
        }
        Self {
            pixels,
            height: self.height,
            width: self.width,
            labels: indices.iter().map(|&index| self.labels[index]).collect(),
            classes: self.classes.clone(),
        }
    }

    /// `count` images, the same number of each class as far as that goes ([`order::stratified`]).
    pub fn stratified(&self, count: usize, seed: u64) -> Self {
        self.select(&order::stratified(&self.labels, count, seed))
    }
}

/// The two parts of a data set. Both have the same image size and the same class names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// To train on.
    pub train: Images,
    /// To test on.
    pub test: Images,
}

/// Where images come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// CIFAR-10.
    Cifar10,
    /// CIFAR-100 with its fine labels.
    Cifar100,
    /// A folder of photographs.
    Photos,
    /// Drawn by [`Synth`].
    Synth,
}

impl Kind {
    /// A name for reports and manifests.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cifar10 => "cifar10",
            Self::Cifar100 => "cifar100",
            Self::Photos => "photos",
            Self::Synth => "synth",
        }
    }

    /// What a folder or an archive holds, by the names of the files in it.
    ///
    /// # Errors
    /// [`Error::Unrecognised`] with what was looked for; [`Error::Ambiguous`] when it holds more than one kind.
    pub fn detect(path: &Path) -> Result<Self> {
        std::fs::metadata(path).map_err(|source| Error::io("read", path, source))?;
        let mut found = Vec::new();
        for (which, kind) in [(Which::Cifar10, Self::Cifar10), (Which::Cifar100, Self::Cifar100)] {
            if cifar::Source::find(which, path).is_some() {
                found.push(kind);
            }
        }
        if photos::parts(path).is_some() {
            found.push(Self::Photos);
        }
        match found[..] {
            [] => Err(Error::Unrecognised { path: path.into() }),
            [kind] => Ok(kind),
            [first, second, ..] => {
                Err(Error::Ambiguous { path: path.into(), first: first.name(), second: second.name() })
            }
        }
    }
}

/// A data set with its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Data {
    /// Where it came from.
    pub kind: Kind,
    /// The images.
    pub split: Split,
}

impl Data {
    /// Reads whatever data set a folder or archive holds; photographs at the default size of [`Photos`].
    ///
    /// # Errors
    /// See [`Data::open_with`].
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_with(path, &Photos::default())
    }

    /// Reads whatever data set a folder or archive holds.
    ///
    /// # Errors
    /// When the folder cannot be read or holds no data set that is known, or a file of it is missing, cut short, too
    /// long or out of range; the error names the file and what to do.
    pub fn open_with(path: &Path, photos: &Photos) -> Result<Self> {
        let kind = Kind::detect(path)?;
        let split = match kind {
            Kind::Cifar10 => cifar::read(Which::Cifar10, path)?,
            Kind::Cifar100 => cifar::read(Which::Cifar100, path)?,
            Kind::Photos => photos.read(path)?,
            Kind::Synth => unreachable!("no folder is detected as the drawn set"),
        };
        Ok(Self { kind, split })
    }

    /// Draws the embedded data set.
    pub fn synth(synth: &Synth) -> Self {
        Self { kind: Kind::Synth, split: synth.draw() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selection_keeps_pixels_with_labels() {
        let images = Images {
            pixels: (0..24).collect(),
            height: 1,
            width: 2,
            labels: vec![0, 1, 0, 1],
            classes: vec!["a".into(), "b".into()],
        };
        let two = images.select(&[3, 0]);
        assert_eq!(two.pixels, [18, 19, 20, 21, 22, 23, 0, 1, 2, 3, 4, 5]);
        assert_eq!(two.labels, [1, 0]);
        assert_eq!(images.stratified(2, 9).labels.len(), 2);
        assert!(images.select(&[]).is_empty());
    }

    #[test]
    fn a_folder_without_data_says_what_was_looked_for() {
        let folder = tempfile::tempdir().unwrap();
        let error = Data::open(folder.path()).unwrap_err().to_string();
        for part in [folder.path().to_str().unwrap(), "data_batch_1.bin", "cifar-100-binary.tar.gz", "train/"] {
            assert!(error.contains(part), "{error}");
        }
        assert!(!error.contains('\n'));
        let error = Data::open(&folder.path().join("absent")).unwrap_err().to_string();
        assert!(error.contains("absent"), "{error}");
    }

    #[test]
    fn two_data_sets_in_one_folder_are_not_guessed_between() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("test_batch.bin"), b"").unwrap();
        std::fs::write(folder.path().join("train.bin"), b"").unwrap();
        let error = Data::open(folder.path()).unwrap_err();
        assert!(matches!(error, Error::Ambiguous { first: "cifar10", second: "cifar100", .. }), "{error}");
    }
}
