//! The names in a folder of generations, its lock, and what is removed from it.

use super::{GENERATIONS, GenerationError};
use crate::{durable, untrusted};
use std::cmp::Reverse;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

const LOCK: &str = "lock";
const WITHDRAWN: &str = ".withdrawn";
/// How long a writer waits for another one.
const PATIENCE: Duration = if cfg!(test) { Duration::from_secs(1) } else { Duration::from_secs(10) };

/// What lies in a folder of generations, by name alone.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// The newest first.
    pub live: Vec<(u64, PathBuf)>,
    /// The newest first.
    pub withdrawn: Vec<(u64, PathBuf)>,
    /// What a crash left.
    pub leftovers: Vec<PathBuf>,
    /// The greatest number that was ever promised, 0 without any: that of a leftover was not, or is a removed one.
    pub highest: u64,
}

impl Names {
    /// Lists a bundle's generations; none where there is no such folder. Names of another form are nobody's concern.
    pub fn read(bundle: &Path) -> Result<Self, GenerationError> {
        let folder = bundle.join(GENERATIONS);
        let mut names = Self::default();
        match fs::symlink_metadata(&folder) {
            Ok(status) if status.is_dir() => {}
            Ok(_) => return Err(GenerationError::NotAFolder { path: folder }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(names),
            Err(error) => return Err(GenerationError::io("read", folder, error)),
        }
        let refused = |error| GenerationError::io("read", &folder, error);
        for entry in fs::read_dir(&folder).map_err(refused)? {
            let entry = entry.map_err(refused)?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let (number, list) = if let Some(number) = number_of(name) {
                (number, &mut names.live)
            } else if let Some(number) = name.strip_suffix(WITHDRAWN).and_then(number_of) {
                (number, &mut names.withdrawn)
            } else {
                if is_leftover(name) {
                    names.leftovers.push(entry.path());
                }
                continue;
            };
            list.push((number, entry.path()));
            names.highest = names.highest.max(number);
        }
        names.live.sort_by_key(|&(number, _)| Reverse(number));
        names.withdrawn.sort_by_key(|&(number, _)| Reverse(number));
        Ok(names)
    }
}

/// Six digits or more, no number in two ways.
pub(super) fn name_of(number: u64) -> String {
    format!("{number:06}")
}

/// Where a generation goes when it is withdrawn.
pub(super) fn withdrawn_of(path: &Path) -> PathBuf {
    with_suffix(path, "", WITHDRAWN)
}

fn number_of(name: &str) -> Option<u64> {
    let number = name.parse().ok().filter(|&number| number > 0)?;
    (name_of(number) == name).then_some(number)
}

/// Whether a name is that of what is written or removed: `.NUMBER.PID.tmp`, `.NUMBER.old`, `.NUMBER.withdrawn.old`.
fn is_leftover(name: &str) -> bool {
    let Some((number, rest)) = name.strip_prefix('.').and_then(|name| name.split_once('.')) else { return false };
    let written = || rest.strip_suffix(".tmp").is_some_and(|pid| pid.parse::<u32>().is_ok());
    number_of(number).is_some() && (matches!(rest, "old" | "withdrawn.old") || written())
}

fn with_suffix(path: &Path, before: &str, after: &str) -> PathBuf {
    let name = path.file_name().and_then(|name| name.to_str()).expect("the name of a generation");
    path.with_file_name(format!("{before}{name}{after}"))
}

/// Makes the folder of generations, to last. A link to one is refused before anything is made behind it.
pub(super) fn make(bundle: &Path) -> Result<PathBuf, GenerationError> {
    let folder = bundle.join(GENERATIONS);
    durable::create_folders(&folder).map_err(|error| GenerationError::io("make", &folder, error))?;
    match fs::symlink_metadata(&folder) {
        Ok(status) if status.is_dir() => Ok(folder),
        Ok(_) => Err(GenerationError::NotAFolder { path: folder }),
        Err(error) => Err(GenerationError::io("read", folder, error)),
    }
}

/// Excludes other writers until the file is closed, by whatever.
pub(super) fn lock(folder: &Path) -> Result<File, GenerationError> {
    let path = folder.join(LOCK);
    let refused = |error| GenerationError::io("lock", &path, error);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let file = untrusted::on_the_spot(&mut options).open(&path).map_err(refused)?;
    let started = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if started.elapsed() < PATIENCE => sleep(Duration::from_millis(5)),
            Err(TryLockError::WouldBlock) => return Err(GenerationError::Locked { path }),
            Err(TryLockError::Error(error)) => return Err(refused(error)),
        }
    }
}

/// Removes a generation: its name goes in one step, what lies under it afterwards.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    let hidden = with_suffix(path, ".", ".old");
    gone(clear(&hidden))?;
    fs::rename(path, &hidden)?;
    clear(&hidden)
}

/// Removes what a crash left, and what was withdrawn: the highest number keeps its empty folder, so that it is not used
/// again. What cannot be removed stays for the next time.
pub(super) fn tidy(names: &Names) {
    for path in &names.leftovers {
        let _ = clear(path);
    }
    for (number, path) in &names.withdrawn {
        if *number < names.highest {
            let _ = remove(path);
        } else if fs::symlink_metadata(path).is_ok_and(|status| status.is_dir()) {
            for entry in fs::read_dir(path).into_iter().flatten().flatten() {
                let _ = clear(&entry.path());
            }
        } else {
            // Not of our making: a link, which leads who knows where, or a file.
            let _ = clear(path).and_then(|()| fs::create_dir(path));
        }
    }
}

/// Removes a file, a link or a folder with all that is in it.
fn clear(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Withdraws a generation by its name; lasting after the folder is synced.
pub(super) fn withdraw(path: &Path) -> io::Result<()> {
    let withdrawn = withdrawn_of(path);
    // Not of our making: two folders of one number.
    gone(remove(&withdrawn))?;
    fs::rename(path, &withdrawn)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_one_name() {
        for number in [1, 999_999, 1_000_000, u64::MAX] {
            assert_eq!(number_of(&name_of(number)), Some(number));
        }
        for name in ["000000", "1", "0000001", "+00001", "00000a", "", "1000000.", "99999999999999999999"] {
            assert_eq!(number_of(name), None, "{name}");
        }
        for name in [".000003.12.tmp", ".000003.old", ".000003.withdrawn.old"] {
            assert!(is_leftover(name), "{name}");
        }
        for name in [".3.old", "000003.old", ".000003.tmp", ".000003.x.tmp", ".000003.old.old", ".git"] {
            assert!(!is_leftover(name), "{name}");
        }
    }
}
