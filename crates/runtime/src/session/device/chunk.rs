//! How many views go to a device at once: as many as it has shown to compute well within a driver's patience.

use super::super::BATCH;
use std::time::Duration;

/// A dispatch that takes longer risks the driver's watchdog; the strictest of them give up after two seconds.
const LONGEST: Duration = Duration::from_millis(500);

/// Views of the first pass; a device that is too slow for these is one to do without.
const FIRST: usize = 8;

/// Views at once. What was computed in half the time that is allowed is doubled, what took too long is halved, and never is
/// it more than there was memory for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk {
    views: usize,
    most: usize,
    /// By bits, the numbers of views that were computed before: the first time compiles kernels and tells nothing.
    warm: u128,
}

impl Chunk {
    pub(super) fn new() -> Self {
        Self { views: FIRST, most: BATCH as usize, warm: 0 }
    }

    pub(super) fn views(&self) -> usize {
        self.views
    }

    /// So many views took so long.
    pub(super) fn took(&mut self, views: usize, time: Duration) {
        let bit = 1 << views.min(127);
        if self.warm & bit == 0 {
            self.warm |= bit;
        } else if time > LONGEST {
            self.views = self.views.min(views / 2).max(1);
        } else if views == self.views && 2 * time <= LONGEST {
            self.views = (2 * views).min(self.most);
        }
    }

    /// There was no memory for so many views.
    pub(super) fn too_many(&mut self, views: usize) {
        self.most = self.most.min(views / 2).max(1);
        self.views = self.views.min(self.most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// What passes over `all` views of so many milliseconds each do to a chunk.
    fn pass(chunk: &mut Chunk, all: usize, each: u64) -> usize {
        let (mut done, mut largest) = (0, 0);
        while done < all {
            let views = chunk.views().min(all - done);
            chunk.took(views, millis(each * views as u64));
            (done, largest) = (done + views, largest.max(views));
        }
        largest
    }

    #[test]
    fn a_fast_device_is_soon_given_all() {
        let mut chunk = Chunk::new();
        assert_eq!([64; 5].map(|all| pass(&mut chunk, all, 1)), [16, 32, 64, 64, 64]);
    }

    #[test]
    fn a_slow_device_gets_what_it_can_do_in_time() {
        let mut chunk = Chunk::new();
        for _ in 0..4 {
            assert!(pass(&mut chunk, 64, 40) <= 8, "16 views would take longer than is allowed");
        }
        // It slows down, and recovers.
        for _ in 0..4 {
            pass(&mut chunk, 64, 100);
        }
        assert_eq!(chunk.views(), 4);
        for _ in 0..4 {
            pass(&mut chunk, 64, 1);
        }
        assert_eq!(chunk.views(), 64);
    }

    #[test]
    fn compiling_is_not_computing() {
        let mut chunk = Chunk::new();
        for views in [8, 7, 3] {
            chunk.took(views, millis(60_000));
            assert_eq!(chunk.views(), FIRST);
        }
    }

    proptest! {
        #[test]
        fn there_is_always_a_view_and_never_more_than_memory(
            events in prop::collection::vec((1usize..5000, 0u64..2000, any::<bool>()), 0..60),
        ) {
            let (mut chunk, mut most) = (Chunk::new(), BATCH as usize);
            for (views, time, memory) in events {
                let views = views.min(chunk.views());
                if memory {
                    chunk.too_many(views);
                    most = most.min((views / 2).max(1));
                } else {
                    chunk.took(views, millis(time));
                }
                prop_assert!((1..=most).contains(&chunk.views()));
            }
        }
    }
}
