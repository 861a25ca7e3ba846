//! Accuracy under the common corruptions of Hendrycks and Dietterich 2019 (<https://arxiv.org/abs/1903.12261>).

use crate::measure::Rate;
use serde::Serialize;

/// Accuracy on corrupted images.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Corruptions {
    /// Every corruption at every severity.
    pub rows: Vec<CorruptionRow>,
    /// Mean corruption accuracy: over all rows.
    pub mean: f64,
}

/// One corruption at one severity.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CorruptionRow {
    /// Such as `gaussian-noise`.
    pub name: String,
    /// `noise`, `blur`, `weather` or `digital`.
    pub family: String,
    /// 1 to 5.
    pub severity: u8,
    /// Images that stay right.
    pub rate: Rate,
}
