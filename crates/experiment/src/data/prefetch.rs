//! Items prepared ahead by other threads and handed out in order.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A worker panicked while it prepared an item; nothing comes after it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("preparing item {index} panicked: {message}")]
pub struct Panicked {
    /// Which item.
    pub index: usize,
    /// What the panic said.
    pub message: String,
}

/// An iterator over `f(0), f(1), .. f(count - 1)` that worker threads run ahead of.
///
/// Items come in order whatever the number of workers, so a pure `f` gives the same row. At most `depth` items are in
/// preparation or waiting. Dropping it stops the workers after the item each is at.
#[derive(Debug)]
pub struct Prefetch<T> {
    shared: Arc<Shared<T>>,
    workers: Vec<JoinHandle<()>>,
    next: usize,
    count: usize,
    started: Instant,
    waited: Duration,
}

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    /// Signals workers that there is room, or that all is over.
    room: Condvar,
    /// Signals the consumer that an item is ready.
    ready: Condvar,
}

#[derive(Debug)]
struct State<T> {
    /// The next index that no worker has taken.
    untaken: usize,
    /// One past the last index that may be taken now.
    horizon: usize,
    ready: BTreeMap<usize, Result<T, Panicked>>,
}

impl<T> Shared<T> {
    /// No code that can panic runs under the lock, so a poisoned one is whole.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Send + 'static> Prefetch<T> {
    /// Starts `workers` threads (at least one) that stay at most `depth` items (at least one) ahead.
    ///
    /// # Panics
    /// When the system refuses a thread.
    pub fn new(workers: usize, depth: usize, count: usize, f: impl Fn(usize) -> T + Send + Sync + 'static) -> Self {
        let state = State { untaken: 0, horizon: depth.max(1).min(count), ready: BTreeMap::new() };
        let shared = Arc::new(Shared { state: Mutex::new(state), room: Condvar::new(), ready: Condvar::new() });
        let f = Arc::new(f);
        let worker = |number: usize| {
            let (shared, f) = (Arc::clone(&shared), Arc::clone(&f));
            let body = move || work(&shared, count, &*f);
            let thread = std::thread::Builder::new().name(format!("prefetch-{number}")).spawn(body);
            thread.expect("the system gives a thread")
        };
        let workers = (0..workers.clamp(1, count.max(1))).map(worker).collect();
        Self { shared, workers, next: 0, count, started: Instant::now(), waited: Duration::ZERO }
    }
}

fn work<T>(shared: &Shared<T>, count: usize, f: &impl Fn(usize) -> T) {
    loop {
        let mut state = shared.lock();
        while state.untaken < count && state.untaken >= state.horizon {
            state = shared.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.untaken >= count {
            return;
        }
        let index = state.untaken;
        state.untaken += 1;
        drop(state);

        let item = catch_unwind(AssertUnwindSafe(|| f(index))).map_err(|panic| {
            let text = panic.downcast_ref::<&str>().copied().map(str::to_owned);
            let message = text.or_else(|| panic.downcast_ref::<String>().cloned());
            Panicked { index, message: message.unwrap_or_else(|| "no message".into()) }
        });
        shared.lock().ready.insert(index, item);
        shared.ready.notify_one();
    }
}

impl<T> Prefetch<T> {
    /// How long the consumer has waited for items.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// How long it is since the workers were started.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Lets no worker take another item.
    fn stop(&mut self) {
        self.next = self.count;
        self.shared.lock().untaken = usize::MAX;
        self.shared.room.notify_all();
    }
}

impl<T> Iterator for Prefetch<T> {
    type Item = Result<T, Panicked>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.count {
            return None;
        }
        let asked = Instant::now();
        let mut state = self.shared.lock();
        let item = loop {
            match state.ready.remove(&self.next) {
                Some(item) => break item,
                None => state = self.shared.ready.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        };
        state.horizon = state.horizon.saturating_add(1).min(self.count);
        drop(state);
        self.waited += asked.elapsed();
        self.shared.room.notify_one();
        self.next += 1;
        if item.is_err() {
            self.stop();
        }
        Some(item)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        // A panic ends the row early.
        (usize::from(self.next < self.count), Some(self.count - self.next))
    }
}

impl<T> Drop for Prefetch<T> {
    fn drop(&mut self) {
        self.stop();
        for worker in self.workers.drain(..) {
            // A worker catches what `f` panics with, so there is nothing to learn here.
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn items_come_in_order_whatever_the_workers() {
        for (workers, depth, count) in [(0, 0, 5), (1, 1, 10), (4, 2, 100), (8, 32, 100), (3, 3, 0), (100, 1, 3)] {
            let jitter = |index: usize| {
                std::thread::sleep(Duration::from_micros((index as u64 * 7919) % 300));
                index * index
            };
            let row: Vec<_> = Prefetch::new(workers, depth, count, jitter).map(Result::unwrap).collect();
            assert_eq!(row, (0..count).map(|index| index * index).collect::<Vec<_>>());
        }
    }

    #[test]
    fn no_more_than_depth_items_are_made_ahead() {
        let made = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&made);
        let mut items = Prefetch::new(4, 3, 100, move |_| counter.fetch_add(1, Ordering::SeqCst));
        for taken in 1..=10 {
            items.next().unwrap().unwrap();
            std::thread::sleep(Duration::from_millis(5));
            assert!(made.load(Ordering::SeqCst) <= taken + 3);
        }
        drop(items);
        assert!(made.load(Ordering::SeqCst) <= 13);
    }

    #[test]
    fn a_panic_is_an_error_and_the_end() {
        let mut items = Prefetch::new(3, 4, 1000, |index| {
            assert!(index != 5, "five is out");
            index
        });
        assert_eq!(items.by_ref().take(5).map(Result::unwrap).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        let error = items.next().unwrap().unwrap_err();
        assert_eq!((error.index, error.message.as_str()), (5, "five is out"));
        assert!(items.next().is_none());
    }

    #[test]
    fn dropping_stops_at_once() {
        let started = Instant::now();
        let mut items = Prefetch::new(4, 8, usize::MAX, |index| {
            std::thread::sleep(Duration::from_millis(1));
            index
        });
        assert_eq!(items.next(), Some(Ok(0)));
        drop(items);
        drop(Prefetch::new(4, 1, 1_000_000, |index| index));
        assert!(started.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn waiting_is_counted() {
        let mut slow = Prefetch::new(1, 1, 2, |_| std::thread::sleep(Duration::from_millis(30)));
        assert_eq!(slow.by_ref().count(), 2);
        assert!(slow.waited() >= Duration::from_millis(40), "{:?}", slow.waited());
        assert!(slow.elapsed() >= slow.waited());
    }
}
