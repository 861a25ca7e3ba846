//! What can be wrong with a generation, and why generations cannot be opened, written or withdrawn.

use super::Source;
use crate::BundleError;
use crate::signature::SignatureError;
use gabion_spec::one_line;
use std::io;
use std::path::PathBuf;

/// Why a generation is passed over.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// A file or a link where the folder should be.
    #[error("{} is not a folder", path.display())]
    NotAFolder {
        /// What lies there.
        path: PathBuf,
    },
    /// A record that is missing or cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A record that is not what was written.
    #[error("{} is damaged ({})", path.display(), one_line(why))]
    Record {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A folder under the name of another generation.
    #[error("its record is that of generation {found}: the folder was renamed")]
    Number {
        /// What the record says.
        found: u64,
    },
    /// Adapted from other weights than the bundle's.
    #[error("it was adapted from the base with SHA-256 {}, this one has {}", one_line(found), one_line(expected))]
    OtherBase {
        /// From the record.
        found: String,
        /// From the base's manifest.
        expected: String,
    },
    /// A manifest that is not what was written.
    #[error("{} has SHA-256 {found}, its record says {}", path.display(), one_line(expected))]
    Manifest {
        /// The file.
        path: PathBuf,
        /// From the record.
        expected: String,
        /// Lowercase hexadecimal.
        found: String,
    },
    /// A generation for something else than its base.
    #[error("`{key}` is not its base's: adaptation changes weights alone")]
    Differs {
        /// The manifest's key.
        key: &'static str,
    },
    /// A signature that is required and does not count.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// What is wrong with it as a bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// A manifest that was another one when it was read again.
    #[error("it changed while it was opened")]
    Changed,
}

/// Why generations cannot be opened, written or withdrawn: one line each, with what to do. What was served before still is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GenerationError {
    /// The base cannot be opened, or what was to become a generation cannot be written.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The base is not trusted.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// The base's manifest was another one when it was read again.
    #[error("{} changed while it was opened: open it again", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was tried, a verb.
        doing: &'static str,
        /// On which folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// No room.
    #[error("cannot {doing} {}, there is no room ({source}): free some, the earlier weights are untouched", path.display())]
    Full {
        /// What was tried, a verb.
        doing: &'static str,
        /// On which folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A folder that cannot be written.
    #[error("cannot {doing} {}, it cannot be written ({source}): let this user write it, the earlier weights are untouched", path.display())]
    ReadOnly {
        /// What was tried, a verb.
        doing: &'static str,
        /// On which folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Another process writes.
    #[error("{} is held by another process: try again when it is done", path.display())]
    Locked {
        /// The lock.
        path: PathBuf,
    },
    /// A file or a link where the folder of generations should be.
    #[error("{} is not a folder: remove it", path.display())]
    NotAFolder {
        /// What lies there.
        path: PathBuf,
    },
    /// What was adapted is not served any more.
    #[error("{parent} was withdrawn or replaced meanwhile: adapt again from what is served now")]
    Parent {
        /// What was adapted.
        parent: Source,
    },
    /// The base was replaced while its weights were adapted.
    #[error("the weights of {} have SHA-256 {found}, {expected} was adapted: adapt again from what is served now", path.display())]
    BaseChanged {
        /// The bundle.
        path: PathBuf,
        /// Of what was adapted.
        expected: String,
        /// From the base's manifest.
        found: String,
    },
    /// An adaptation that nobody would be served.
    #[error("what is adapted here is signed by nobody, and signatures are required: add --local-generations")]
    Unsigned,
    /// What was to be written does not pass its own checks.
    #[error("the new generation would not open ({why}): nothing was kept")]
    Unsound {
        /// What is wrong with it.
        why: Box<Fault>,
    },
    /// A rollback to what is not there.
    #[error("generation {number} cannot be served ({why}): choose another, or base")]
    Target {
        /// Which one was asked for.
        number: u64,
        /// Why it cannot be.
        why: String,
    },
    /// Numbers have run out.
    #[error("{} holds the number {highest}, beyond which there is none: remove that folder", path.display())]
    Exhausted {
        /// The folder of generations.
        path: PathBuf,
        /// The greatest number there.
        highest: u64,
    },
}

impl GenerationError {
    /// The system's refusal, sorted by what can be done about it.
    pub(super) fn io(doing: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        use io::ErrorKind::{FileTooLarge, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        let path = path.into();
        match source.kind() {
            StorageFull | QuotaExceeded | FileTooLarge => Self::Full { doing, path, source },
            ReadOnlyFilesystem | PermissionDenied => Self::ReadOnly { doing, path, source },
            _ => Self::Io { doing, path, source },
        }
    }
}
