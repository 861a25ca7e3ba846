//! Files of folders that others made: opened without following a link, without waiting for a pipe, without touching a
//! device, and read up to a limit.
//!
//! The folder itself may be reached through links, since the user named it. A file in it may not be one: a link could
//! lead to anything that this process may read, and an error that names its SHA-256 would tell what it holds.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::path::Path;

/// Opens a regular file for reading.
///
/// # Errors
/// Whatever the system refuses; a link, a folder, a pipe or a device is refused by its kind.
pub fn open(path: &Path) -> io::Result<File> {
    // By name first: to open a device may already do something.
    regular(&fs::symlink_metadata(path)?)?;
    let file = on_the_spot(OpenOptions::new().read(true)).open(path).map_err(plain)?;
    // Then what was opened, should another have taken its place in between.
    regular(&file.metadata()?)?;
    Ok(file)
}

/// The bytes of a regular file of at most `limit` bytes; nothing is allocated for a larger one.
///
/// # Errors
/// As [`open`]; [`io::ErrorKind::FileTooLarge`] above the limit.
pub fn read_within(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let length = file.metadata()?.len();
    let too_large = |found| {
        let why = format!("it has {found} bytes, above the limit of {limit}");
        io::Error::new(io::ErrorKind::FileTooLarge, why)
    };
    if length > limit {
        return Err(too_large(length));
    }
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(usize::try_from(length).unwrap_or(usize::MAX)).map_err(|_| io::ErrorKind::OutOfMemory)?;
    // It may grow while it is read.
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit { Err(too_large(bytes.len() as u64)) } else { Ok(bytes) }
}

/// Options that neither follow a link in a path's last part nor wait for the other end of a pipe.
pub(crate) fn on_the_spot(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(options, libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY);
    options
}

fn regular(status: &fs::Metadata) -> io::Result<()> {
    if status.is_symlink() {
        return Err(linked());
    }
    if status.is_file() { Ok(()) } else { Err(io::Error::other("it is not a file")) }
}

fn linked() -> io::Error {
    io::Error::other("it is a link, put the file itself there")
}

/// What the system says of a link that it was not to follow, in words.
fn plain(error: io::Error) -> io::Error {
    #[cfg(unix)]
    if error.raw_os_error() == Some(libc::ELOOP) {
        return linked();
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_up_to_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, b"1234").unwrap();
        assert_eq!(read_within(&path, 4).unwrap(), b"1234");
        let error = read_within(&path, 3).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        assert!(error.to_string().contains("limit of 3"), "{error}");
        // As large as a file can be, without a block on the disk.
        File::options().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(read_within(&path, 3).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert!(read_within(folder.path(), 4).unwrap_err().to_string().contains("not a file"));
        assert_eq!(read_within(&folder.path().join("absent"), 4).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[cfg(unix)]
    #[test]
    fn links_pipes_and_devices_are_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link, pipe) = ["file", "link", "pipe"].map(|name| folder.path().join(name)).into();
        fs::write(&file, b"x").unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        assert!(read_within(&link, 4).unwrap_err().to_string().contains("link"));
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        if made.is_ok_and(|status| status.success()) {
            assert!(read_within(&pipe, 4).unwrap_err().to_string().contains("not a file"));
            // Nobody writes to it: a plain open would wait for ever.
            assert!(on_the_spot(File::options().read(true)).open(&pipe).is_ok());
        } else {
            eprintln!("skipped: no mkfifo here");
        }
        assert!(read_within(Path::new("/dev/zero"), 4).unwrap_err().to_string().contains("not a file"));
        let error = plain(on_the_spot(File::options().read(true)).open(&link).unwrap_err());
        assert!(error.to_string().contains("link"), "{error}");
    }
}
