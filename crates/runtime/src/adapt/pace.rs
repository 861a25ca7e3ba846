//! Seconds or steps, and whether another step fits.

use gabion_spec::Budget;
use std::time::Instant;

/// How much of a budget is used up.
pub(super) struct Pace {
    budget: Budget,
    start: Instant,
    /// Seconds from the start to the end of the last step.
    last: f64,
    /// Seconds of the longest of recent steps; an older one counts for less and less.
    longest: f64,
}

impl Pace {
    /// The clock starts.
    pub(super) fn start(budget: Budget) -> Self {
        Self { budget, start: Instant::now(), last: 0.0, longest: 0.0 }
    }

    /// A step is done; the seconds since the start.
    pub(super) fn step(&mut self) -> f64 {
        let now = self.start.elapsed().as_secs_f64();
        self.longest = (now - self.last).max(0.9 * self.longest);
        self.last = now;
        now
    }

    /// Seconds until the last step's end.
    pub(super) fn seconds(&self) -> f64 {
        self.last
    }

    /// Share of the budget that is used up before step `done`, from 0, at most 1.
    #[allow(clippy::cast_precision_loss)] // steps are far below 2^52
    pub(super) fn share(&self, done: u64) -> f64 {
        match self.budget {
            Budget::Steps { steps } => (done as f64 / steps as f64).min(1.0),
            Budget::Seconds { seconds } => (self.last / seconds).min(1.0),
        }
    }

    /// Whether another step can end within the budget, as long as recent ones at the longest.
    pub(super) fn another_fits(&self, done: u64) -> bool {
        match self.budget {
            Budget::Steps { steps } => done < steps,
            Budget::Seconds { seconds } => self.last + self.longest <= seconds,
        }
    }
}
