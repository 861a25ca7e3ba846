//! The capture thread: keeps a source open, says how it does, and hands over the newest frame.

use crate::frame::Frame;
use crate::latest::{Latest, Switch};
use crate::source::{Origin, Pull, Source, SourceError};
use crate::state::Feed;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a source may make the thread wait at once.
const PATIENCE: Duration = Duration::from_millis(250);
/// Broken frames in a row after which a source is opened again.
const MOST_BROKEN: u32 = 8;

/// What takes no longer is no pause of the program.
const PAUSE: Duration = Duration::from_millis(1);

/// How a source is kept.
#[derive(Clone, Debug)]
pub struct Capture {
    /// What is opened.
    pub origin: Origin,
    /// Seeds what is drawn.
    pub seed: u64,
    /// Shortest time between two frames.
    pub interval: Duration,
    /// First wait before a lost source is opened again; doubled each time.
    pub backoff: Duration,
    /// Longest such wait.
    pub longest_backoff: Duration,
    /// A frame that is shown for longer is said to be live after each such time.
    pub sign: Duration,
}

impl Capture {
    /// Runs until stopped. `tell` hears how the source does whenever that changes.
    pub fn run(&self, switch: &Switch, frames: &Latest<Arc<Frame>>, tell: &mut dyn FnMut(Feed, String)) {
        let mut source: Option<Box<dyn Source>> = None;
        let mut backoff = self.backoff;
        let mut broken = 0;
        loop {
            let before = Instant::now();
            if !switch.awake() {
                return;
            }
            let asked = Instant::now();
            if let Some(source) = source.as_mut().filter(|_| asked - before > PAUSE) {
                source.rested(asked - before);
            }
            let answer = match &mut source {
                Some(source) => source.pull(PATIENCE),
                closed => match self.origin.open(self.seed) {
                    Ok(opened) => closed.insert(opened).pull(PATIENCE),
                    Err(error) => Err(error),
                },
            };
            let mut live = true;
            let rest = match answer {
                Ok(Pull::Frame(frame)) => {
                    (broken, backoff) = (0, self.backoff);
                    frames.put(Arc::new(frame));
                    tell(Feed::Live, String::new());
                    self.interval
                }
                Ok(Pull::Lasting(frame, time)) => {
                    (broken, backoff) = (0, self.backoff);
                    frames.put(Arc::new(frame));
                    tell(Feed::Live, String::new());
                    time.max(self.interval)
                }
                Ok(Pull::Waiting) => {
                    // A source that answers at once is not asked all the time.
                    if !switch.rest(PATIENCE.saturating_sub(asked.elapsed())) {
                        return;
                    }
                    continue;
                }
                Ok(Pull::End) => {
                    tell(Feed::Ended, String::new());
                    return;
                }
                Err(error @ SourceError::Broken { .. }) => {
                    (broken, live) = (broken + 1, false);
                    tell(Feed::Broken(broken), error.to_string());
                    if broken % MOST_BROKEN == 0 {
                        source = None;
                    }
                    self.interval.max(Duration::from_millis(20))
                }
                Err(error @ SourceError::Gone { .. }) => {
                    source = None;
                    broken = 0;
                    tell(Feed::Lost(backoff.as_secs().max(1)), error.to_string());
                    if !switch.rest(backoff) {
                        return;
                    }
                    backoff = (2 * backoff).min(self.longest_backoff);
                    continue;
                }
            };
            let end = asked + rest;
            while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
                if !switch.rest(if live { left.min(self.sign) } else { left }) {
                    return;
                }
                if live && end > Instant::now() {
                    tell(Feed::Live, String::new());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn capture(origin: Origin) -> Capture {
        let (backoff, longest_backoff) = (Duration::from_millis(1), Duration::from_millis(4));
        let (interval, sign) = (Duration::from_millis(1), Duration::from_secs(1));
        Capture { origin, seed: 0, interval, backoff, longest_backoff, sign }
    }

    /// What is told until `enough`.
    fn told(capture: &Capture, mut enough: impl FnMut(&[Feed]) -> bool) -> Vec<Feed> {
        let (switch, frames) = (Switch::default(), Latest::default());
        let mut told = Vec::new();
        capture.run(&switch, &frames, &mut |feed, _| {
            if told.last() != Some(&feed) {
                told.push(feed);
            }
            if enough(&told) {
                switch.stop();
            }
        });
        told
    }

    #[test]
    fn a_source_that_misbehaves_is_said_and_comes_back() {
        let told = told(&capture(Origin::Synth.faulty()), |told| {
            let lost = told.iter().any(|feed| matches!(feed, Feed::Lost(_)));
            let broken = told.iter().any(|feed| matches!(feed, Feed::Broken(_)));
            lost && broken && told.last() == Some(&Feed::Live)
        });
        assert!(told.contains(&Feed::Live));
    }

    #[test]
    fn a_slow_source_is_alive_between_its_frames() {
        let (interval, sign) = (Duration::from_secs(3600), Duration::from_millis(1));
        let slow = Capture { interval, sign, ..capture(Origin::Synth) };
        let (switch, frames) = (Switch::default(), Latest::default());
        let mut lives = 0;
        slow.run(&switch, &frames, &mut |feed, _| {
            assert_eq!(feed, Feed::Live);
            lives += 1;
            if lives == 5 {
                switch.stop();
            }
        });
        assert_eq!(lives, 5);
    }

    #[test]
    fn a_file_that_is_put_back_is_opened_again() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("a.png");
        let save = |path: &Path| image::RgbImage::new(2, 2).save(path).unwrap();
        let mut lost = 0;
        let told = told(&capture(Origin::File(path.clone())), |told| {
            lost += usize::from(matches!(told.last(), Some(Feed::Lost(_))));
            if lost == 3 {
                save(&path);
            }
            told.last() == Some(&Feed::Live)
        });
        assert_eq!(told, [Feed::Lost(1), Feed::Live]);
    }
}
