//! `log`: a line an event, with its time. It lasts over resumes, and its lock keeps a second process out of the run.

use super::{Event, Metrics, Outcome, RunError, io_error};
use jiff::Timestamp;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::Path;

/// The log of a run folder, open to append and locked while this lives.
pub(super) struct Log {
    file: File,
    /// The newest step, to sum up an epoch by.
    last: Option<Metrics>,
}

impl Log {
    /// Opens or creates `log` in the folder.
    ///
    /// # Errors
    /// [`RunError::Busy`] when another process has it; when it cannot be written.
    pub(super) fn open(folder: &Path) -> Result<Self, RunError> {
        let path = folder.join("log");
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(io_error("cannot write", &path))?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => Err(RunError::Busy { path: folder.into() }),
            // Some network file systems have no locks.
            Ok(()) | Err(TryLockError::Error(_)) => Ok(Self { file, last: None }),
        }
    }

    /// Appends a line. One that cannot be written is left out: on a full disk the metrics and the checkpoint stop the
    /// run, with a message that says so.
    pub(super) fn line(&mut self, text: &str) {
        // One write, so that a line is whole or absent.
        let _ = self.file.write_all(format!("{:.3} {text}\n", Timestamp::now()).as_bytes());
    }

    /// What of an event is worth a line: all but the steps, of which each epoch's last is.
    pub(super) fn event(&mut self, event: &Event<'_>) {
        match event {
            Event::Started { minibatch, minibatches } => {
                self.line(&format!("at minibatch {minibatch} of {minibatches}"))
            }
            Event::Step(metrics) => {
                if let Some(last) = self.last.take().filter(|last| last.epoch != metrics.epoch) {
                    self.epoch(&last);
                }
                self.last = Some((*metrics).clone());
            }
            Event::Minibatch(_) => {}
            Event::Note(note) => self.line(note),
        }
    }

    fn epoch(&mut self, last: &Metrics) {
        let terms: String = last.terms.iter().map(|(name, value)| format!(" {name} {value:.4}")).collect();
        self.line(&format!(
            "epoch {} ends at step {}: loss {:.4}{terms}, {:.0} crops/s, {:.1} % waiting, {:.0} s in all",
            last.epoch,
            last.step,
            last.loss,
            last.crops_per_second,
            100.0 * last.waiting,
            last.seconds
        ));
    }

    /// How the run ended.
    pub(super) fn end(&mut self, result: &Result<Outcome, RunError>) {
        match result {
            Ok(Outcome::Finished(bundle)) => {
                if let Some(last) = self.last.take() {
                    self.epoch(&last);
                }
                self.line(&format!("finished: wrote {}", bundle.display()));
            }
            Ok(Outcome::Stopped { minibatches }) => self.line(&format!("stopped after minibatch {minibatches}, saved")),
            Err(error) => self.line(&format!("error: {error}")),
        }
    }
}
