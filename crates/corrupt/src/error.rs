//! What can be wrong with a request.

use crate::{Corruption, MAX_SIDE};
use thiserror::Error;

/// Why nothing was corrupted. Nothing has been written to the output then.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CorruptError {
    /// No corruption has this name.
    #[error("`{0}` is no corruption; there are {known}", known = Corruption::ALL.map(Corruption::name).join(", "))]
    UnknownCorruption(String),
    /// Severities are 1 to 5.
    #[error("a severity is 1 to 5, got {0}")]
    Severity(u8),
    /// An image has at least one pixel, and no more than [`MAX_SIDE`] a side.
    #[error("an image is 1 to {MAX_SIDE} pixels a side, got {height}x{width}")]
    Size {
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
    },
    /// A slice does not have its shape's length.
    #[error("{what} of {height}x{width} pixels have {expected} bytes, got {got}")]
    Length {
        /// Which slice.
        what: &'static str,
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
        /// Bytes of the shape.
        expected: usize,
        /// Bytes of the slice.
        got: usize,
    },
}
