//! Batch normalisation over rows of channels, fused with the residual addition and the ReLU that follow it.
//!
//! Ioffe and Szegedy, <https://arxiv.org/abs/1502.03167>. Rows are pixels: `rows = batch * height * width`. The
//! variance is the biased one (divided by `rows`), in what normalises as in what is returned. The residual is added
//! after normalisation and before the ReLU, as in He et al., <https://arxiv.org/abs/1512.03385>, figure 2.

mod walk;

use crate::Level;
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
    /// `[rows, channels]`
    pub dx: &'a mut [f32],
    /// `[channels]`
    pub dgamma: &'a mut [f32],
    /// `[channels]`
    pub dbeta: &'a mut [f32],
    /// `[rows, channels]`: wanted when there was a residual; `dy` where the ReLU let it through.
    pub d_residual: Option<&'a mut [f32]>,
}

/// Normalises by the statistics of the batch, which it returns:
/// `y = relu(gamma * (x - mean) / sqrt(var + epsilon) + beta + residual)`.
///
/// The statistics come from sums of deviations within chunks of rows, combined in f64, so a mean far from zero does no
/// harm.
///
/// # Shapes
/// - `x`, `residual`, `y`: `[rows, channels]`; `y` is overwritten
/// - `gamma`, `beta`: `[channels]`
///
/// # Panics
/// When the lengths do not match, or there is no row.
pub fn batch_norm_train(
    norm: &BatchNorm,
    x: &[f32],
    gamma: &[f32],
    beta: &[f32],
    residual: Option<&[f32]>,
    y: &mut [f32],
) -> Statistics {
    train_at(Level::detected(), norm, x, gamma, beta, residual, y)
}

/// The gradients of [`batch_norm_train`], through the statistics as well.
///
/// `statistics` are what the forward pass returned and `y` what it wrote; `y` is read only when `norm.relu`, as the
/// mask, and may be empty otherwise.
///
/// # Shapes
/// - `x`, `y`, `dy`: `[rows, channels]`
/// - `gamma`: `[channels]`
///
/// # Panics
/// When the lengths do not match.
pub fn batch_norm_train_backward(
    norm: &BatchNorm,
    x: &[f32],
    statistics: &Statistics,
    gamma: &[f32],
    y: &[f32],
    dy: &[f32],
    grads: BatchNormGrads<'_>,
) {
    backward_at(Level::detected(), norm, x, statistics, gamma, y, dy, grads, true);
}

/// Normalises by given (running) statistics, elementwise:
/// `y = relu(gamma * (x - mean) / sqrt(var + epsilon) + beta + residual)`.
///
/// # Shapes
/// As [`batch_norm_train`].
///
/// # Panics
/// When the lengths do not match.
pub fn batch_norm_frozen(
    norm: &BatchNorm,
    x: &[f32],
    statistics: &Statistics,
    gamma: &[f32],
    beta: &[f32],
    residual: Option<&[f32]>,
    y: &mut [f32],
) {
    normalise(Level::detected(), norm, x, statistics, gamma, beta, residual, y);
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
pub fn batch_norm_frozen_backward(
    norm: &BatchNorm,
    x: &[f32],
    statistics: &Statistics,
    gamma: &[f32],
    y: &[f32],
    dy: &[f32],
    grads: BatchNormGrads<'_>,
) {
    backward_at(Level::detected(), norm, x, statistics, gamma, y, dy, grads, false);
}

fn train_at(
    level: Level,
    norm: &BatchNorm,
    x: &[f32],
    gamma: &[f32],
    beta: &[f32],
    residual: Option<&[f32]>,
    y: &mut [f32],
) -> Statistics {
    norm.check_rows("input", x.len(), x.len());
    assert!(!x.is_empty(), "there is no batch to take statistics of");
    let statistics = moments(level, norm.channels, x);
    normalise(level, norm, x, &statistics, gamma, beta, residual, y);
    statistics
}

/// Combines the chunks' counts, means and squared deviations: Chan, Golub and LeVeque, "Updating formulae and a
/// pairwise algorithm for computing sample variances", 1979.
fn moments(level: Level, channels: usize, x: &[f32]) -> Statistics {
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
fn normalise(
    level: Level,
    norm: &BatchNorm,
    x: &[f32],
    statistics: &Statistics,
    gamma: &[f32],
    beta: &[f32],
    residual: Option<&[f32]>,
    y: &mut [f32],
) {
    norm.check_channels(&[&statistics.mean, &statistics.var, gamma, beta]);
    norm.check_rows("output", y.len(), x.len());
    if let Some(residual) = residual {
        norm.check_rows("residual", residual.len(), x.len());
    }
    let scale: Vec<f32> = statistics.inv_std(norm.epsilon).iter().zip(gamma).map(|(s, g)| s * g).collect();
    ForEachChunk::new(norm.channels, x.len()).write(y, None, |range, y, _| {
        level.run(Normalise {
            channels: norm.channels,
            relu: norm.relu,
            mean: &statistics.mean,
            scale: &scale,
            beta,
            x: &x[range.clone()],
            residual: residual.map(|residual| &residual[range]),
            y,
        });
    });
}

#[allow(clippy::too_many_arguments)] // the operands of one formula
fn backward_at(
    level: Level,
    norm: &BatchNorm,
    x: &[f32],
    statistics: &Statistics,
    gamma: &[f32],
    y: &[f32],
    dy: &[f32],
    grads: BatchNormGrads<'_>,
    through_statistics: bool,
) {
    let BatchNormGrads { dx, dgamma, dbeta, mut d_residual } = grads;
    let channels = norm.channels;
    let parameters = through_statistics || !dgamma.is_empty() || !dbeta.is_empty();
    norm.check_channels(&[&statistics.mean, &statistics.var, gamma]);
    norm.check_rows("dy", dy.len(), dx.len());
    if parameters {
        norm.check_channels(&[dgamma, dbeta]);
        norm.check_rows("input", x.len(), dx.len());
    }
    if norm.relu {
        norm.check_rows("y", y.len(), dx.len());
    }
    if let Some(d_residual) = &d_residual {
        norm.check_rows("d_residual", d_residual.len(), dx.len());
    }
    let chunks = ForEachChunk::new(channels, dx.len());
    let gate = norm.relu.then_some(y);
    let inv_std = statistics.inv_std(norm.epsilon);
    if parameters {
        // Sums over rows of dy and of dy * (x - mean), and d_residual on the way.
        let parts = chunks.sums_writing(d_residual.as_deref_mut(), |range, out, masked| {
            level.run(Sums {
                channels,
                mean: &statistics.mean,
                x: &x[range.clone()],
                gate: gate.map(|gate| &gate[range.clone()]),
                dy: &dy[range],
                masked,
                out,
            });
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
    let rows = (dx.len() / channels) as f32;
    let scale: Vec<f32> = inv_std.iter().zip(gamma).map(|(s, g)| s * g).collect();
    let through = through_statistics.then(|| {
        let constant: Vec<f32> = dbeta.iter().map(|dbeta| dbeta / rows).collect();
        let slope: Vec<f32> = dgamma.iter().zip(&inv_std).map(|(dgamma, s)| dgamma / rows * s).collect();
        (constant, slope)
    });
    // The first pass has already masked dy when there is a residual: read that and not y.
    let (masked, to_mask) = match d_residual {
        Some(d_residual) if parameters => (Some(&*d_residual), None),
        other => (None, other),
    };
    let gate = if masked.is_some() { None } else { gate };
    let dy = masked.unwrap_or(dy);
    chunks.write(dx, to_mask, |range, dx, masked| {
        level.run(Backward {
            channels,
            scale: &scale,
            through: through.as_ref().map(|(constant, slope)| walk::Through {
                mean: &statistics.mean,
                constant,
                slope,
                x: &x[range.clone()],
            }),
            gate: gate.map(|gate| &gate[range.clone()]),
            dy: &dy[range],
            masked,
            dx,
        });
    });
}

impl BatchNorm {
    fn check_rows(&self, what: &str, given: usize, wanted: usize) {
        let channels = self.channels;
        assert!(channels > 0 && wanted.is_multiple_of(channels), "{wanted} values are not rows of {channels} channels");
        assert_eq!(given, wanted, "{what}: {given} values for {} rows of {channels} channels", wanted / channels);
    }

    fn check_channels(&self, vectors: &[&[f32]]) {
        for vector in vectors {
            assert_eq!(vector.len(), self.channels, "values per channel: given (left), channels (right)");
        }
    }
}

#[cfg(test)]
mod tests;
