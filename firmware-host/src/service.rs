//! What a service manager hears: that the program is ready, alive, or ending. Nothing where there is none.

use sd_notify::NotifyState;
use std::time::{Duration, Instant};

/// The service manager, if there is one.
#[derive(Debug)]
pub struct Service {
    /// Time between two signs of life: a third of what the manager waits for.
    interval: Option<Duration>,
    next: Instant,
    told: bool,
}

impl Service {
    /// As the environment says.
    pub fn new() -> Self {
        Self { interval: sd_notify::watchdog_enabled().map(|patience| patience / 3), next: Instant::now(), told: false }
    }

    /// Frames are being classified; said once.
    pub fn ready(&mut self, status: &str) {
        if !std::mem::replace(&mut self.told, true) {
            tell(&[NotifyState::Ready, NotifyState::Status(status)]);
        }
    }

    /// A sign of life, where one is due.
    pub fn alive(&mut self, now: Instant) {
        if let Some(interval) = self.interval.filter(|_| now >= self.next) {
            tell(&[NotifyState::Watchdog]);
            self.next = now + interval;
        }
    }

    /// When the next sign of life is due.
    pub fn due(&self) -> Option<Instant> {
        self.interval.map(|_| self.next)
    }

    /// The program ends.
    pub fn stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }
}

impl Default for Service {
    fn default() -> Self {
        Self::new()
    }
}

/// A manager that does not listen is no reason to stop.
fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "the service manager does not listen");
    }
}
