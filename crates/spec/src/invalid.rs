//! What is said of a key that makes no sense, and the checks that several recipes share.

use alloc::format;
use alloc::string::String;
use core::fmt;

/// A recipe whose keys contradict each other or make no sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// The key, dotted.
    pub key: &'static str,
    /// What is wrong and what to write instead.
    pub why: String,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {}", self.key, self.why)
    }
}

impl core::error::Error for Invalid {}

pub(crate) fn ensure(holds: bool, key: &'static str, why: impl FnOnce() -> String) -> Result<(), Invalid> {
    if holds { Ok(()) } else { Err(Invalid { key, why: why() }) }
}

pub(crate) fn probability(value: f64, key: &'static str) -> Result<(), Invalid> {
    ensure((0.0..=1.0).contains(&value), key, || format!("{value} is not a probability between 0 and 1"))
}

pub(crate) fn ordered([low, high]: [f64; 2], least: f64, most: f64, key: &'static str) -> Result<(), Invalid> {
    ensure(least <= low && low <= high && high <= most, key, || {
        format!("[{low}, {high}] must rise and stay within [{least}, {most}]")
    })
}

pub(crate) fn positive(value: f64, key: &'static str) -> Result<(), Invalid> {
    ensure(value > 0.0 && value.is_finite(), key, || format!("{value} is not a number above 0"))
}

pub(crate) fn not_negative(value: f64, key: &'static str) -> Result<(), Invalid> {
    ensure(value >= 0.0 && value.is_finite(), key, || format!("{value} is not a number from 0 on"))
}
