//! The objectives: EMP-SSL (Tong et al. 2023, <https://github.com/tsb0601/EMP-SSL>) and NT-Xent (Chen et al. 2020), and
//! the classification losses that attacks ascend.

use burn::Tensor;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, TensorData};
use gabion_spec as spec;

/// A loss and the named terms that it is made of, each `[1]`.
pub struct Loss {
    /// What is minimised.
    pub total: Tensor<1>,
    /// Terms for the log, without a graph.
    pub terms: Vec<(&'static str, Tensor<1>)>,
}

/// The objective of a recipe.
///
/// # Shapes
/// - `projection`: `[views * batch, d]`, view-major, rows of length 1
pub fn objective(loss: &spec::Loss, projection: Tensor<2>, views: usize) -> Loss {
    let [rows, d] = projection.dims();
    assert!(rows.is_multiple_of(views), "{rows} rows are not {views} views of whole images");
    let z = projection.reshape([views, rows / views, d]);
    match *loss {
        spec::Loss::EmpSsl { invariance_weight, tcr_weight, distortion } => {
            let same = invariance(z.clone());
            let rate = coding_rate(z, distortion).mean();
            Loss {
                total: same.clone().mul_scalar(invariance_weight) - rate.clone().mul_scalar(tcr_weight),
                terms: vec![("invariance", same.detach()), ("coding_rate", rate.detach())],
            }
        }
        spec::Loss::SimClr { temperature, supcon_scale } => {
            assert_eq!(views, 2, "NT-Xent compares two views");
            let total = nt_xent(z.reshape([rows, d]), temperature, supcon_scale);
            Loss { total, terms: Vec::new() }
        }
    }
}

/// `-mean_{v,b} cos(z_vb, mean_v z_vb)`, the mean not detached.
///
/// # Shapes
/// - `z`: `[views, batch, d]`, output: `[1]`
pub fn invariance(z: Tensor<3>) -> Tensor<1> {
    let mean = z.clone().mean_dim(0);
    let length = |x: Tensor<3>| x.square().sum_dim(2).clamp_min(1e-16).sqrt();
    let cosine = (z.clone() * mean.clone()).sum_dim(2) / (length(z) * length(mean));
    cosine.mean().neg()
}

/// Total Coding Rate of each view, `1/2 logdet(I + d / (b distortion) Z^T Z)`; higher for spread embeddings.
///
/// The determinant is taken of the smaller Gram side, in f64 on the host (exact and the same on every device);
/// its gradient, `c/2 (I + c G)^-1`, goes back through the surrogate `s - s.detach() + value`.
///
/// # Shapes
/// - `z`: `[views, batch, d]`, rows of length 1; output: `[views]`
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
pub fn coding_rate(z: Tensor<3>, distortion: f64) -> Tensor<1> {
    let [views, batch, d] = z.dims();
    let c = d as f64 / (batch as f64 * distortion);
    let transposed = z.clone().transpose();
    let gram = if batch < d { z.matmul(transposed) } else { transposed.matmul(z) };
    let side = batch.min(d);
    let device = gram.device();
    let values = gram.clone().detach().into_data_as::<f32>().try_into_vec::<f32>().expect("f32 was asked for");
    let mut rates = Vec::with_capacity(views);
    let mut slopes = Vec::with_capacity(views * side * side);
    for gram in values.chunks_exact(side * side) {
        let mut matrix: Vec<f64> = gram.iter().map(|&g| c * f64::from(g)).collect();
        for i in 0..side {
            matrix[i * side + i] += 1.0;
        }
        match log_determinant_and_inverse(&matrix, side) {
            Some((log_determinant, inverse)) => {
                rates.push((0.5 * log_determinant) as f32);
                slopes.extend(inverse.iter().map(|x| (0.5 * c * x) as f32));
            }
            // Not positive definite: a NaN or infinity came in. It goes on as NaN, and the training loop stops on it.
            None => {
                rates.push(f32::NAN);
                slopes.extend(std::iter::repeat_n(f32::NAN, side * side));
            }
        }
    }
    let slopes = Tensor::<3>::from_data(TensorData::new(slopes, [views, side, side]), &device);
    let rates = Tensor::<1>::from_data(TensorData::new(rates, [views]), &device);
    let surrogate = (gram * slopes).sum_dims(&[1, 2]).reshape([views]);
    surrogate.clone() - surrogate.detach() + rates
}

/// Of a symmetric positive definite matrix, by Cholesky; none when it is not one.
fn log_determinant_and_inverse(matrix: &[f64], n: usize) -> Option<(f64, Vec<f64>)> {
    // Lower factor L with A = L L^T, row by row: dot products of contiguous rows.
    let mut l = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..=i {
            let dot: f64 = (0..j).map(|k| l[i * n + k] * l[j * n + k]).sum();
            let rest = matrix[i * n + j] - dot;
            if i == j {
                if rest.is_nan() || rest <= 0.0 || rest.is_infinite() {
                    return None;
                }
                l[i * n + i] = rest.sqrt();
            } else {
                l[i * n + j] = rest / l[j * n + j];
            }
        }
    }
    let log_determinant = 2.0 * (0..n).map(|i| l[i * n + i].ln()).sum::<f64>();
    // M = L^-1, kept transposed so that both loops run along rows; then A^-1 = M^T M.
    let mut m = vec![0.0; n * n];
    for j in 0..n {
        m[j * n + j] = 1.0 / l[j * n + j];
        for i in j + 1..n {
            let dot: f64 = (j..i).map(|k| l[i * n + k] * m[j * n + k]).sum();
            m[j * n + i] = -dot / l[i * n + i];
        }
    }
    let mut inverse = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..=i {
            let dot: f64 = (i..n).map(|k| m[i * n + k] * m[j * n + k]).sum();
            inverse[i * n + j] = dot;
            inverse[j * n + i] = dot;
        }
    }
    Some((log_determinant, inverse))
}

/// NT-Xent over two views: every row is an anchor, its positive the other view of its image, its negatives all other
/// rows. With `supcon_scale` it is multiplied by `temperature / 0.07`, as in SupCon's code and the reference.
///
/// # Shapes
/// - `z`: `[2 * batch, d]`, first view first, rows of length 1; output: `[1]`
#[allow(clippy::cast_possible_wrap)]
pub fn nt_xent(z: Tensor<2>, temperature: f64, supcon_scale: bool) -> Tensor<1> {
    let [rows, _] = z.dims();
    let device = z.device();
    let itself = Tensor::<2>::eye(rows, &device).bool();
    let logits = z.clone().matmul(z.transpose()).div_scalar(temperature).mask_fill(itself, -1e9);
    let positives: Vec<i64> = (0..rows).map(|row| ((row + rows / 2) % rows) as i64).collect();
    let positives = Tensor::<2, Int>::from_data(TensorData::new(positives, [rows, 1]), &device);
    let scale = if supcon_scale { temperature / 0.07 } else { 1.0 };
    log_softmax(logits, 1).gather(1, positives).mean().mul_scalar(-scale)
}

/// Cross-entropy of each image.
///
/// # Shapes
/// - `logits`: `[batch, classes]`, `labels`: `[batch]`, output: `[batch]`
pub fn cross_entropy(logits: Tensor<2>, labels: Tensor<1, Int>) -> Tensor<1> {
    let [batch, _] = logits.dims();
    log_softmax(logits, 1).gather(1, labels.reshape([batch, 1])).reshape([batch]).neg()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cholesky_inverts_and_measures() {
        let n = 7;
        // A = B B^T + I of a fixed B.
        let b: Vec<f64> = (0..n * n).map(|i| ((i * 37 % 11) as f64 - 5.0) / 7.0).collect();
        let mut a = vec![0.0; n * n];
        for i in 0..n {
            for j in 0..n {
                a[i * n + j] = (0..n).map(|k| b[i * n + k] * b[j * n + k]).sum::<f64>() + f64::from(u8::from(i == j));
            }
        }
        let (_, inverse) = log_determinant_and_inverse(&a, n).unwrap();
        for i in 0..n {
            for j in 0..n {
                let entry: f64 = (0..n).map(|k| a[i * n + k] * inverse[k * n + j]).sum();
                assert!((entry - f64::from(u8::from(i == j))).abs() < 1e-12);
            }
        }
        let diagonal = [2.0, 0.0, 0.0, 3.0];
        let (log_determinant, _) = log_determinant_and_inverse(&diagonal, 2).unwrap();
        assert!((log_determinant - 6f64.ln()).abs() < 1e-15);
        assert!(log_determinant_and_inverse(&[1.0, 2.0, 2.0, 1.0], 2).is_none());
        assert!(log_determinant_and_inverse(&[f64::NAN], 1).is_none());
    }
}
