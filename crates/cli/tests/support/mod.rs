//! The binary as a user has it: a child process in a folder of its own, with a deadline.
#![allow(dead_code)] // each of the test programs uses a part of it

use serde_json::Value;
use std::fs::File;
use std::io::{Read, Seek};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Longest that a child may take; one that hangs is killed and its test fails. Seconds are usual.
const DEADLINE: Duration = Duration::from_secs(240);

/// A recipe of seconds: 8 minibatches of 3 replays, with a weight average.
pub const FREE: &str = "--preset synth-tiny --set images=64 batch=16 epochs=2 views=2 encoder.width=4 \
                        projector.hidden=32 projector.output=16";

/// A folder that goes away; commands run in it, so that their paths are relative.
pub struct Place(tempfile::TempDir);

impl Place {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    pub fn path(&self, relative: &str) -> PathBuf {
        self.0.path().join(relative)
    }

    pub fn read(&self, relative: &str) -> Vec<u8> {
        let path = self.path(relative);
        std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    pub fn write(&self, relative: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(relative);
        std::fs::create_dir_all(path.parent().expect("a path in the folder")).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    /// Every file below a folder, relative to it, sorted.
    pub fn files(&self, relative: &str) -> Vec<String> {
        let (root, mut found) = (self.path(relative), Vec::new());
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    found.push(path.strip_prefix(&root).unwrap().to_str().unwrap().to_string());
                }
            }
        }
        found.sort();
        found
    }

    /// `gabion` with arguments, split at spaces, on the CPU where the line names no device.
    pub fn command(&self, line: &str) -> Command {
        self.words(line, Command::new(env!("CARGO_BIN_EXE_gabion")))
    }

    /// The same below a shell that first runs `before`, such as a limit.
    pub fn limited(&self, before: &str, line: &str) -> Command {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("{before}; exec \"$@\""), "sh", env!("CARGO_BIN_EXE_gabion")]);
        self.words(line, shell)
    }

    fn words(&self, line: &str, mut command: Command) -> Command {
        command.args(line.split_whitespace());
        let chooses = line.contains("--device") || line.contains("--help");
        let without = ["data", "devices", "generations", "keygen", "rollback", "sign"];
        if !chooses && !without.iter().any(|command| line.starts_with(command)) {
            command.args(["--device", "cpu"]);
        }
        command.current_dir(self.0.path()).env_remove("GABION_DATA").env("RUST_BACKTRACE", "0");
        command
    }

    pub fn run(&self, line: &str) -> Ran {
        run(line, self.command(line))
    }

    /// Pretrains into `run` and gives the bundle a linear head.
    pub fn classifier(&self) {
        self.run(&format!("pretrain {FREE} --data synth --out run")).done();
        self.run("probe run --data synth --head linear --epochs 1").done();
    }
}

/// A command that ended.
pub struct Ran {
    line: String,
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`gabion {}`: {}\n{}\n{}", self.line, self.status, self.stdout, self.stderr)
    }
}

impl Ran {
    /// It did what was asked.
    #[track_caller]
    pub fn done(self) -> Self {
        assert!(self.status.success(), "{self}");
        self
    }

    /// It did, and said so in JSON.
    #[track_caller]
    pub fn json(self) -> Value {
        let ran = self.done();
        serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran}"))
    }

    /// It refused with this exit code and one line that has all of these parts.
    #[track_caller]
    pub fn refused(self, code: i32, parts: &[&str]) -> Self {
        assert!(self.status.code() == Some(code), "expected exit code {code}: {self}");
        let from = self.stderr.lines().position(|line| line.starts_with("error: "));
        let lines: Vec<&str> = self.stderr.lines().skip(from.unwrap_or_else(|| panic!("no error: {self}"))).collect();
        // The argument parser lists what is missing, then adds how to use a command after an empty line.
        let parser = code == 2 && lines.last().is_some_and(|line| line.contains("try '--help'"));
        assert!(lines.len() == 1 || parser, "more than a line: {self}");
        let message = lines.into_iter().take_while(|line| !line.is_empty()).collect::<String>();
        for part in parts {
            assert!(message.contains(part), "`{part}` is missing: {self}");
        }
        self
    }
}

/// Runs to the end.
pub fn run(line: &str, mut command: Command) -> Ran {
    let [mut out, mut err] = [(); 2].map(|()| tempfile::tempfile().expect("a temporary file"));
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::from(out.try_clone().unwrap()))
        .stderr(Stdio::from(err.try_clone().unwrap()))
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let status = wait(line, child);
    let text = |file: &mut File| {
        let mut bytes = Vec::new();
        file.rewind().and_then(|()| file.read_to_end(&mut bytes)).unwrap();
        String::from_utf8(bytes).expect("text is UTF-8")
    };
    Ran { line: line.into(), status, stdout: text(&mut out), stderr: text(&mut err) }
}

/// Waits for a child, up to the deadline.
pub fn wait(line: &str, mut child: Child) -> ExitStatus {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if started.elapsed() > DEADLINE {
            child.kill().and_then(|()| child.wait()).unwrap();
            panic!("`gabion {line}` did not end within {DEADLINE:?}");
        }
        sleep(Duration::from_millis(2));
    }
}
