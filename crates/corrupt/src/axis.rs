//! Linear maps along one axis of an image: blurs and magnifications are one such map for rows and one for columns.
//!
//! An output is a weighted sum of a run of neighbouring inputs. Whatever lies beyond the border is folded back into
//! the weights when the map is made, so that applying it knows no borders.

/// Which pixel stands where there is none, as SciPy names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Border {
    /// `a a a | a b c d | d d d`
    Nearest,
    /// `c b a | a b c d | d c b`
    Reflect,
    /// `d c b | a b c d | c b a`, OpenCV's `BORDER_REFLECT_101`
    Mirror,
}

impl Border {
    /// The pixel of `n` that stands at `place`.
    #[inline(always)]
    pub(crate) fn index(self, place: isize, n: usize) -> usize {
        let last = n.cast_signed() - 1;
        if (0..=last).contains(&place) {
            return place.cast_unsigned();
        }
        let folded = match self {
            Self::Nearest => place.clamp(0, last),
            Self::Reflect => {
                let place = place.rem_euclid(2 * last + 2);
                place.min(2 * last + 1 - place)
            }
            Self::Mirror => {
                let place = place.rem_euclid((2 * last).max(1));
                place.min(2 * last - place).max(0)
            }
        };
        folded.cast_unsigned()
    }
}

/// A linear map from lines of one length to lines of another.
pub(crate) struct Axis {
    /// First input and first weight of every output, and of one beyond the last.
    runs: Vec<(usize, usize)>,
    weights: Vec<f32>,
}

impl Axis {
    fn with_outputs(n: usize) -> Self {
        Self { runs: Vec::with_capacity(n + 1), weights: Vec::new() }
    }

    /// Appends an output.
    fn push(&mut self, first: usize, weights: impl IntoIterator<Item = f32>) {
        self.runs.push((first, self.weights.len()));
        self.weights.extend(weights);
    }

    fn finished(mut self) -> Self {
        self.runs.push((0, self.weights.len()));
        self
    }

    /// Number of outputs.
    fn len(&self) -> usize {
        self.runs.len() - 1
    }

    /// The run of inputs of an output, and their weights.
    #[inline(always)]
    fn run(&self, output: usize) -> (usize, &[f32]) {
        let [(first, from), (_, to)] = [self.runs[output], self.runs[output + 1]];
        (first, &self.weights[from..to])
    }

    /// A Gaussian of `sigma` pixels, sampled, cut off at `truncate` sigmas and normalised: `scipy.ndimage`'s. A sigma
    /// of 0 changes nothing.
    pub(crate) fn gaussian(n: usize, sigma: f64, truncate: f64, border: Border) -> Self {
        let radius = (truncate * sigma + 0.5) as isize;
        let density = |tap: isize| if tap == 0 { 1.0 } else { (-0.5 * (tap as f64 / sigma).powi(2)).exp() };
        let densities: Vec<f64> = (-radius..=radius).map(density).collect();
        let sum: f64 = densities.iter().sum();
        let mut axis = Self::with_outputs(n);
        let mut folded = vec![0.0; n];
        for place in 0..n.cast_signed() {
            let first = (place - radius).max(0).cast_unsigned();
            let last = (place + radius).cast_unsigned().min(n - 1);
            for (tap, density) in (-radius..).zip(&densities) {
                folded[border.index(place + tap, n)] += density / sum;
            }
            // A fold lands no farther from the output than it came.
            axis.push(first, folded[first..=last].iter().map(|&weight| weight as f32));
            folded[first..=last].fill(0.0);
        }
        axis.finished()
    }

    /// The middle of a line of `n` pixels magnified by `factor`, 1 or more: `scipy.ndimage.zoom` with order 1 of the
    /// `ceil(n / factor)` pixels in the middle, of which the middle `n` are kept.
    pub(crate) fn zoom(n: usize, factor: f64) -> Self {
        let crop = ((n as f64 / factor).ceil() as usize).clamp(1, n);
        let start = (n - crop) / 2;
        let zoomed = ((crop as f64 * factor).round_ties_even() as usize).max(n);
        let trim = (zoomed - n) / 2;
        let step = (crop - 1) as f64 / (zoomed - 1).max(1) as f64;
        let mut axis = Self::with_outputs(n);
        for place in 0..n {
            let from = (place + trim) as f64 * step;
            let whole = (from as usize).min(crop - 1);
            let fraction = (from - whole as f64) as f32;
            if whole + 1 < crop {
                axis.push(start + whole, [1.0 - fraction, fraction]);
            } else {
                axis.push(start + whole, [1.0]);
            }
        }
        axis.finished()
    }

    /// PIL's `BOX` from `n` pixels to `size`: the mean of the pixels whose centres lie in the output's pixel.
    pub(crate) fn boxes(n: usize, size: usize) -> Self {
        let scale = n as f64 / size as f64;
        let stretch = scale.max(1.0);
        let mut axis = Self::with_outputs(size);
        for place in 0..size {
            let centre = (place as f64 + 0.5) * scale;
            let first = (centre - 0.5 * stretch + 0.5).max(0.0) as usize;
            let end = ((centre + 0.5 * stretch + 0.5) as usize).min(n);
            let inside = |pixel: &usize| {
                let offset = (*pixel as f64 - centre + 0.5) / stretch;
                -0.5 < offset && offset <= 0.5
            };
            let first = (first..end).find(inside).unwrap_or(first.min(n - 1));
            let count = (first..end).take_while(inside).count().max(1);
            axis.push(first, std::iter::repeat_n(1.0 / count as f32, count));
        }
        axis.finished()
    }

    /// Applies the map to every column: `input` `[n, row]`, `output` `[len, row]`.
    pub(crate) fn columns(&self, input: &[f32], row: usize, output: &mut [f32]) {
        for (y, sums) in output.chunks_exact_mut(row).enumerate() {
            let (first, weights) = self.run(y);
            sums.fill(0.0);
            for (line, &weight) in input[first * row..].chunks_exact(row).zip(weights) {
                for (sum, value) in sums.iter_mut().zip(line) {
                    *sum += weight * value;
                }
            }
        }
    }

    /// Applies the map to every row of pixels with `C` values: `input` `[rows, n, C]`, `output` `[rows, len, C]`.
    pub(crate) fn rows<const C: usize>(&self, input: &[f32], n: usize, output: &mut [f32]) {
        for (line, sums) in input.chunks_exact(n * C).zip(output.chunks_exact_mut(self.len() * C)) {
            let (pixels, _) = line.as_chunks::<C>();
            for (x, sum) in sums.as_chunks_mut::<C>().0.iter_mut().enumerate() {
                let (first, weights) = self.run(x);
                *sum = [0.0; C];
                for (pixel, &weight) in pixels[first..].iter().zip(weights) {
                    for (sum, value) in sum.iter_mut().zip(pixel) {
                        *sum += weight * value;
                    }
                }
            }
        }
    }
}

/// Blurs an image of pixels with `C` values, `[height, width, C]`, as [`Axis::gaussian`] says.
pub(crate) fn gaussian_blur<const C: usize>(
    image: &mut [f32],
    [height, width]: [usize; 2],
    sigma: f64,
    truncate: f64,
    border: Border,
) {
    if (truncate * sigma + 0.5) as usize == 0 {
        return;
    }
    let mut between = vec![0.0; image.len()];
    Axis::gaussian(height, sigma, truncate, border).columns(image, width * C, &mut between);
    Axis::gaussian(width, sigma, truncate, border).rows::<C>(&between, width, image);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(axis: &Axis, input: &[f32]) -> Vec<f32> {
        let mut output = vec![0.0; axis.len()];
        axis.rows::<1>(input, input.len(), &mut output);
        let mut columns = vec![0.0; axis.len()];
        axis.columns(input, 1, &mut columns);
        assert_eq!(output, columns);
        output
    }

    #[test]
    fn borders_are_scipys() {
        let at = |border: Border, n: usize| -> Vec<usize> { (-5..9).map(|place| border.index(place, n)).collect() };
        assert_eq!(at(Border::Nearest, 3), [0, 0, 0, 0, 0, 0, 1, 2, 2, 2, 2, 2, 2, 2]);
        assert_eq!(at(Border::Reflect, 3), [1, 2, 2, 1, 0, 0, 1, 2, 2, 1, 0, 0, 1, 2]);
        assert_eq!(at(Border::Mirror, 3), [1, 0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2, 1, 0]);
        for border in [Border::Nearest, Border::Reflect, Border::Mirror] {
            assert_eq!(at(border, 1), [0; 14]);
        }
    }

    #[test]
    fn blurs_keep_the_sum_of_weights() {
        for n in [1, 2, 5, 32] {
            for border in [Border::Nearest, Border::Reflect] {
                for out in line(&Axis::gaussian(n, 6.4, 3.0, border), &vec![1.0; n]) {
                    assert!((out - 1.0).abs() < 1e-5, "{n} {border:?} {out}");
                }
            }
        }
        assert_eq!(line(&Axis::gaussian(3, 0.0, 3.0, Border::Reflect), &[1.0, 2.0, 3.0]), [1.0, 2.0, 3.0]);
    }

    #[test]
    fn a_zoom_by_one_is_the_image_and_any_other_stays_inside() {
        let input: Vec<f32> = (0..32).map(|x| x as f32).collect();
        assert_eq!(line(&Axis::zoom(32, 1.0), &input), input);
        for n in [1, 2, 3, 32, 224] {
            for factor in [1.01, 1.11, 1.75, 4.5, 300.0] {
                let output = line(&Axis::zoom(n, factor), &vec![1.0; n]);
                assert!(output.iter().all(|value| (value - 1.0).abs() < 1e-6));
            }
        }
    }

    #[test]
    fn boxes_average_whole_pixels() {
        assert_eq!(line(&Axis::boxes(4, 2), &[0.0, 2.0, 4.0, 8.0]), [1.0, 6.0]);
        assert_eq!(line(&Axis::boxes(2, 5), &[0.0, 1.0]), [0.0, 0.0, 1.0, 1.0, 1.0]);
        assert_eq!(line(&Axis::boxes(1, 3), &[7.0]), [7.0; 3]);
    }
}
