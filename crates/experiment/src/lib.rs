//! Data sets, runs, checkpoints, evaluation protocols and reports: all that reads, writes and measures.

pub mod bench;
pub mod checkpoint;
pub mod data;
pub mod demo;
pub mod evaluate;
mod features;
pub mod guard;
pub mod measure;
pub mod probe;
pub mod recipe;
pub mod report;
pub mod run;
pub mod sheet;
#[cfg(test)]
mod toy;
pub mod views;

/// Runs work on a thread of the pool that kernels share their work out on. Whoever calls kernel after kernel from outside
/// falls asleep and is woken for each of them. Not for work that waits for other threads which need the pool.
pub fn in_pool<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    rayon::scope(|_| work())
}

/// The commit that this was built from, or `unknown`.
pub const COMMIT: &str = env!("GABION_COMMIT");

/// Burn's version.
pub const BURN: &str = "0.22.1";
