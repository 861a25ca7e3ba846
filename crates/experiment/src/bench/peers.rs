//! Other programs that do the same work: child processes that are asked line by line and killed when they do not answer.
//!
//! A peer's first line is `{"ready": {"versions": {...}, "notes": [...]}}` or `{"missing": "why"}`. Then each line
//! `round SECONDS` is answered by one line `{"views": n, "seconds": s}`; the end of its stdin is the end.

use gabion_spec::one_line;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes of the longest line that is read.
const LONGEST_LINE: u64 = 64 << 10;

/// How long the last words of a peer that closed its stdout are waited for.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What was done in a round.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct Round {
    /// Views that were made.
    pub views: u64,
    /// Seconds that this took.
    pub seconds: f64,
}

impl Round {
    /// Views a second.
    #[allow(clippy::cast_precision_loss)] // views of a round fit f64
    pub fn rate(&self) -> f64 {
        self.views as f64 / self.seconds
    }
}

/// What a peer says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Ready {
    /// Of its libraries.
    pub versions: BTreeMap<String, String>,
    /// In what its work differs from ours.
    pub notes: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Greeting {
    Ready(Ready),
    Missing(String),
}

/// Why a peer was not measured: one line each. It has ended, or was killed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// The program could not be started.
    #[error("`{program}` cannot be started ({source}): name a Python with --python")]
    NotStarted {
        /// The program, without its folder.
        program: String,
        /// The system's reason.
        source: io::Error,
    },
    /// It lacks a package.
    #[error("{why}: install what bench/README.md lists")]
    Missing {
        /// In its own words.
        why: String,
    },
    /// It ended.
    #[error("it ended ({how}): {}", if last_words.is_empty() { "it said nothing" } else { last_words })]
    Died {
        /// Its exit status.
        how: String,
        /// The last line of its stderr.
        last_words: String,
    },
    /// It did not answer.
    #[error("it did not answer within {} s and was killed: try again on an idle machine", patience.as_secs_f64())]
    Silent {
        /// How long was waited.
        patience: Duration,
    },
    /// It answered something else.
    #[error("it answered `{answer}`, which is not {expected}, and was killed: use the peers of this commit")]
    Nonsense {
        /// The beginning of the line.
        answer: String,
        /// What was expected.
        expected: &'static str,
    },
}

/// A running peer; killed when dropped.
#[derive(Debug)]
pub struct Peer {
    child: Child,
    questions: ChildStdin,
    answers: Receiver<String>,
    last_words: Receiver<String>,
}

impl Peer {
    /// Starts a program and waits until it says that it is ready.
    ///
    /// # Errors
    /// See [`PeerError`]; the program has ended.
    pub fn start(command: &mut Command, patience: Duration) -> Result<(Self, Ready), PeerError> {
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = spawned.map_err(|source| PeerError::NotStarted { program: program(command), source })?;
        let questions = child.stdin.take().expect("stdin is piped");
        let stdout = child.stdout.take().expect("stdout is piped");
        let stderr = child.stderr.take().expect("stderr is piped");
        let mut peer = Self { child, questions, answers: lines(stdout), last_words: last_words(stderr) };
        match peer.answer(patience, "`ready` or `missing`")? {
            Greeting::Ready(ready) => Ok((peer, ready)),
            Greeting::Missing(why) => Err(PeerError::Missing { why: beginning(&why) }),
        }
    }

    /// Lets it work for about `seconds`; `patience` is how much longer its answer may take.
    ///
    /// # Errors
    /// See [`PeerError`]; drop the peer then.
    pub fn round(&mut self, seconds: f64, patience: Duration) -> Result<Round, PeerError> {
        const EXPECTED: &str = "{views, seconds} above 0";
        let question = format!("round {seconds}");
        let round: Round = self.ask(&question, Duration::from_secs_f64(seconds) + patience, EXPECTED)?;
        if round.views > 0 && round.seconds.is_finite() && round.seconds > 0.0 {
            return Ok(round);
        }
        Err(PeerError::Nonsense { answer: format!("{round:?}"), expected: EXPECTED })
    }

    /// Asks a question of one line.
    ///
    /// # Errors
    /// See [`PeerError`]; drop the peer then.
    pub fn ask<T: serde::de::DeserializeOwned>(
        &mut self,
        question: &str,
        patience: Duration,
        expected: &'static str,
    ) -> Result<T, PeerError> {
        // A pipe that is closed is found when its answer is read.
        let _ = writeln!(self.questions, "{question}").and_then(|()| self.questions.flush());
        self.answer(patience, expected)
    }

    /// The next line of its stdout.
    fn answer<T: serde::de::DeserializeOwned>(
        &mut self,
        patience: Duration,
        expected: &'static str,
    ) -> Result<T, PeerError> {
        let line = match self.answers.recv_timeout(patience) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => {
                self.kill();
                return Err(PeerError::Silent { patience });
            }
            Err(RecvTimeoutError::Disconnected) => return Err(self.died()),
        };
        serde_json::from_str(&line).map_err(|_| {
            self.kill();
            PeerError::Nonsense { answer: beginning(&line), expected }
        })
    }

    /// Its status and the last line of its stderr, once its stdout is closed.
    fn died(&mut self) -> PeerError {
        let last_words = self.last_words.recv_timeout(LAST_WORDS).unwrap_or_default();
        let until = Instant::now() + LAST_WORDS;
        let how = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break status.to_string(),
                Ok(None) if Instant::now() < until => thread::sleep(Duration::from_millis(5)),
                _ => {
                    self.kill();
                    break "it closed its output and was killed".into();
                }
            }
        };
        PeerError::Died { how, last_words }
    }

    fn kill(&mut self) {
        // One that has ended already cannot be killed, and need not be.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The program's name without its folder, which is one machine's.
fn program(command: &Command) -> String {
    let path = std::path::Path::new(command.get_program());
    path.file_name().unwrap_or(command.get_program()).to_string_lossy().into_owned()
}

/// The beginning of what somebody said, on one line.
fn beginning(text: &str) -> String {
    const MOST: usize = 160;
    let words = one_line(text);
    if words.chars().count() <= MOST { words } else { words.chars().take(MOST).chain("...".chars()).collect() }
}

/// The next line of a stream, or the beginning of a very long one; none at its end.
fn next_line(reader: &mut impl BufRead) -> Option<String> {
    let mut line = Vec::new();
    match reader.take(LONGEST_LINE).read_until(b'\n', &mut line) {
        Ok(0) | Err(_) => None,
        Ok(_) => Some(String::from_utf8_lossy(&line).into_owned()),
    }
}

/// The lines of a stream, read by a thread of its own: it ends when the stream does or nobody listens.
fn lines(stream: impl Read + Send + 'static) -> Receiver<String> {
    // Who says more than was asked for has to wait.
    let (sender, receiver) = mpsc::sync_channel(4);
    thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        while let Some(line) = next_line(&mut reader) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// The last line of a stream that is not empty, once it has ended.
fn last_words(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let (mut reader, mut last) = (BufReader::new(stream), String::new());
        while let Some(line) = next_line(&mut reader) {
            if !line.trim().is_empty() {
                last = beginning(&line);
            }
        }
        // Nobody may want to know.
        let _ = sender.send(last);
    });
    receiver
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    const READY: &str = r#"echo '{"ready": {"versions": {"fake": "1"}, "notes": ["slow"]}}'; "#;
    const SHORT: Duration = Duration::from_millis(200);
    const LONG: Duration = Duration::from_secs(30);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn ready(script: &str) -> Peer {
        Peer::start(&mut shell(&format!("{READY}{script}")), LONG).unwrap().0
    }

    /// One line, with these parts.
    #[track_caller]
    fn says(error: &PeerError, parts: &[&str]) {
        let text = error.to_string();
        assert!(!text.contains('\n') && parts.iter().all(|part| text.contains(part)), "{text}");
    }

    #[test]
    fn a_peer_greets_and_answers_every_round() {
        let script = r#"while read -r word seconds; do echo "{\"views\": 80, \"seconds\": $seconds}"; done"#;
        let (mut peer, ready) = Peer::start(&mut shell(&format!("{READY}{script}")), LONG).unwrap();
        assert_eq!(ready.versions["fake"], "1");
        assert_eq!(ready.notes, ["slow"]);
        for seconds in [0.5, 2.0] {
            let round = peer.round(seconds, LONG).unwrap();
            assert_eq!(round, Round { views: 80, seconds });
            assert_eq!(round.rate(), 80.0 / seconds);
        }
    }

    #[test]
    fn a_missing_package_or_program_is_named() {
        let mut missing = shell(r#"echo '{"missing": "No module named '"'kornia'"'"}'"#);
        says(&Peer::start(&mut missing, LONG).unwrap_err(), &["No module named 'kornia'", "bench/README.md"]);
        let error = Peer::start(&mut Command::new("no/such/python"), LONG).unwrap_err();
        says(&error, &["`python` cannot be started", "--python"]);
    }

    #[test]
    fn a_peer_that_dies_says_its_last_words() {
        let error = Peer::start(&mut shell("echo first >&2; echo 'ImportError: no luck' >&2; exit 3"), LONG);
        says(&error.unwrap_err(), &["exit status: 3", "ImportError: no luck"]);
        let error = ready("read -r line; exit 4").round(1.0, LONG).unwrap_err();
        says(&error, &["exit status: 4", "it said nothing"]);
        // It may be gone before it is asked.
        let mut gone = ready("exit 5");
        gone.child.wait().unwrap();
        says(&gone.round(1.0, LONG).unwrap_err(), &["exit status: 5"]);
    }

    #[test]
    fn a_peer_that_hangs_is_killed() {
        let started = Instant::now();
        says(&Peer::start(&mut shell("exec sleep 60"), SHORT).unwrap_err(), &["0.2 s", "killed"]);
        let mut peer = ready("exec sleep 60");
        says(&peer.round(0.01, SHORT).unwrap_err(), &["did not answer", "killed"]);
        assert!(peer.child.try_wait().unwrap().is_some(), "it still runs");
        // Nor does one live on that closes its output.
        let mut closed = ready("exec sleep 60 >&- 2>&-");
        says(&closed.round(0.01, LONG).unwrap_err(), &["closed its output", "killed"]);
        assert!(started.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn nonsense_is_quoted() {
        for (answer, quoted) in [
            ("hello", "hello"),
            ("{\"views\": 1}", "{\"views\": 1}"),
            ("{\"views\": 0, \"seconds\": 1}", "views: 0"),
            ("{\"views\": 5, \"seconds\": -1}", "seconds: -1"),
            ("{\"views\": -5, \"seconds\": 1}", "-5"),
        ] {
            let error = ready(&format!("read -r line; echo '{answer}'; exec sleep 60")).round(0.01, LONG).unwrap_err();
            says(&error, &[quoted, "{views, seconds}", "killed"]);
        }
        let endless = "while :; do printf xxxxxxxxxxxxxxxx; done";
        let error = Peer::start(&mut shell(endless), LONG).unwrap_err();
        says(&error, &["xxxx...", "`ready` or `missing`"]);
        assert!(error.to_string().len() < 400);
    }
}
