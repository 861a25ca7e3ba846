//! Threads of a handle, which end with it: a library that is unloaded leaves none behind.

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};
use std::thread::{Builder, JoinHandle};

/// Most threads of a session.
pub(crate) const MOST_THREADS: u32 = 1024;

/// Threads that compute; rayon's own pool would live as long as the process.
#[derive(Debug)]
pub(crate) struct Pool {
    /// Taken when it ends.
    pool: Option<ThreadPool>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// So many threads; 0 for one a core.
    pub(crate) fn new(threads: u32) -> Result<Self, ThreadPoolBuildError> {
        let count = match threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads as usize,
        };
        let mut threads = Vec::with_capacity(count);
        let pool = ThreadPoolBuilder::new()
            .num_threads(count)
            .spawn_handler(|thread| {
                threads.push(Builder::new().name("gabion".into()).spawn(|| thread.run())?);
                Ok(())
            })
            .build()?;
        Ok(Self { pool: Some(pool), threads })
    }

    /// Rayon's pool.
    pub(crate) fn rayon(&self) -> &ThreadPool {
        self.pool.as_ref().expect("it is taken when it ends")
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // Tells the threads to end.
        drop(self.pool.take());
        for thread in self.threads.drain(..) {
            // A thread that panicked has ended as well.
            let _ = thread.join();
        }
    }
}
