//! CIFAR-10 and CIFAR-100 (Krizhevsky 2009) from the original binary files or the original archives.
//!
//! A record is the label (CIFAR-100: coarse, then fine) and 3072 bytes, the red plane first, then green, then blue.

use super::archive::Which;
use super::error::{Error, Result};
use super::{Images, Split};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;

/// Where the files of a CIFAR data set are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Folder(PathBuf),
    Archive(PathBuf),
}

impl Source {
    /// Looks at names alone: a folder with any of the files, or an archive, named or in the folder.
    pub(crate) fn find(which: Which, path: &Path) -> Option<Self> {
        let archive = which.archive();
        if path.is_file() {
            return (path.file_name()? == archive.name).then(|| Self::Archive(path.into()));
        }
        archive.unpacked(path).map(Self::Folder).or_else(|| {
            let packed = path.join(archive.name);
            packed.is_file().then_some(Self::Archive(packed))
        })
    }
}

/// Reads a CIFAR data set from a folder with its `.bin` files (in it or in the archive's folder inside it) or with its
/// archive, or from the archive named itself. CIFAR-100 gets its fine labels. Hashes are not checked here
/// ([`super::archive::verify`] does), lengths and labels are.
///
/// # Errors
/// When a file is missing, cut short, too long or unreadable, or a label is out of range.
pub fn read(which: Which, path: &Path) -> Result<Split> {
    let archive = which.archive();
    match Source::find(which, path) {
        None => Err(Error::Missing { path: path.join(archive.files[0].name) }),
        Some(Source::Folder(folder)) => {
            let mut split = Split { train: empty(which), test: empty(which) };
            for (at, member) in archive.files.iter().enumerate() {
                let path = folder.join(member.name);
                let bytes = whole(&path, member.length)?;
                append(part(which, &mut split, at), which, &bytes, &path)?;
            }
            Ok(split)
        }
        Some(Source::Archive(packed)) => {
            // The archive keeps no order: the files wait until all are there, then go in theirs.
            let mut files = vec![Vec::new(); archive.files.len()];
            archive.unpack(&packed, |at, from| {
                from.read_to_end(&mut files[at]).map_err(|error| Error::Archive {
                    path: packed.clone(),
                    why: format!("it is cut short or damaged ({error})"),
                })?;
                Ok(())
            })?;
            let mut split = Split { train: empty(which), test: empty(which) };
            for (at, bytes) in files.into_iter().enumerate() {
                let path = packed.join(archive.files[at].name);
                append(part(which, &mut split, at), which, &bytes, &path)?;
            }
            Ok(split)
        }
    }
}

/// The last file of either archive is the test part.
fn part(which: Which, split: &mut Split, at: usize) -> &mut Images {
    if at + 1 == which.archive().files.len() { &mut split.test } else { &mut split.train }
}

fn empty(which: Which) -> Images {
    let classes: &[&str] = match which {
        Which::Cifar10 => &CIFAR10_CLASSES,
        Which::Cifar100 => &CIFAR100_CLASSES,
    };
    Images {
        height: SIDE,
        width: SIDE,
        classes: classes.iter().map(ToString::to_string).collect(),
        ..Images::default()
    }
}

/// A whole file whose length is known before it is read.
fn whole(path: &Path, expected: u64) -> Result<Vec<u8>> {
    let there = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Error::Missing { path: path.into() }),
        there => there.map_err(|source| Error::io("read", path, source))?,
    };
    let length = |found| Error::Length { path: path.into(), expected, found };
    if there.len() != expected {
        return Err(length(there.len()));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|source| Error::io("read", path, source))?;
    file.take(expected + 1).read_to_end(&mut bytes).map_err(|source| Error::io("read", path, source))?;
    if bytes.len() as u64 == expected { Ok(bytes) } else { Err(length(bytes.len() as u64)) }
}

/// Appends records to images: the planes are interleaved and the (fine) label is checked.
fn append(images: &mut Images, which: Which, records: &[u8], path: &Path) -> Result<()> {
    let label_bytes = match which {
        Which::Cifar10 => 1,
        Which::Cifar100 => 2,
    };
    let count = records.len() / (label_bytes + 3 * PLANE);
    images.labels.reserve(count);
    images.pixels.reserve(count * 3 * PLANE);
    for (image, record) in records.chunks_exact(label_bytes + 3 * PLANE).enumerate() {
        let (labels, planes) = record.split_at(label_bytes);
        let label = labels[label_bytes - 1];
        if usize::from(label) >= images.classes.len() {
            return Err(Error::Label { path: path.into(), image, label, classes: images.classes.len() });
        }
        images.labels.push(u16::from(label));
        let (red, rest) = planes.split_at(PLANE);
        let (green, blue) = rest.split_at(PLANE);
        let interleaved = red.iter().zip(green).zip(blue).flat_map(|((&r, &g), &b)| [r, g, b]);
        images.pixels.extend(interleaved);
    }
    Ok(())
}

/// Names of CIFAR-10's classes, in the order of the labels.
pub const CIFAR10_CLASSES: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

/// Names of CIFAR-100's fine classes, in the order of the labels.
#[rustfmt::skip]
pub const CIFAR100_CLASSES: [&str; 100] = [
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle",
    "bowl", "boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle",
    "chair", "chimpanzee", "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur",
    "dolphin", "elephant", "flatfish", "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard",
    "lamp", "lawn_mower", "leopard", "lion", "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain",
    "mouse", "mushroom", "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree",
    "plain", "plate", "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road", "rocket",
    "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper", "snail", "snake", "spider",
    "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone", "television", "tiger",
    "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf", "woman", "worm",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::archive::tests::pack;
    use crate::data::{Data, Kind};

    /// A record file of the original length: image `i` has label `i % classes` and planes of 3 flat bytes.
    fn records(which: Which, length: u64) -> Vec<u8> {
        let label_bytes = if which == Which::Cifar10 { 1 } else { 2 };
        let classes = if which == Which::Cifar10 { 10 } else { 100 };
        let count = usize::try_from(length).unwrap() / (label_bytes + 3 * PLANE);
        (0..count)
            .flat_map(|i| {
                let labels = vec![(i % classes) as u8; label_bytes];
                let planes = [10u8, 20, 30].into_iter().flat_map(|value| vec![value; PLANE]);
                labels.into_iter().chain(planes).collect::<Vec<_>>()
            })
            .collect()
    }

    fn check(split: &Split, classes: usize) {
        assert_eq!((split.train.len(), split.test.len()), (50_000, 10_000));
        assert_eq!(split.train.classes.len(), classes);
        assert_eq!(&split.test.image(9_999)[..6], [10, 20, 30, 10, 20, 30]);
        assert_eq!(split.train.pixels.len(), 50_000 * 3072);
        assert_eq!(usize::from(split.test.labels[9_999]), 9_999 % classes);
    }

    #[test]
    fn folders_and_archives_are_read() {
        for which in [Which::Cifar10, Which::Cifar100] {
            let archive = which.archive();
            let folder = tempfile::tempdir().unwrap();
            let files: Vec<_> = archive.files.iter().map(|file| (file.name, records(which, file.length))).collect();
            let classes = if which == Which::Cifar10 { 10 } else { 100 };

            let inside = folder.path().join(archive.folder);
            fs::create_dir(&inside).unwrap();
            for (name, bytes) in &files {
                fs::write(inside.join(name), bytes).unwrap();
            }
            check(&Data::open(folder.path()).unwrap().split, classes);
            check(&Data::open(&inside).unwrap().split, classes);
            fs::remove_dir_all(inside).unwrap();

            let named: Vec<_> =
                files.iter().map(|(name, bytes)| (format!("{}/{name}", archive.folder), bytes)).collect();
            let named: Vec<_> = named.iter().rev().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
            fs::write(folder.path().join(archive.name), pack(&named)).unwrap();
            check(&Data::open(folder.path()).unwrap().split, classes);
            check(&Data::open(&folder.path().join(archive.name)).unwrap().split, classes);
        }
    }

    #[test]
    fn bad_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data_batch_1.bin");
        let refused = || cifar10_error(folder.path());
        fs::write(&path, b"short").unwrap();
        assert!(matches!(refused(), Error::Length { found: 5, expected: 30_730_000, .. }));
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert!(matches!(refused(), Error::Length { found, .. } if found == 1 << 40));
        let mut bytes = records(Which::Cifar10, 30_730_000);
        fs::write(&path, &bytes).unwrap();
        let error = refused();
        assert!(matches!(&error, Error::Missing { path } if path.ends_with("data_batch_2.bin")), "{error}");
        bytes[3073] = 10;
        fs::write(&path, &bytes).unwrap();
        let error = refused();
        assert!(matches!(&error, Error::Label { image: 1, label: 10, classes: 10, .. }), "{error}");
        assert!(error.to_string().contains("data_batch_1.bin"));
    }

    fn cifar10_error(path: &Path) -> Error {
        Data::open(path).unwrap_err()
    }

    #[test]
    fn the_real_data_set_is_read() {
        let root = std::env::var_os("GABION_DATA").map(PathBuf::from);
        let folder = root.map(|root| if root.join("cifar10").is_dir() { root.join("cifar10") } else { root });
        let Some(folder) = folder.filter(|folder| Source::find(Which::Cifar10, folder).is_some()) else {
            println!("skipped: GABION_DATA names no folder with CIFAR-10");
            return;
        };
        let data = Data::open(&folder).unwrap();
        assert_eq!(data.kind, Kind::Cifar10);
        assert_eq!((data.split.train.len(), data.split.test.len()), (50_000, 10_000));
        let counts = |images: &Images| (0..10).map(|c| images.labels.iter().filter(|&&l| l == c).count()).collect();
        let (train, test): (Vec<_>, Vec<_>) = (counts(&data.split.train), counts(&data.split.test));
        assert_eq!((train, test), (vec![5_000; 10], vec![1_000; 10]));
        // The first training image is the frog: label 6, top left pixel (59, 62, 63).
        assert_eq!((data.split.train.labels[0], &data.split.train.image(0)[..3]), (6, &[59, 62, 63][..]));
    }
}
