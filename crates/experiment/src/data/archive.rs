//! The published archives: what is in them, how long it is and which SHA-256 it has.

use super::error::{Error, Result};
use flate2::read::GzDecoder;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// A data set that can be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Which {
    /// CIFAR-10 (Krizhevsky 2009): 50,000 + 10,000 images of 10 classes.
    Cifar10,
    /// CIFAR-100 (Krizhevsky 2009): 50,000 + 10,000 images of 100 classes.
    Cifar100,
}

/// A `.tar.gz` and the files in it that matter; lengths in bytes, hashes in lowercase hexadecimal.
#[derive(Clone, Copy, Debug)]
pub struct Archive<'a> {
    /// Where it is published.
    pub url: &'a str,
    /// Its file name.
    pub name: &'a str,
    /// The folder that its files are in.
    pub folder: &'a str,
    /// Its length.
    pub length: u64,
    /// Its SHA-256.
    pub sha256: &'a str,
    /// The files that are unpacked; anything else in the archive is passed over.
    pub files: &'a [Member<'a>],
}

/// A file of an archive.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// Name without a folder.
    pub name: &'a str,
    /// Its length.
    pub length: u64,
    /// Its SHA-256.
    pub sha256: &'a str,
}

const CIFAR10: Archive<'static> = Archive {
    url: "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    name: "cifar-10-binary.tar.gz",
    folder: "cifar-10-batches-bin",
    length: 170_052_171,
    sha256: "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    files: &[
        cifar10("data_batch_1.bin", "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5"),
        cifar10("data_batch_2.bin", "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed"),
        cifar10("data_batch_3.bin", "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67"),
        cifar10("data_batch_4.bin", "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48"),
        cifar10("data_batch_5.bin", "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add"),
        cifar10("test_batch.bin", "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"),
    ],
};

const CIFAR100: Archive<'static> = Archive {
    url: "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
    name: "cifar-100-binary.tar.gz",
    folder: "cifar-100-binary",
    length: 168_513_733,
    sha256: "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
    files: &[
        Member {
            name: "train.bin",
            length: 153_700_000,
            sha256: "f31298fc616915fa142368359df1c4ca2ae984d6915ca468b998a5ec6aeebf29",
        },
        Member {
            name: "test.bin",
            length: 30_740_000,
            sha256: "d8b1e6b7b3bee4020055f0699b111f60b1af1e262aeb93a0b659061746f8224a",
        },
    ],
};

const fn cifar10(name: &'static str, sha256: &'static str) -> Member<'static> {
    Member { name, length: 30_730_000, sha256 }
}

impl Which {
    /// The archive it is published as.
    pub const fn archive(self) -> Archive<'static> {
        match self {
            Self::Cifar10 => CIFAR10,
            Self::Cifar100 => CIFAR100,
        }
    }
}

/// What became of checking one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// The published bytes.
    Good,
    /// Not there.
    Missing,
    /// Another length; its hash was not computed.
    WrongLength {
        /// Bytes there.
        found: u64,
    },
    /// The right length, but other bytes.
    WrongHash {
        /// SHA-256, lowercase hexadecimal.
        found: String,
    },
}

/// A file and what became of checking it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// The file.
    pub path: PathBuf,
    /// What it is like.
    pub state: State,
}

/// Checks the unpacked files of a data set by length and SHA-256, in `folder` or the archive's folder inside it.
///
/// # Errors
/// When a file is there but cannot be read.
pub fn verify(which: Which, folder: &Path) -> Result<Vec<Checked>> {
    check(&which.archive(), folder)
}

/// [`verify`] for any archive.
///
/// # Errors
/// When a file is there but cannot be read.
pub fn check(archive: &Archive<'_>, folder: &Path) -> Result<Vec<Checked>> {
    let folder = archive.unpacked(folder).unwrap_or_else(|| folder.to_path_buf());
    let check = |member: &Member<'_>| {
        let path = folder.join(member.name);
        let state = member.check(&path)?;
        Ok(Checked { path, state })
    };
    archive.files.iter().map(check).collect()
}

impl Archive<'_> {
    /// The folder with at least one of the unpacked files: `folder` itself or the archive's own inside it.
    pub(crate) fn unpacked(&self, folder: &Path) -> Option<PathBuf> {
        [folder.to_path_buf(), folder.join(self.folder)]
            .into_iter()
            .find(|folder| self.files.iter().any(|member| folder.join(member.name).is_file()))
    }

    /// Hands each expected file of the archive at `path` to `take`, once each, whatever their order.
    ///
    /// # Errors
    /// When the archive is cut short or damaged, lacks a file, has one twice or at another length, or unpacks to more
    /// than it may; and what `take` returns.
    pub(crate) fn unpack(&self, path: &Path, mut take: impl FnMut(usize, &mut dyn Read) -> Result<()>) -> Result<()> {
        /// Entries and bytes beside the expected files: a read-me, the class names, headers and padding.
        const OTHER_ENTRIES: usize = 64;
        const OTHER_BYTES: u64 = 4 << 20;
        let wrong = |why: String| Error::Archive { path: path.to_path_buf(), why };
        let damaged = |error: io::Error| wrong(format!("it is cut short or damaged ({error})"));

        let file = File::open(path).map_err(|source| Error::io("read", path, source))?;
        let most = self.files.iter().map(|member| member.length).sum::<u64>() + OTHER_BYTES;
        let mut tar = tar::Archive::new(GzDecoder::new(io::BufReader::new(file)).take(most));
        let mut seen = vec![false; self.files.len()];
        for (count, entry) in tar.entries().map_err(damaged)?.enumerate() {
            let mut entry = entry.map_err(damaged)?;
            if count >= self.files.len() + OTHER_ENTRIES {
                return Err(wrong("it has more entries than the original".into()));
            }
            let name = entry.path().map_err(damaged)?.into_owned();
            let inside = name.strip_prefix(self.folder).unwrap_or(&name);
            let Some(at) = self.files.iter().position(|member| inside == Path::new(member.name)) else { continue };
            let member = &self.files[at];
            if !entry.header().entry_type().is_file() || entry.size() != member.length {
                return Err(wrong(format!("{} in it is not a file of {} bytes", member.name, member.length)));
            }
            if std::mem::replace(&mut seen[at], true) {
                return Err(wrong(format!("{} is in it twice", member.name)));
            }
            take(at, &mut entry)?;
        }
        match seen.iter().position(|seen| !seen) {
            Some(at) => Err(wrong(format!("{} is not in it", self.files[at].name))),
            None => Ok(()),
        }
    }
}

impl Member<'_> {
    fn check(&self, path: &Path) -> Result<State> {
        let length = match fs::metadata(path) {
            Ok(there) if there.is_file() => there.len(),
            Ok(_) => return Ok(State::Missing),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(State::Missing),
            Err(error) => return Err(Error::io("read", path, error)),
        };
        if length != self.length {
            return Ok(State::WrongLength { found: length });
        }
        let found = hash(path)?;
        Ok(if found == self.sha256 { State::Good } else { State::WrongHash { found } })
    }
}

/// SHA-256 of a file, lowercase hexadecimal.
///
/// # Errors
/// When it cannot be read.
pub fn hash(path: &Path) -> Result<String> {
    let read = |path: &Path| {
        let (mut file, mut sha) = (File::open(path)?, Sha256::new());
        let mut buffer = vec![0; 1 << 16];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(hexadecimal(&sha.finalize())),
                read => sha.update(&buffer[..read]),
            }
        }
    };
    read(path).map_err(|source| Error::io("read", path, source))
}

pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};

    /// A `.tar.gz` of named files.
    pub(crate) fn pack(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        for (name, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, *bytes).unwrap();
        }
        tar.into_inner().unwrap().finish().unwrap()
    }

    pub(crate) fn sha256(bytes: &[u8]) -> String {
        hexadecimal(&Sha256::digest(bytes))
    }

    const SMALL: Archive<'static> = Archive {
        url: "",
        name: "small.tar.gz",
        folder: "small",
        length: 0,
        sha256: "",
        files: &[
            Member { name: "a.bin", length: 3, sha256: "" },
            Member {
                name: "b.bin",
                length: 3,
                sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            },
        ],
    };

    fn unpacked(bytes: &[u8]) -> Result<Vec<(usize, Vec<u8>)>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), bytes).unwrap();
        let mut taken = Vec::new();
        SMALL.unpack(file.path(), |at, from| {
            let mut bytes = Vec::new();
            from.read_to_end(&mut bytes).unwrap();
            taken.push((at, bytes));
            Ok(())
        })?;
        Ok(taken)
    }

    #[test]
    fn the_expected_files_come_out_and_others_are_passed_over() {
        let archive = pack(&[("small/readme", b"hello"), ("small/b.bin", b"abc"), ("a.bin", b"xyz")]);
        assert_eq!(unpacked(&archive).unwrap(), [(1, b"abc".to_vec()), (0, b"xyz".to_vec())]);
    }

    #[test]
    fn a_wrong_archive_is_refused() {
        let good = pack(&[("small/a.bin", b"abc"), ("small/b.bin", b"abc")]);
        let many: Vec<(&str, &[u8])> = vec![("x", b""); 100];
        let bomb = pack(&[("x", &vec![0; 8 << 20]), ("a.bin", b"abc"), ("b.bin", b"abc")]);
        for (archive, why) in [
            (pack(&[("small/a.bin", b"abc")]), "b.bin is not in it"),
            (pack(&[("other/a.bin", b"abc"), ("b.bin", b"abc")]), "a.bin is not in it"),
            (pack(&[("a.bin", b"abcd"), ("b.bin", b"abc")]), "a.bin in it is not a file of 3 bytes"),
            (pack(&[("a.bin", b"abc"), ("small/a.bin", b"abc")]), "twice"),
            (pack(&many), "more entries"),
            (bomb, "cut short or damaged"),
            (good[..good.len() - 20].to_vec(), "cut short or damaged"),
            (b"not gzip".to_vec(), "cut short or damaged"),
        ] {
            let error = unpacked(&archive).unwrap_err().to_string();
            assert!(error.contains(why), "{error} lacks {why}");
        }
    }

    #[test]
    fn each_file_is_reported() {
        let folder = tempfile::tempdir().unwrap();
        let states = |folder: &Path| -> Vec<State> {
            check(&SMALL, folder).unwrap().into_iter().map(|checked| checked.state).collect()
        };
        assert_eq!(states(folder.path()), [State::Missing, State::Missing]);
        fs::create_dir(folder.path().join("small")).unwrap();
        fs::write(folder.path().join("small/a.bin"), "four").unwrap();
        fs::write(folder.path().join("small/b.bin"), "abc").unwrap();
        assert_eq!(states(folder.path()), [State::WrongLength { found: 4 }, State::Good]);
        fs::write(folder.path().join("small/b.bin"), "abd").unwrap();
        assert!(matches!(states(folder.path())[1], State::WrongHash { .. }));
    }
}
