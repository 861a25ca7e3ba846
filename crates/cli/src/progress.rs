//! Progress: a bar on a terminal, a line every few seconds elsewhere.

use crate::output::Output;
use indicatif::{ProgressBar, ProgressStyle};
use std::time::{Duration, Instant};

/// Between lines where there is no terminal.
const LINE: Duration = Duration::from_secs(10);

/// The progress of one piece of work.
pub struct Progress<'a> {
    output: &'a Output,
    bar: Option<ProgressBar>,
    what: String,
    total: u64,
    told: Instant,
}

impl<'a> Progress<'a> {
    /// Of `total` steps.
    pub fn new(output: &'a Output, what: &str, total: u64) -> Self {
        let bar = output.draws().then(|| {
            let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} eta {eta} {msg}");
            let bar = ProgressBar::new(total);
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_prefix(what.to_string());
            bar
        });
        Self { output, bar, what: what.into(), total, told: Instant::now() }
    }

    /// Where it stands; `message` is made only when it is shown.
    pub fn at(&mut self, done: u64, message: impl FnOnce() -> String) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            bar.set_message(message());
        } else if self.told.elapsed() >= LINE && !self.output.quiet {
            self.told = Instant::now();
            self.output.note(format!("{} {done}/{} {}", self.what, self.total, message()));
        }
    }

    /// A line that stays.
    pub fn note(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None => self.output.note(line),
        }
    }

    /// Done.
    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
