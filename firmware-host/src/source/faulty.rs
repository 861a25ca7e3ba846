//! Another source's frames, with their labels and as fast as they are asked for, and every fault that a source can have,
//! each in its turn: for soaking the program.

use super::{Pull, Source, SourceError};
use crate::frame::Frame;
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
pub struct Faulty {
    inner: Box<dyn Source>,
    /// The last good frame: a fault that gives frames gives it.
    last: Option<Frame>,
    random: Random,
    good: u32,
    fault: u32,
    left: u32,
}

impl Faulty {
    /// A source that is made faulty; faults go on from the last such source of this process.
    pub fn new(inner: Box<dyn Source>, seed: u64) -> Self {
        let opened = OPENED.fetch_add(1, Ordering::Relaxed);
        let mut random = Random::new(seed ^ u64::from(opened));
        Self { inner, last: None, good: Self::pause(&mut random), random, fault: opened % 6, left: 0 }
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
            // A picture that would be shown for a second is one of many here.
            let (Pull::Frame(frame) | Pull::Lasting(frame, _)) = self.inner.pull(patience)? else {
                return Ok(Pull::Waiting);
            };
            self.good -= 1;
            self.left = CALLS;
            self.last = Some(frame.clone());
            return Ok(Pull::Frame(frame));
        }
        let last = || self.last.clone().expect("good frames come first");
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
            4 => Ok(Pull::Frame(last().within(7))),
            // Frames as fast as they can be taken.
            _ => Ok(Pull::Lasting(last(), Duration::ZERO)),
        };
        if over {
            self.next_fault();
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Origin;

    #[test]
    fn frames_between_faults_are_those_of_the_source() {
        let place = tempfile::tempdir().unwrap();
        for class in ["cat", "dog"] {
            std::fs::create_dir(place.path().join(class)).unwrap();
            image::RgbImage::new(9, 9).save(place.path().join(class).join("1.png")).unwrap();
        }
        let origin: Origin = format!("faulty:folder:{}", place.path().display()).parse().unwrap();
        let mut source = origin.open(0).unwrap();
        let mut faults = 0;
        for at in 0..60 {
            match source.pull(Duration::ZERO) {
                Ok(Pull::Frame(frame)) if frame.width == 9 && faults == 0 => {
                    assert_eq!(frame.label.as_deref(), Some(["cat", "dog"][at % 2]));
                }
                Ok(Pull::End) => panic!(),
                _ => faults += 1,
            }
        }
        assert!(faults > 0);
        std::fs::remove_dir_all(place.path()).unwrap();
        assert!(matches!(origin.open(0), Err(SourceError::Gone { .. })), "a source that is not there is no faulty one");
    }
}
