//! Drawn shapes, and every fault that a source can have, each in its turn: for soaking the program.

use super::synth::Stream;
use super::{Pull, Source, SourceError};
use crate::random::Random;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// For how many calls a fault lasts.
const CALLS: u32 = 4;

/// Opened so many times in this process: a source that comes back goes on with the next fault.
static OPENED: AtomicU32 = AtomicU32::new(0);

/// Faults that were injected and are to be said.
static INJECTED: AtomicU32 = AtomicU32::new(0);

/// How many faults were injected in this process that are to be shown and logged.
pub fn injected() -> u32 {
    INJECTED.load(Ordering::Relaxed)
}

/// A source that misbehaves after 20 to 60 good frames.
#[derive(Debug)]
pub struct Faulty {
    stream: Stream,
    random: Random,
    good: u32,
    fault: u32,
    left: u32,
}

impl Faulty {
    /// Equal seeds give equal frames; faults go on from the last source of this process.
    pub fn new(seed: u64) -> Self {
        let opened = OPENED.fetch_add(1, Ordering::Relaxed);
        let mut random = Random::new(seed ^ u64::from(opened));
        Self { stream: Stream::new(seed), good: Self::pause(&mut random), random, fault: opened % 6, left: 0 }
    }

    fn pause(random: &mut Random) -> u32 {
        20 + u32::try_from(random.below(40)).expect("below 40")
    }

    fn next_fault(&mut self) {
        self.fault = (self.fault + 1) % 6;
        self.good = Self::pause(&mut self.random);
    }
}

impl Source for Faulty {
    fn pull(&mut self, patience: Duration) -> Result<Pull, SourceError> {
        if self.good > 0 {
            self.good -= 1;
            self.left = CALLS;
            return Ok(Pull::Frame(self.stream.frame()));
        }
        if self.left == CALLS && self.fault < 4 {
            INJECTED.fetch_add(1, Ordering::Relaxed);
        }
        self.left = self.left.saturating_sub(1);
        let over = self.left == 0;
        let answer = match self.fault {
            // A few frames that are none.
            0 => Err(SourceError::broken("faulty", "a frame was cut short")),
            // Nothing for a while.
            1 => {
                std::thread::sleep(patience);
                Ok(Pull::Waiting)
            }
            // It goes away.
            2 => Err(SourceError::gone("faulty", "unplugged")),
            // It does not return for a while.
            3 => {
                std::thread::sleep(Duration::from_secs(1));
                Ok(Pull::Waiting)
            }
            // A frame of another size.
            4 => Ok(Pull::Frame(self.stream.frame().within(7))),
            // Frames as fast as they can be taken.
            _ => Ok(Pull::Lasting(self.stream.frame(), Duration::ZERO)),
        };
        if over {
            self.next_fault();
        }
        answer
    }
}
