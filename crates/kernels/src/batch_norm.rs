//! Batch normalisation over rows of channels, fused with the residual addition and the ReLU that follow it.
//!
//! Ioffe and Szegedy, <https://arxiv.org/abs/1502.03167>. Rows are pixels: `rows = batch * height * width`. The
//! variance is the biased one (divided by `rows`), in what normalises as in what is returned. The residual is added
//! after normalisation and before the ReLU, as in He et al., <https://arxiv.org/abs/1512.03385>, figure 2. The input is f32,
//! or bf16 where half of the memory matters more than its last bits.

mod walk;

use crate::Level;
use crate::vector::{Element, words};
use std::ops::Range;
use walk::{Backward, ForEachChunk, Moments, Normalise, Sums};

/// What a normalisation is, apart from its data.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchNorm {
    /// Values per row.
    pub channels: usize,
    /// Added to the variance before its root is taken; torch's default is 1e-5.
    pub epsilon: f32,
    /// Whether `max(_, 0)` ends the operation.
    pub relu: bool,
}

/// Mean and biased variance of each channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Statistics {
    /// `[channels]`
    pub mean: Vec<f32>,
    /// `[channels]`
    pub var: Vec<f32>,
}

impl Statistics {
    /// `1 / sqrt(var + epsilon)`, `[channels]`.
    pub fn inv_std(&self, epsilon: f32) -> Vec<f32> {
        self.var.iter().map(|var| (1.0 / (f64::from(*var) + f64::from(epsilon)).sqrt()) as f32).collect()
    }
}

/// Where the gradients go; all are overwritten.
#[derive(Debug)]
pub struct BatchNormGrads<'a> {
    /// `[rows, channels]`, `dy` on the way in. Without `dx` it becomes the gradient of the input; with it, that of the
    /// residual: `dy` where the ReLU let it through.
    pub dy: &'a mut [f32],
    /// `[rows, channels]`: wanted when there was a residual, else empty.
    pub dx: &'a mut [f32],
    /// `[channels]`
    pub dgamma: &'a mut [f32],
    /// `[channels]`
    pub dbeta: &'a mut [f32],
}

/// Normalises by the statistics of the batch, which it returns:
/// `y = relu(gamma * (x - mean) / sqrt(var + epsilon) + beta + residual)`.
///
/// The statistics come from sums of deviations within chunks of rows, combined in f64, so a mean far from zero does no
/// harm. Of `y` the gradients need its signs alone: they go to `mask`, so that `y` itself need not be kept.
///
/// # Shapes
/// - `x`, `residual`, `y`: `[rows, channels]`; `y` is overwritten
/// - `gamma`, `beta`: `[channels]`
/// - `mask`: [`BatchNorm::mask_len`], overwritten, or empty where no gradient is wanted
///
/// # Panics
/// When the lengths do not match, or there is no row.
pub fn batch_norm_train<X: Element>(
    norm: &BatchNorm,
    x: &[X],
    gamma: &[f32],
    beta: &[f32],
    residual: Option<&[f32]>,
    y: &mut [f32],
    mask: &mut [u16],
) -> Statistics {
    train_at(Level::current(), norm, x, gamma, beta, residual, y, mask)
}

/// The gradients of [`batch_norm_train`], through the statistics as well.
///
/// `statistics` are what the forward pass returned and `mask` what it wrote, which is read only when `norm.relu`.
///
/// # Shapes
/// - `x`: `[rows, channels]`
/// - `gamma`: `[channels]`
///
/// # Panics
/// When the lengths do not match.
pub fn batch_norm_train_backward<X: Element>(
    norm: &BatchNorm,
    x: &[X],
    statistics: &Statistics,
    gamma: &[f32],
    mask: &[u16],
    grads: BatchNormGrads<'_>,
) {
    backward_at(Level::current(), norm, x, statistics, gamma, mask, grads, true);
}

/// Normalises by given (running) statistics, elementwise:
/// `y = relu(gamma * (x - mean) / sqrt(var + epsilon) + beta + residual)`. With the statistics of the batch it gives
/// [`batch_norm_train`]'s `y` again, bit for bit.
///
/// # Shapes
/// As [`batch_norm_train`].
///
/// # Panics
/// When the lengths do not match.
#[allow(clippy::too_many_arguments)] // the operands of one formula
pub fn batch_norm_frozen<X: Element>(
    norm: &BatchNorm,
    x: &[X],
    statistics: &Statistics,
    gamma: &[f32],
    beta: &[f32],
    residual: Option<&[f32]>,
    y: &mut [f32],
    mask: &mut [u16],
) {
    normalise(Level::current(), norm, x, statistics, gamma, beta, residual, y, mask);
}

/// The gradients of [`batch_norm_frozen`]; the statistics are constants.
///
/// An attack needs `dx` alone: with empty `dgamma` and `dbeta` they are not computed, and `x` may be empty too.
///
/// # Shapes
/// As [`batch_norm_train_backward`].
///
/// # Panics
/// When the lengths do not match.
pub fn batch_norm_frozen_backward<X: Element>(
    norm: &BatchNorm,
    x: &[X],
    statistics: &Statistics,
    gamma: &[f32],
    mask: &[u16],
    grads: BatchNormGrads<'_>,
) {
    backward_at(Level::current(), norm, x, statistics, gamma, mask, grads, false);
}

#[allow(clippy::too_many_arguments)] // the operands of one formula
fn train_at<X: Element>(
    level: Level,
    norm: &BatchNorm,
    x: &[X],
    gamma: &[f32],
    beta: &[f32],
    residual: Option<&[f32]>,
    y: &mut [f32],
    mask: &mut [u16],
) -> Statistics {
    norm.check_rows("input", x.len(), x.len());
    assert!(!x.is_empty(), "there is no batch to take statistics of");
    let statistics = moments(level, norm.channels, x);
    normalise(level, norm, x, &statistics, gamma, beta, residual, y, mask);
    statistics
}

/// Combines the chunks' counts, means and squared deviations: Chan, Golub and LeVeque, "Updating formulae and a
/// pairwise algorithm for computing sample variances", 1979.
fn moments<X: Element>(level: Level, channels: usize, x: &[X]) -> Statistics {
    let chunks = ForEachChunk::new(channels, x.len());
    let parts = chunks.sums(|range, out| level.run(Moments { channels, x: &x[range], out }));
    let (mut mean, mut squares, mut count) = (vec![0f64; channels], vec![0f64; channels], 0f64);
    for (part, rows) in parts.chunks_exact(2 * channels).zip(chunks.rows()) {
        let rows = rows as f64;
        let total = count + rows;
        for c in 0..channels {
            let delta = f64::from(part[c]) - mean[c];
            mean[c] += delta * rows / total;
            squares[c] += f64::from(part[channels + c]) + delta * delta * count * rows / total;
        }
        count = total;
    }
    Statistics {
        mean: mean.into_iter().map(|mean| mean as f32).collect(),
        var: squares.into_iter().map(|squares| (squares / count) as f32).collect(),
    }
}

#[allow(clippy::too_many_arguments)] // the operands of one formula
fn normalise<X: Element>(
    level: Level,
    norm: &BatchNorm,
    x: &[X],
    statistics: &Statistics,
    gamma: &[f32],
    beta: &[f32],
    residual: Option<&[f32]>,
    y: &mut [f32],
    mask: &mut [u16],
) {
    norm.check_channels(&[&statistics.mean, &statistics.var, gamma, beta]);
    norm.check_rows("output", y.len(), x.len());
    if let Some(residual) = residual {
        norm.check_rows("residual", residual.len(), x.len());
    }
    if !mask.is_empty() {
        norm.check_mask(level, mask.len(), x.len());
    }
    let scale: Vec<f32> = statistics.inv_std(norm.epsilon).iter().zip(gamma).map(|(s, g)| s * g).collect();
    let words = words(norm.channels, level.lanes());
    ForEachChunk::new(norm.channels, x.len()).write(y, mask, words, |range, y, mask| {
        level.run(Normalise {
            channels: norm.channels,
            relu: norm.relu,
            mean: &statistics.mean,
            scale: &scale,
            beta,
            x: &x[range.clone()],
            residual: residual.map(|residual| &residual[range]),
            y,
            mask,
        });
    });
}

#[allow(clippy::too_many_arguments)] // the operands of one formula
fn backward_at<X: Element>(
    level: Level,
    norm: &BatchNorm,
    x: &[X],
    statistics: &Statistics,
    gamma: &[f32],
    mask: &[u16],
    grads: BatchNormGrads<'_>,
    through_statistics: bool,
) {
    let BatchNormGrads { dy, dx, dgamma, dbeta } = grads;
    let channels = norm.channels;
    let parameters = through_statistics || !dgamma.is_empty() || !dbeta.is_empty();
    norm.check_channels(&[&statistics.mean, &statistics.var, gamma]);
    norm.check_rows("dy", dy.len(), dy.len());
    if !dx.is_empty() {
        norm.check_rows("dx", dx.len(), dy.len());
    }
    if parameters {
        norm.check_channels(&[dgamma, dbeta]);
        norm.check_rows("input", x.len(), dy.len());
    }
    if norm.relu {
        norm.check_mask(level, mask.len(), dy.len());
    }
    let chunks = ForEachChunk::new(channels, dy.len());
    let words = words(channels, level.lanes());
    let mask_of =
        |range: &Range<usize>| norm.relu.then(|| &mask[range.start / channels * words..range.end / channels * words]);
    let inv_std = statistics.inv_std(norm.epsilon);
    if parameters {
        // Sums over rows of dy and of dy * (x - mean).
        let parts = chunks.sums(|range, out| {
            let (mask, mean) = (mask_of(&range), &statistics.mean);
            level.run(Sums { channels, mean, x: &x[range.clone()], mask, dy: &dy[range], out });
        });
        let mut sums = vec![0f64; 2 * channels];
        for part in parts.chunks_exact(2 * channels) {
            for (sum, part) in sums.iter_mut().zip(part) {
                *sum += f64::from(*part);
            }
        }
        for c in 0..channels {
            dbeta[c] = sums[c] as f32;
            dgamma[c] = (sums[channels + c] * f64::from(inv_std[c])) as f32;
        }
    }
    // dx = scale * (dy - mean(dy) - xhat * mean(dy * xhat)), with xhat = (x - mean) * inv_std.
    let rows = (dy.len() / channels) as f32;
    let scale: Vec<f32> = inv_std.iter().zip(gamma).map(|(s, g)| s * g).collect();
    let through = through_statistics.then(|| {
        let constant: Vec<f32> = dbeta.iter().map(|dbeta| dbeta / rows).collect();
        let slope: Vec<f32> = dgamma.iter().zip(&inv_std).map(|(dgamma, s)| dgamma / rows * s).collect();
        (constant, slope)
    });
    chunks.write(dy, dx, channels, |range, dy, dx| {
        let mask = mask_of(&range);
        let through = through.as_ref().map(|(constant, slope)| walk::Through {
            mean: &statistics.mean,
            constant,
            slope,
            x: &x[range],
        });
        level.run(Backward { channels, scale: &scale, through, mask, dy, dx });
    });
}

impl BatchNorm {
    /// Words of the mask of so many values.
    pub fn mask_len(&self, values: usize) -> usize {
        values / self.channels * words(self.channels, Level::current().lanes())
    }

    fn check_rows(&self, what: &str, given: usize, wanted: usize) {
        let channels = self.channels;
        assert!(channels > 0 && wanted.is_multiple_of(channels), "{wanted} values are not rows of {channels} channels");
        assert_eq!(given, wanted, "{what}: {given} values for {} rows of {channels} channels", wanted / channels);
    }

    fn check_mask(&self, level: Level, given: usize, values: usize) {
        let wanted = values / self.channels * words(self.channels, level.lanes());
        assert_eq!(given, wanted, "words of mask: given (left), wanted (right)");
    }

    fn check_channels(&self, vectors: &[&[f32]]) {
        for vector in vectors {
            assert_eq!(vector.len(), self.channels, "values per channel: given (left), channels (right)");
        }
    }
}

#[cfg(test)]
mod tests;
