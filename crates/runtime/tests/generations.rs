//! Generations under what happens to devices: killed writers, several of them, a full disk, one that cannot be written.
//!
//! The writers are this program, started again as its own test `child`.
#![cfg(unix)]

mod support;

use gabion_runtime::bundle::{MANIFEST, WEIGHTS};
use gabion_runtime::generations::{self, GENERATIONS, Origin, Rolled, State, list};
use gabion_runtime::{GenerationError, Source, Stored, Trust};
use gabion_spec::Precision;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;
use support::stored;

const KILLS: u32 = 200;
/// Where a child works, and what it does.
const PLACE: &str = "GABION_TEST_PLACE";
const WORK: &str = "GABION_TEST_WORK";

fn base(bundle: &Path) {
    stored(0.0).write(bundle, Precision::F32).unwrap();
}

/// What is served; it holds what its number says, and is all of one piece.
#[allow(clippy::cast_precision_loss)]
fn served(bundle: &Path) -> Source {
    let served = generations::open(bundle, &Trust::Any, Stored::read).unwrap();
    let value = match served.origin.source {
        Source::Base => 0.0,
        Source::Generation(number) => number as f32,
    };
    assert_eq!(served.bundle.tensors, stored(value).tensors, "{}", served.origin.source);
    assert!(served.skipped.is_empty(), "{}: {:?}", served.origin.source, served.skipped);
    served.origin.source
}

/// Writes a generation whose values are its number.
#[allow(clippy::cast_precision_loss)]
fn write(bundle: &Path, parent: Source) -> Result<u64, GenerationError> {
    let fill = |dir: &Path| {
        // `.NUMBER.PID.tmp`: the number is settled under the lock.
        let number: u64 = dir.file_name().unwrap().to_str().unwrap()[1..7].parse().unwrap();
        stored(number as f32).write(dir, Precision::F32)
    };
    let base = generations::open(bundle, &Trust::Any, Stored::read)?.origin.base;
    let origin = Origin { source: parent, base };
    generations::write(bundle, &Trust::Any, &origin, fill).map(|written| written.number)
}

fn rollback(bundle: &Path, to: Option<Source>) -> Result<Rolled, GenerationError> {
    generations::rollback(bundle, &Trust::Any, to)
}

/// What lies in the folder of generations, sorted.
fn names(bundle: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(bundle.join(GENERATIONS)).into_iter().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    write!(out, "\n{line}\n").and_then(|()| out.flush()).unwrap();
}

/// Not a test: what the others start.
#[test]
#[ignore = "the others start it"]
fn child() {
    let Some(bundle) = std::env::var_os(PLACE).map(PathBuf::from) else { return };
    match std::env::var(WORK).unwrap().as_str() {
        "adapt" => adapt(&bundle),
        "once" => match write(&bundle, Source::Base) {
            Ok(number) => say(&format!("promised {number}")),
            Err(error) => say(&format!("refused {error:?}")),
        },
        other => panic!("{other}"),
    }
}

/// Writes and withdraws for ever, and says after each what it now promises.
fn adapt(bundle: &Path) {
    for turn in std::process::id().. {
        if turn % 5 == 4 {
            let to = (turn % 2 == 0).then_some(Source::Base);
            say("withdraws");
            let rolled = rollback(bundle, to).unwrap();
            let to = if let Source::Generation(number) = rolled.to { number } else { 0 };
            let withdrawn: Vec<String> = rolled.withdrawn.iter().map(u64::to_string).collect();
            say(&format!("withdrew {to} {}", withdrawn.join(" ")));
        }
        let source = generations::open(bundle, &Trust::Any, Stored::read).unwrap().origin.source;
        match write(bundle, source) {
            Ok(number) => say(&format!("promised {number}")),
            // Another writer has withdrawn what this one adapted.
            Err(GenerationError::Parent { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

fn start(bundle: &Path, work: &str) -> (Child, BufReader<ChildStdout>) {
    start_as(Command::new(std::env::current_exe().unwrap()), bundle, work)
}

fn start_as(mut command: Command, bundle: &Path, work: &str) -> (Child, BufReader<ChildStdout>) {
    command.args(["--exact", "child", "--ignored", "--nocapture", "--test-threads=1"]);
    command.env(PLACE, bundle).env(WORK, work).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    (child, out)
}

fn is_said(line: &str) -> bool {
    line.starts_with("promised ") || line.starts_with("withdr")
}

/// Kills with SIGKILL and returns every line that was said, but the harness's own and one that was cut short.
fn kill(mut child: Child, mut out: BufReader<ChildStdout>) -> Vec<String> {
    child.kill().unwrap();
    child.wait().unwrap();
    let mut text = String::new();
    out.read_to_string(&mut text).unwrap();
    text.truncate(text.rfind('\n').map_or(0, |at| at + 1));
    text.lines().filter(|line| is_said(line)).map(String::from).collect()
}

/// What has to hold after all that was said.
#[derive(Debug, Default)]
struct Promise {
    /// What is served, or anything newer.
    floor: u64,
    /// A rollback began and did not say how it ended.
    withdraws: bool,
    /// Never again.
    withdrawn: BTreeSet<u64>,
    /// Every number so far.
    numbers: BTreeSet<u64>,
}

impl Promise {
    fn hear(&mut self, line: &str) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let mut rest = rest.split_whitespace().map(|number| number.parse::<u64>().unwrap());
        match word {
            "promised" => {
                self.floor = rest.next().unwrap();
                assert!(self.numbers.last() < Some(&self.floor), "{line} after {:?}", self.numbers.last());
                self.numbers.insert(self.floor);
            }
            "withdraws" => self.withdraws = true,
            "withdrew" => {
                self.floor = rest.next().unwrap();
                self.withdrawn.extend(rest);
                self.withdraws = false;
            }
            _ => panic!("{line}"),
        }
    }

    fn check(&mut self, source: Source, kill: u32) {
        let number = if let Source::Generation(number) = source { number } else { 0 };
        assert!(self.withdraws || number >= self.floor, "kill {kill}: {source} is older than promised: {self:?}");
        assert!(!self.withdrawn.contains(&number), "kill {kill}: {source} was withdrawn: {self:?}");
        let newest = self.numbers.last().copied().unwrap_or(0);
        // A writer may have died between the last step and the promise.
        assert!(number <= newest + 1, "kill {kill}: {source} comes from nowhere: {self:?}");
        if self.withdraws {
            self.withdrawn.extend(self.numbers.iter().filter(|&&known| known > number));
            self.withdraws = false;
        }
        if number > newest {
            self.numbers.insert(number);
        }
        self.floor = number;
    }
}

/// Equal delays on every run, spread over what some writes take.
fn delays() -> impl Iterator<Item = Duration> {
    let mut state = 7u64;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Duration::from_micros((state >> 33) % 50_000)
    })
}

#[test]
fn a_killed_writer_leaves_what_it_promised() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("bundle");
    base(&bundle);
    let (mut promise, mut heard) = (Promise::default(), 0);
    for (number, delay) in (1..=KILLS).zip(delays()) {
        let (child, mut out) = start(&bundle, "adapt");
        // From when it works, not from when the system starts it.
        let mut line = String::new();
        while !is_said(&line) {
            line.clear();
            assert_ne!(out.read_line(&mut line).unwrap(), 0, "the child ended by itself");
        }
        sleep(delay);
        let lines = kill(child, out);
        heard += lines.len() + 1;
        std::iter::once(line.trim_end()).chain(lines.iter().map(String::as_str)).for_each(|line| promise.hear(line));
        promise.check(served(&bundle), number);
    }
    let (made, withdrawn) = (promise.numbers.len(), promise.withdrawn.len());
    eprintln!("{KILLS} kills, {heard} lines, {made} generations, {withdrawn} withdrawn");
    assert!(made > KILLS as usize / 2 && withdrawn > 0);
    // The next writer cleans up.
    let number = write(&bundle, served(&bundle)).unwrap();
    let names = names(&bundle);
    assert!(names.len() <= 3 && names.contains(&format!("{number:06}")) && names.contains(&"lock".into()), "{names:?}");
    // The base is what it was.
    let again = folder.path().join("again");
    base(&again);
    for name in [MANIFEST, WEIGHTS] {
        assert!(std::fs::read(bundle.join(name)).unwrap() == std::fs::read(again.join(name)).unwrap());
    }
}

#[test]
fn two_writers_exclude_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("bundle");
    base(&bundle);
    let children = [start(&bundle, "adapt"), start(&bundle, "adapt")];
    for _ in 0..60 {
        sleep(Duration::from_millis(25));
        served(&bundle);
    }
    let said = children.map(|(child, out)| kill(child, out));
    let promised = said.each_ref().map(|lines| lines.iter().filter(|line| line.starts_with("promised")).count());
    assert!(promised.iter().all(|&count| count > 0), "{promised:?}");
    let distinct: BTreeSet<&String> = said.iter().flatten().filter(|line| line.starts_with("promised")).collect();
    assert_eq!(distinct.len(), promised[0] + promised[1], "a number was promised twice");
    // A lock that a killed process held is free.
    served(&bundle);
    write(&bundle, Source::Base).unwrap();
}

#[test]
fn a_limit_on_files_is_like_a_full_disk() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("bundle");
    base(&bundle);
    write(&bundle, Source::Base).unwrap();
    let before = names(&bundle);
    let mut shell = Command::new("sh");
    // Eight blocks of 512 bytes or of 1024; the signal would end the process before it can answer.
    shell.args(["-c", "trap '' XFSZ; ulimit -f 8; exec \"$@\"", "sh"]).arg(std::env::current_exe().unwrap());
    let (mut child, mut out) = start_as(shell, &bundle, "once");
    let mut text = String::new();
    out.read_to_string(&mut text).unwrap();
    child.wait().unwrap();
    assert!(text.contains("refused Full"), "{text}");
    assert_eq!(names(&bundle), before);
    assert_eq!(served(&bundle), Source::Generation(1));
}

/// A file system of its own in memory.
struct Mounted(PathBuf);

impl Mounted {
    /// None where this user or this system cannot mount.
    fn new(at: &Path, size: &str) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(at).output();
        done.is_ok_and(|done| done.status.success()).then(|| Self(at.into()))
    }

    fn remount(&self, how: &str) {
        let done = Command::new("mount").args(["-o", &format!("remount,{how}")]).arg(&self.0).status();
        assert!(done.unwrap().success(), "remount {how}");
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_and_one_that_cannot_be_written_leave_what_is_served() {
    let folder = tempfile::tempdir().unwrap();
    // The base and each generation take 28 to 32 kB.
    let Some(disk) = Mounted::new(&folder.path().join("disk"), "112k") else {
        eprintln!("skipped: this user cannot mount a tmpfs");
        return;
    };
    let bundle = disk.0.join("bundle");
    base(&bundle);
    let first = write(&bundle, Source::Base).unwrap();
    let second = write(&bundle, Source::Generation(first)).unwrap();
    let before = names(&bundle);
    for _ in 0..3 {
        let error = write(&bundle, Source::Generation(second)).unwrap_err();
        assert!(matches!(error, GenerationError::Full { .. }), "{error}");
        // The temporary folder is gone, so its name would mislead.
        assert!(error.to_string().contains("/000003,"), "{error}");
        assert_eq!(names(&bundle), before);
        assert_eq!(served(&bundle), Source::Generation(second));
    }
    // A rollback needs no room, and what it withdraws makes room.
    assert_eq!(rollback(&bundle, None).unwrap().to, Source::Generation(first));
    let third = write(&bundle, Source::Generation(first)).unwrap();
    assert_eq!((third, served(&bundle)), (3, Source::Generation(3)));

    disk.remount("ro");
    for error in [write(&bundle, Source::Generation(third)).unwrap_err(), rollback(&bundle, None).unwrap_err()] {
        assert!(matches!(error, GenerationError::ReadOnly { .. }), "{error}");
    }
    assert_eq!(served(&bundle), Source::Generation(third));
    assert!(list(&bundle, &Trust::Any).unwrap().iter().all(|listed| matches!(listed.state, State::Sound(_))));
    disk.remount("rw");
    assert_eq!(rollback(&bundle, Some(Source::Base)).unwrap().to, Source::Base);
    // No folder of generations can be made on one that cannot be written.
    std::fs::remove_dir_all(bundle.join(GENERATIONS)).unwrap();
    disk.remount("ro");
    let error = write(&bundle, Source::Base).unwrap_err();
    assert!(matches!(error, GenerationError::ReadOnly { .. }), "{error}");
    assert_eq!(served(&bundle), Source::Base);
}
