//! A queue of a fixed length between the thread that waits and those that compute.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// First in, first out.
pub struct Queue<T> {
    inner: Mutex<Inner<T>>,
    changed: Condvar,
    length: usize,
}

struct Inner<T> {
    waiting: VecDeque<T>,
    /// Of those who wait for something to do.
    idle: usize,
    closed: bool,
}

impl<T> Queue<T> {
    pub fn new(length: usize) -> Self {
        let inner = Inner { waiting: VecDeque::with_capacity(length), idle: 0, closed: false };
        Self { inner: Mutex::new(inner), changed: Condvar::new(), length }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives it back where the queue is full or closed. What an idle worker is about to take does not count.
    pub fn push(&self, item: T) -> Result<(), T> {
        let mut inner = self.lock();
        if inner.closed || inner.waiting.len() >= self.length + inner.idle {
            return Err(item);
        }
        inner.waiting.push_back(item);
        drop(inner);
        self.changed.notify_one();
        Ok(())
    }

    /// The next, once there is one; none once the queue is closed and empty.
    pub fn pop(&self) -> Option<T> {
        let mut inner = self.lock();
        loop {
            if let Some(item) = inner.waiting.pop_front() {
                return Some(item);
            }
            if inner.closed {
                return None;
            }
            inner.idle += 1;
            inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
            inner.idle -= 1;
        }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Takes no more; what waits is still given out.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_gives_back_and_a_closed_one_is_emptied() {
        let queue = Queue::new(2);
        assert_eq!((queue.push(1), queue.push(2), queue.push(3)), (Ok(()), Ok(()), Err(3)));
        assert_eq!((queue.pop(), queue.push(4), queue.len()), (Some(1), Ok(()), 2));
        queue.close();
        assert_eq!(queue.push(5), Err(5));
        assert_eq!([queue.pop(), queue.pop(), queue.pop()], [Some(2), Some(4), None]);
    }

    #[test]
    fn everything_is_taken_once() {
        let queue = Queue::new(1000);
        let sum: u32 = std::thread::scope(|scope| {
            let workers: Vec<_> =
                (0..4).map(|_| scope.spawn(|| std::iter::from_fn(|| queue.pop()).sum::<u32>())).collect();
            (0..1000).for_each(|number| queue.push(number).unwrap());
            queue.close();
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        assert_eq!(sum, 999 * 1000 / 2);
    }
}
