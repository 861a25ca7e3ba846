//! What can go wrong with a data set: one line each, with the path and what to do.

use std::io;
use std::path::{Path, PathBuf};

/// The result of anything that reads, checks or fetches a data set.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a data set cannot be read, checked or fetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system refused; `doing` is a verb.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// No room to write.
    #[error("the disk is full at {}: free some space or name another folder, then call again", path.display())]
    DiskFull {
        /// The file that could not be written.
        path: PathBuf,
    },
    /// No right to write.
    #[error("{} cannot be written ({source}): change its permissions or name another folder", path.display())]
    Unwritable {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A folder that holds no known data set.
    #[error(
        "{} holds no data set: looked for CIFAR-10 (data_batch_1.bin, in the folder or in cifar-10-batches-bin/, or \
         cifar-10-binary.tar.gz), CIFAR-100 (train.bin, in the folder or in cifar-100-binary/, or \
         cifar-100-binary.tar.gz) and photographs (train/<class>/*.jpg with val/ or test/)",
        path.display()
    )]
    Unrecognised {
        /// The folder or file.
        path: PathBuf,
    },
    /// A folder that holds more than one data set.
    #[error("{} holds both {first} and {second}: move one of them to its own folder", path.display())]
    Ambiguous {
        /// The folder.
        path: PathBuf,
        /// One data set.
        first: &'static str,
        /// The other.
        second: &'static str,
    },
    /// A file of the data set is absent.
    #[error("{} is missing: fetch the data set again", path.display())]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// A file is shorter or longer than the original.
    #[error("{} has {found} bytes instead of {expected}: delete it and fetch the data set again", path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// Bytes of the original.
        expected: u64,
        /// Bytes there.
        found: u64,
    },
    /// A file does not have the bytes of the original.
    #[error(
        "{} has SHA-256 {found} instead of {expected}: its bytes are not the published ones, fetch it again",
        path.display()
    )]
    Hash {
        /// The file, or the URL.
        path: PathBuf,
        /// Lowercase hexadecimal.
        expected: String,
        /// Lowercase hexadecimal.
        found: String,
    },
    /// A label that no class has.
    #[error("{}: image {image} has label {label}, but there are {classes} classes: fetch it again", path.display())]
    Label {
        /// The file.
        path: PathBuf,
        /// Which record of it.
        image: usize,
        /// The label.
        label: u8,
        /// How many classes there are.
        classes: usize,
    },
    /// An archive that is damaged or holds something else.
    #[error("{}: {why}: delete it and fetch it again", path.display())]
    Archive {
        /// The archive.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A photograph that cannot be decoded.
    #[error("{} is not a picture that can be read ({why}): replace or remove it", path.display())]
    Photo {
        /// The file.
        path: PathBuf,
        /// The decoder's reason.
        why: String,
    },
    /// A photograph above the limit; refused before its pixels are allocated.
    #[error("{} is {width}x{height}, above the limit of {limit} pixels: make it smaller or remove it", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Columns.
        width: u32,
        /// Rows.
        height: u32,
        /// Most pixels that are decoded.
        limit: u64,
    },
    /// A folder of photographs whose classes make no sense.
    #[error("{}: {why}", path.display())]
    Classes {
        /// The folder.
        path: PathBuf,
        /// What is wrong and what to do.
        why: String,
    },
    /// More than the memory holds.
    #[error("{} needs {bytes} bytes of memory, which are not there: use fewer or smaller images", path.display())]
    Memory {
        /// The data set.
        path: PathBuf,
        /// Bytes of its pixels.
        bytes: usize,
    },
    /// The server answered with a refusal.
    #[error("{url} answered with HTTP status {status}: check the URL, or name a mirror")]
    Status {
        /// The address.
        url: String,
        /// The status.
        status: u16,
    },
    /// The transfer broke off more often than is tried.
    #[error("{url} could not be fetched in {attempts} attempts ({why}): check the network and call again to resume")]
    Transfer {
        /// The address.
        url: String,
        /// How often it was tried.
        attempts: u32,
        /// The last reason.
        why: String,
    },
}

impl Error {
    /// A system error with its path; a full disk and a missing right get their own words.
    pub(crate) fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path },
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem if doing != "read" => {
                Self::Unwritable { path, source }
            }
            _ => Self::Io { doing, path, source },
        }
    }
}
