//! Bundles made to do harm: nothing is followed, waited for, or allocated on their word.

mod support;

use gabion_runtime::bundle::{MANIFEST, WEIGHTS};
use gabion_runtime::{BundleError, Stored};
use gabion_spec::Precision;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use support::stored;

/// A whole bundle in a folder that goes away with it.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        stored(0.5).write(&place.bundle(), Precision::F32).unwrap();
        place
    }

    fn bundle(&self) -> PathBuf {
        self.0.path().join("bundle")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.bundle().join(name)
    }

    /// Replaces text in the manifest.
    fn edit(&self, from: &str, to: &str) {
        let text = fs::read_to_string(self.file(MANIFEST)).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(self.file(MANIFEST), text.replacen(from, to, 1)).unwrap();
    }

    #[track_caller]
    fn refused(&self, part: &str) -> BundleError {
        let error = Stored::read(&self.bundle()).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
        error
    }
}

#[cfg(unix)]
#[test]
fn links_are_not_followed_out_of_a_bundle_nor_within() {
    use std::os::unix::fs::symlink;
    for name in [MANIFEST, WEIGHTS] {
        for target in ["elsewhere", "bundle/aside"] {
            let place = Place::new();
            let target = place.0.path().join(target);
            fs::rename(place.file(name), &target).unwrap();
            symlink(&target, place.file(name)).unwrap();
            place.refused("it is a link");
        }
    }
    // What it leads to is not told.
    let place = Place::new();
    fs::remove_file(place.file(WEIGHTS)).unwrap();
    symlink("/etc/hostname", place.file(WEIGHTS)).unwrap();
    assert!(!place.refused("it is a link").to_string().contains("SHA-256"));
    // The user's own way to the folder is.
    let place = Place::new();
    symlink(place.bundle(), place.0.path().join("link")).unwrap();
    Stored::read(&place.0.path().join("link")).unwrap();
}

#[cfg(unix)]
#[test]
fn a_pipe_or_a_device_is_not_waited_for() {
    for name in [MANIFEST, WEIGHTS] {
        let place = Place::new();
        fs::remove_file(place.file(name)).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(place.file(name)).status().unwrap().success());
        place.refused("not a file");
    }
    let place = Place::new();
    place.edit(&format!("\"{WEIGHTS}\""), "\"../../dev/zero\"");
    assert!(matches!(place.refused("not a plain file name"), BundleError::FileName { .. }));
}

#[test]
fn lengths_that_cost_nothing_are_refused_unread() {
    let place = Place::new();
    // 17 GB of values, so that the file is not too long for its manifest.
    place.edit("\"hidden\": 1", "\"hidden\": 65536");
    File::options().write(true).open(place.file(WEIGHTS)).unwrap().set_len((1 << 30) + 1).unwrap();
    assert!(matches!(place.refused("limit of 1073741824"), BundleError::TooLarge { .. }));
    let place = Place::new();
    File::options().write(true).open(place.file(WEIGHTS)).unwrap().set_len(1 << 40).unwrap();
    assert!(matches!(place.refused("implies"), BundleError::Size { .. }));
    File::options().write(true).open(place.file(MANIFEST)).unwrap().set_len(1 << 40).unwrap();
    assert!(matches!(place.refused("limit"), BundleError::TooLarge { .. }));
}

#[test]
fn keys_twice_and_depth_are_refused() {
    let place = Place::new();
    place.edit("\"name\": \"test\",", "\"name\": \"test\", \"name\": \"other\",");
    place.refused("duplicate field `name`");
    let place = Place::new();
    place.edit("\"classes\": [", &format!("\"claims\": {}{}, \"classes\": [", "[".repeat(200), "]".repeat(200)));
    place.refused("recursion limit");
    for number in ["-1", "1e400", "18446744073709551616", "1.5", "\"1\"", "null"] {
        let place = Place::new();
        place.edit("\"width\": 1", &format!("\"width\": {number}"));
        assert!(matches!(place.refused(MANIFEST), BundleError::Manifest { .. }));
    }
    assert!(Stored::read(Path::new("")).is_err());
}
