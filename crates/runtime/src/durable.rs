//! Files that are written whole or not at all: temporary file, fsync, rename, fsync of the folder.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Writes `bytes` to `path`, which holds its old content or all of the new one whenever the program or the machine
/// stops. A link is followed; what is no file (a pipe, a device) is written to as it is. Threads of a process must not
/// write the same path at once: the temporary file is named after the process.
///
/// # Errors
/// Whatever the system refuses; `path` is as it was and no temporary file is left.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_with(path, |file| file.write_all(bytes))
}

/// [`write()`] of what `content` writes.
///
/// # Errors
/// Whatever the system refuses or `content` returns; `path` is as it was and no temporary file is left.
pub fn write_with(path: &Path, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let resolved = match fs::metadata(path) {
        Ok(found) if !found.is_file() && !found.is_dir() => {
            let mut stream = BufWriter::new(OpenOptions::new().write(true).open(path)?);
            content(&mut stream)?;
            return stream.flush();
        }
        Ok(_) => fs::canonicalize(path)?,
        Err(_) => path.to_path_buf(),
    };
    replace(&resolved, content)
}

/// [`write()`] into a folder that others may have filled: what lies under the name, be it a link, is replaced and not
/// followed.
///
/// # Errors
/// Whatever the system refuses; `path` is as it was and no temporary file is left.
pub fn write_here(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(path, |file| file.write_all(bytes))
}

/// Gives a new file this very name.
fn replace(path: &Path, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut temporary = Temporary { path: temporary_of(path)?, renamed: false };
    // What lies under this name was left by a crashed process of the same number.
    let _ = fs::remove_file(&temporary.path);
    let mut file = BufWriter::new(OpenOptions::new().write(true).create_new(true).open(&temporary.path)?);
    content(&mut file)?;
    file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    fs::rename(&temporary.path, path)?;
    temporary.renamed = true;
    sync_folder(folder_of(path))
}

/// Makes the names in a folder last; systems that cannot open a folder need no such step.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// The folder that a file lies in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// `.NAME.PID.tmp` in the same folder.
pub(crate) fn temporary_of(path: &Path) -> io::Result<PathBuf> {
    let Some(name) = path.file_name() else {
        let why = format!("{} names no file", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    };
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}.tmp", std::process::id()));
    Ok(folder_of(path).join(temporary))
}

/// Creates a folder whole or not at all: `fill` writes into a temporary one beside it, which is then renamed. Folders
/// above it are created.
///
/// # Errors
/// Whatever the system refuses or `fill` returns; no temporary folder is left.
pub(crate) fn create_folder<E: From<io::Error>>(
    path: &Path,
    fill: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    let parent = folder_of(path);
    create_folders(parent)?;
    let temporary = temporary_of(path)?;
    // What lies under this name was left by a crashed process of the same number.
    let _ = fs::remove_dir_all(&temporary);
    fs::create_dir(&temporary)?;
    let whole = || Ok(sync_folder(&temporary).and_then(|()| fs::rename(&temporary, path))?);
    let made = fill(&temporary).and_then(|()| whole());
    if made.is_err() {
        let _ = fs::remove_dir_all(&temporary);
    }
    made.and_then(|()| Ok(sync_folder(parent)?))
}

/// Creates a folder and those above it, so that all of them last: a new name is synced in the folder that it lies in.
///
/// # Errors
/// Whatever the system refuses.
pub(crate) fn create_folders(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = folder_of(path);
    create_folders(parent)?;
    match fs::create_dir(path) {
        // Another process was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        made => made?,
    }
    sync_folder(parent)
}

/// A file that goes away with this, unless it got another name.
struct Temporary {
    path: PathBuf,
    renamed: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.renamed {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_keeps_no_memory() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let held = allocation_counter::measure(|| write(&path, b"whole").unwrap()).bytes_current;
        assert_eq!((held, fs::read(&path).unwrap()), (0, b"whole".to_vec()));
    }

    #[cfg(unix)]
    #[test]
    fn a_link_of_others_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let [file, link, pipe] = ["file", "link", "pipe"].map(|name| folder.path().join(name));
        fs::write(&file, b"kept").unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        std::os::unix::fs::symlink("/dev/full", &pipe).unwrap();
        for path in [&link, &pipe] {
            write_here(path, b"new").unwrap();
            assert!(fs::symlink_metadata(path).unwrap().is_file());
            assert_eq!(fs::read(path).unwrap(), b"new");
        }
        assert_eq!(fs::read(&file).unwrap(), b"kept");
        write_here(folder.path(), b"new").unwrap_err();
    }

    #[test]
    fn folders_are_made_down_to_the_last() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("a/b/c");
        create_folders(&deep).unwrap();
        create_folders(&deep).unwrap();
        assert!(deep.is_dir());
        fs::write(folder.path().join("file"), b"").unwrap();
        create_folders(&folder.path().join("file/d")).unwrap_err();
    }
}
