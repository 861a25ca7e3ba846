//! Unpacks a downloaded archive: every file is checked beside its place before any is put there.

use super::archive::{Archive, Member, hash, hexadecimal};
use super::error::{Error, Result};
use super::fetch::Progress;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// Files that are removed again unless they are kept.
struct Temporary(Vec<PathBuf>);

impl Drop for Temporary {
    fn drop(&mut self) {
        for path in &self.0 {
            // Nothing is lost when it stays, and there is nobody to tell.
            let _ = fs::remove_file(path);
        }
    }
}

/// Checks the archive, writes its files beside their places, checks them, renames them and removes the archive. The
/// archive is removed as well when its bytes are wrong.
pub(super) fn unpack(
    archive: &Archive<'_>,
    part: &Path,
    folder: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<()> {
    let unpacked = unpack_checked(archive, part, folder, progress);
    if matches!(unpacked, Ok(()) | Err(Error::Archive { .. } | Error::Hash { .. })) {
        fs::remove_file(part).map_err(|source| Error::io("remove", part, source))?;
    }
    unpacked
}

fn unpack_checked(
    archive: &Archive<'_>,
    part: &Path,
    folder: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<()> {
    let found = hash(part)?;
    if found != archive.sha256 {
        return Err(Error::Hash { path: archive.url.into(), expected: archive.sha256.into(), found });
    }
    // Files that are there in the archive's own folder are mended there, so that there are never two sets.
    let folder = archive.unpacked(folder).unwrap_or_else(|| folder.to_path_buf());
    let beside = |member: &Member<'_>| folder.join(format!("{}.part", member.name));
    let temporary = Temporary(archive.files.iter().map(beside).collect());
    archive.unpack(part, |at, from| {
        let (member, path) = (&archive.files[at], &temporary.0[at]);
        progress(Progress::Unpacking { file: member.name });
        let found = write(path, part, from)?;
        if found == member.sha256 {
            return Ok(());
        }
        Err(Error::Hash { path: part.join(member.name), expected: member.sha256.into(), found })
    })?;
    for (member, path) in archive.files.iter().zip(&temporary.0) {
        let place = folder.join(member.name);
        fs::rename(path, &place).map_err(|source| Error::io("write", &place, source))?;
    }
    sync_folder(&folder)
}

/// Writes and syncs a file; returns the SHA-256 of what was written.
fn write(path: &Path, archive: &Path, from: &mut dyn Read) -> Result<String> {
    let writing = |source| Error::io("write", path, source);
    let mut file = File::create(path).map_err(writing)?;
    let (mut sha, mut buffer) = (Sha256::new(), vec![0; 1 << 16]);
    loop {
        let read = from.read(&mut buffer).map_err(|error| Error::Archive {
            path: archive.into(),
            why: format!("it is cut short or damaged ({error})"),
        })?;
        if read == 0 {
            break;
        }
        sha.update(&buffer[..read]);
        file.write_all(&buffer[..read]).map_err(writing)?;
    }
    file.sync_all().map_err(writing)?;
    Ok(hexadecimal(&sha.finalize()))
}

/// Makes renames durable, where a folder can be opened for that.
fn sync_folder(folder: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(|source| Error::io("write", folder, source))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_is_called_that() {
        let error = write(Path::new("/dev/full"), Path::new("x.tar.gz"), &mut &[1u8; 100][..]).unwrap_err();
        assert!(matches!(error, Error::DiskFull { .. }), "{error}");
    }

    #[test]
    fn temporary_files_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.part");
        let temporary = Temporary(vec![path.clone(), folder.path().join("never written")]);
        assert_eq!(
            write(&path, Path::new("x"), &mut &b"abc"[..]).unwrap(),
            super::super::archive::tests::sha256(b"abc")
        );
        assert!(path.exists());
        drop(temporary);
        assert!(!path.exists());
    }
}
