//! Downloads a published data set: resumed where it broke off, checked, unpacked whole or not at all.

use super::archive::{Archive, Checked, State, Which, check};
use super::error::{Error, Result};
use super::unpack::unpack;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;

/// What a fetch is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress<'a> {
    /// Bytes of the archive that are there, of how many.
    Downloading {
        /// Bytes there.
        done: u64,
        /// Bytes of the archive.
        total: u64,
    },
    /// The last attempt broke off and another follows.
    Retrying {
        /// The number of the attempt that follows, from 2.
        attempt: u32,
        /// Why the last one ended.
        why: &'a str,
    },
    /// A file is written and checked.
    Unpacking {
        /// Its name.
        file: &'a str,
    },
}

/// What a fetch had to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// Nothing: every file was there with its SHA-256.
    AlreadyThere,
    /// The files were downloaded and unpacked.
    Unpacked {
        /// Bytes received.
        received: u64,
    },
}

/// How patient a fetch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Attempts in all.
    pub attempts: u32,
    /// Longest wait for a connection or for the next bytes.
    pub silence: Duration,
    /// Longest time of one attempt.
    pub attempt: Duration,
    /// Pause before the second attempt; it doubles from one to the next, up to a minute.
    pub pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            attempts: 6,
            silence: Duration::from_secs(30),
            attempt: Duration::from_secs(1800),
            pause: Duration::from_secs(1),
        }
    }
}

/// Fetches a data set into `folder`, from `url` where one is given instead of the published address.
///
/// The archive grows as `<name>.part`, which a later call continues. The files are checked by SHA-256 and come into
/// place by renaming, each whole; the archive is then removed. A call that finds them all good does nothing.
///
/// # Errors
/// When the server refuses or stays away, the bytes are not the published ones, or the folder cannot be written.
pub fn fetch(
    which: Which,
    folder: &Path,
    url: Option<&str>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Fetched> {
    let archive = which.archive();
    fetch_archive(&Archive { url: url.unwrap_or(archive.url), ..archive }, folder, &Patience::default(), progress)
}

/// [`fetch`] for any archive.
///
/// # Errors
/// As [`fetch`].
pub fn fetch_archive(
    archive: &Archive<'_>,
    folder: &Path,
    patience: &Patience,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Fetched> {
    fs::create_dir_all(folder).map_err(|source| Error::io("create", folder, source))?;
    if check(archive, folder)?.iter().all(|Checked { state, .. }| *state == State::Good) {
        return Ok(Fetched::AlreadyThere);
    }
    let part = folder.join(format!("{}.part", archive.name));
    let resumed = length(&part)? > 0;
    let mut received = download(archive, &part, patience, progress)?;
    let mut unpacked = unpack(archive, &part, folder, progress);
    if resumed && matches!(unpacked, Err(Error::Archive { .. } | Error::Hash { .. })) {
        // What was continued was something else; `unpack` has removed it, so this starts from nothing.
        received += download(archive, &part, patience, progress)?;
        unpacked = unpack(archive, &part, folder, progress);
    }
    unpacked.map(|()| Fetched::Unpacked { received })
}

fn length(path: &Path) -> Result<u64> {
    match fs::metadata(path) {
        Ok(there) => Ok(there.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(Error::io("read", path, error)),
    }
}

/// Why an attempt ended early.
enum Broken {
    /// Another attempt may do better.
    Again(String),
    /// None will.
    Final(Error),
}

impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

/// Completes the `.part` file; returns the bytes received.
fn download(
    archive: &Archive<'_>,
    part: &Path,
    patience: &Patience,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<u64> {
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(5)
        .timeout_connect(Some(patience.silence))
        .timeout_per_read(Some(patience.silence))
        .timeout_recv_response(Some(patience.silence))
        .timeout_global(Some(patience.attempt));
    let agent: ureq::Agent = config.build().into();
    let mut file =
        OpenOptions::new().append(true).create(true).open(part).map_err(|source| Error::io("write", part, source))?;
    let (mut received, mut pause, mut attempt) = (0, patience.pause, 1);
    loop {
        match attempt_once(archive, &agent, part, &mut file, &mut received, progress) {
            Ok(()) => break,
            Err(Broken::Final(error)) => return Err(error),
            Err(Broken::Again(why)) if attempt >= patience.attempts => {
                return Err(Error::Transfer { url: archive.url.into(), attempts: attempt, why });
            }
            Err(Broken::Again(why)) => {
                attempt += 1;
                progress(Progress::Retrying { attempt, why: &why });
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_secs(60));
            }
        }
    }
    file.sync_all().map_err(|source| Error::io("write", part, source))?;
    Ok(received)
}

fn attempt_once(
    archive: &Archive<'_>,
    agent: &ureq::Agent,
    part: &Path,
    file: &mut File,
    received: &mut u64,
    progress: &mut dyn FnMut(Progress<'_>),
) -> std::result::Result<(), Broken> {
    let total = archive.length;
    let restart = |file: &File| file.set_len(0).map_err(|source| Error::io("write", part, source));
    let mut done = length(part)?;
    if done > total {
        restart(file)?;
        done = 0;
    }
    progress(Progress::Downloading { done, total });
    if done == total {
        return Ok(());
    }
    let again = |error: &dyn std::fmt::Display| Broken::Again(error.to_string());
    let mut request = agent.get(archive.url);
    if done > 0 {
        request = request.header("Range", format!("bytes={done}-"));
    }
    let mut response = request.call().map_err(|error| match error {
        ureq::Error::BadUri(why) => {
            Broken::Final(Error::Transfer { url: archive.url.into(), attempts: 1, why: format!("bad URL: {why}") })
        }
        error => again(&error),
    })?;
    match response.status().as_u16() {
        206 if continues(&response, done) => {}
        206 | 416 => {
            // The server means another file or other bytes of it: start over.
            restart(file)?;
            return Err(Broken::Again("the server did not continue where the download broke off".into()));
        }
        200 => {
            restart(file)?;
            done = 0;
        }
        status @ (408 | 429 | 500..) => return Err(Broken::Again(format!("HTTP status {status}"))),
        status => return Err(Broken::Final(Error::Status { url: archive.url.into(), status })),
    }
    let mut body = response.body_mut().as_reader();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = body.read(&mut buffer).map_err(|error| again(&error))?;
        if read == 0 {
            break;
        }
        if done + read as u64 > total {
            restart(file)?;
            let why = format!("{} sent more than the {total} bytes of the original", archive.url);
            return Err(Broken::Final(Error::Archive { path: part.into(), why }));
        }
        file.write_all(&buffer[..read]).map_err(|source| Error::io("write", part, source))?;
        done += read as u64;
        *received += read as u64;
        progress(Progress::Downloading { done, total });
    }
    if done == total { Ok(()) } else { Err(Broken::Again(format!("the connection ended at byte {done} of {total}"))) }
}

/// Whether a partial answer starts at byte `done`.
fn continues(response: &ureq::http::Response<ureq::Body>, done: u64) -> bool {
    let range = response.headers().get("content-range").and_then(|value| value.to_str().ok());
    range.and_then(|range| range.strip_prefix("bytes ")).and_then(|range| range.split('-').next())
        == Some(done.to_string().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::archive::Member;
    use crate::data::archive::tests::{pack, sha256};
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;
    use std::thread::JoinHandle;

    /// How the test server answers one request.
    #[derive(Clone, Copy)]
    enum Answer {
        /// As asked, a range where one is asked for.
        Full,
        /// As asked, but the connection ends after so many bytes.
        Cut(usize),
        /// The whole file, whatever the range.
        NoRange,
        /// A partial answer that starts elsewhere.
        WrongRange,
        /// A status with no body.
        Status(u16),
        /// Nothing, for longer than the client waits.
        Silence,
    }

    /// Answers one connection after the other, then ends; returns the `Range` of each request.
    fn serve(file: Vec<u8>, answers: Vec<Answer>) -> (String, JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/small.tar.gz", listener.local_addr().unwrap());
        let respond = move |answer: Answer| {
            let (mut stream, _) = listener.accept().unwrap();
            let lines = BufReader::new(stream.try_clone().unwrap()).lines().map(|line| line.unwrap_or_default());
            let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
            let range =
                head.iter().find_map(|line| line.to_lowercase().strip_prefix("range: bytes=").map(str::to_owned));
            let range = range.unwrap_or_default();
            let from: usize = range.trim_end_matches('-').parse().unwrap_or(0);
            let (from, status) = match answer {
                Answer::NoRange => (0, 200),
                Answer::WrongRange => (1, 206),
                Answer::Status(status) => (file.len(), status),
                Answer::Silence => {
                    std::thread::sleep(Duration::from_millis(600));
                    return range;
                }
                _ => (from, if range.is_empty() { 200 } else { 206 }),
            };
            let body = &file[from..];
            let content_range = match status {
                206 => format!("Content-Range: bytes {from}-{}/{}\r\n", file.len() - 1, file.len()),
                _ => String::new(),
            };
            let length = body.len();
            let head =
                format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n{content_range}Connection: close\r\n\r\n");
            let sent = if let Answer::Cut(after) = answer { after.min(length) } else { length };
            stream.write_all(head.as_bytes()).unwrap();
            // The client may have turned away by now.
            let _ = stream.write_all(&body[..sent]);
            range
        };
        (url, std::thread::spawn(move || answers.into_iter().map(respond).collect()))
    }

    const PATIENCE: Patience = Patience {
        attempts: 3,
        silence: Duration::from_millis(300),
        attempt: Duration::from_secs(20),
        pause: Duration::from_millis(1),
    };

    struct Set {
        packed: Vec<u8>,
        packed_sha256: String,
        content: Vec<u8>,
        content_sha256: String,
    }

    impl Set {
        fn new() -> Self {
            // Noise, so that the archive is not a few bytes.
            let mut random = crate::data::order::Random::named(&[5]);
            let content: Vec<u8> = (0..200_000).map(|_| random.bits() as u8).collect();
            let packed = pack(&[("small/a.bin", &content), ("small/readme", b"x")]);
            Self { packed_sha256: sha256(&packed), content_sha256: sha256(&content), packed, content }
        }

        fn fetch(&self, url: &str, folder: &Path) -> Result<Fetched> {
            let files = [Member { name: "a.bin", length: 200_000, sha256: &self.content_sha256 }];
            let archive = Archive {
                url,
                name: "small.tar.gz",
                folder: "small",
                length: self.packed.len() as u64,
                sha256: &self.packed_sha256,
                files: &files,
            };
            let mut last = 0;
            fetch_archive(&archive, folder, &PATIENCE, &mut |progress| {
                if let Progress::Downloading { done, total } = progress {
                    assert!(done <= total);
                    last = done;
                }
            })
        }

        /// Fetches through the answers; returns the result, the ranges and the names that are in the folder then.
        fn through(&self, answers: &[Answer], before: &[u8]) -> (Result<Fetched>, Vec<String>, Vec<String>) {
            let folder = tempfile::tempdir().unwrap();
            if !before.is_empty() {
                fs::write(folder.path().join("small.tar.gz.part"), before).unwrap();
            }
            let (url, server) = serve(self.packed.clone(), answers.to_vec());
            let fetched = self.fetch(&url, folder.path());
            let ranges = server.join().unwrap();
            let names = fs::read_dir(folder.path()).unwrap();
            let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            if fetched.is_ok() {
                assert_eq!(fs::read(folder.path().join("a.bin")).unwrap(), self.content);
                // The server is gone: a second call must not need it.
                assert_eq!(self.fetch(&url, folder.path()).unwrap(), Fetched::AlreadyThere);
            }
            (fetched, ranges, names)
        }
    }

    #[test]
    fn a_download_is_unpacked_and_not_repeated() {
        let set = Set::new();
        let (fetched, ranges, names) = set.through(&[Answer::Full], b"");
        assert_eq!(fetched.unwrap(), Fetched::Unpacked { received: set.packed.len() as u64 });
        assert_eq!((ranges, names), (vec![String::new()], vec!["a.bin".to_owned()]));
    }

    #[test]
    fn a_cut_connection_is_resumed() {
        let set = Set::new();
        let whole = set.packed.len() as u64;
        let (fetched, ranges, names) = set.through(&[Answer::Cut(70_000), Answer::Status(503), Answer::Full], b"");
        assert_eq!(fetched.unwrap(), Fetched::Unpacked { received: whole });
        assert_eq!(ranges, ["", "70000-", "70000-"]);
        assert_eq!(names, ["a.bin"]);
        // From an earlier call as well, and where nothing is left to download.
        let (fetched, ranges, _) = set.through(&[Answer::Full], &set.packed[..1000]);
        assert_eq!(
            (fetched.unwrap(), ranges),
            (Fetched::Unpacked { received: whole - 1000 }, vec!["1000-".to_owned()])
        );
        assert_eq!(set.through(&[], &set.packed).0.unwrap(), Fetched::Unpacked { received: 0 });
    }

    #[test]
    fn a_server_that_does_not_continue_makes_it_start_over() {
        let set = Set::new();
        for answers in [
            &[Answer::NoRange][..],
            &[Answer::WrongRange, Answer::Full],
            &[Answer::Status(416), Answer::Full],
            &[Answer::Silence, Answer::NoRange],
        ] {
            let (fetched, ranges, names) = set.through(answers, &set.packed[..5000]);
            assert_eq!(fetched.unwrap(), Fetched::Unpacked { received: set.packed.len() as u64 });
            assert_eq!((ranges[0].as_str(), names), ("5000-", vec!["a.bin".to_owned()]));
        }
        // A part of something else is found out by its hash and downloaded anew, once.
        let (fetched, _, names) = set.through(&[Answer::Full, Answer::Full], &[9; 5000]);
        assert!(fetched.is_ok());
        assert_eq!(names, ["a.bin"]);
    }

    #[test]
    fn wrong_bytes_leave_nothing_behind() {
        let mut set = Set::new();
        let good = set.packed_sha256.clone();
        set.packed_sha256 = "0".repeat(64);
        let (fetched, _, names) = set.through(&[Answer::Full], b"");
        assert!(matches!(fetched.unwrap_err(), Error::Hash { .. }));
        assert!(names.is_empty(), "{names:?}");
        (set.packed_sha256, set.content_sha256) = (good, "0".repeat(64));
        let (fetched, _, names) = set.through(&[Answer::Full], b"");
        let error = fetched.unwrap_err();
        assert!(matches!(&error, Error::Hash { path, .. } if path.ends_with("a.bin")), "{error}");
        assert!(names.is_empty(), "{names:?}");
    }

    #[test]
    fn refusals_and_silence_end() {
        let set = Set::new();
        let (fetched, _, _) = set.through(&[Answer::Status(404)], b"");
        let error = fetched.unwrap_err();
        assert!(matches!(&error, Error::Status { status: 404, url } if url.contains("127.0.0.1")), "{error}");
        let (fetched, ranges, names) = set.through(&[Answer::Cut(10), Answer::Silence, Answer::Cut(10)], b"");
        assert!(matches!(fetched.unwrap_err(), Error::Transfer { attempts: 3, .. }));
        assert_eq!((ranges.len(), names), (3, vec!["small.tar.gz.part".to_owned()]));
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(set.fetch("http://127.0.0.1:1/x", folder.path()), Err(Error::Transfer { .. })));
        assert!(set.fetch("not a url", folder.path()).is_err());
        fs::write(folder.path().join("file"), "").unwrap();
        let error = set.fetch("http://127.0.0.1:1/x", &folder.path().join("file")).unwrap_err().to_string();
        assert!(error.contains("cannot create") && error.contains("file"), "{error}");
    }
}
