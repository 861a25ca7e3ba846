//! Random numbers of one image: a row that the set's seed, the corruption, its severity and the image's index name.
//!
//! SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014). A row owes nothing
//! to any other, so that neither the batch nor the number of threads changes an image.

/// The odd constant of SplitMix64, 2^64 over the golden ratio.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// The finaliser of SplitMix64.
const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// 64 random bits that words name.
pub(crate) fn hash(words: &[u64]) -> u64 {
    words.iter().fold(0, |key, word| mix(mix(key.wrapping_add(GOLDEN)) ^ word))
}

/// A row of random numbers.
pub(crate) struct Random {
    state: u64,
    /// The second number of the last pair of normals.
    spare: Option<f32>,
}

impl Random {
    pub(crate) fn named(words: &[u64]) -> Self {
        Self { state: hash(words), spare: None }
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN);
        mix(self.state)
    }

    /// Uniform in `[0, 1)`, 24 bits.
    pub(crate) fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / 16_777_216.0
    }

    /// Uniform in `[0, 1)`, 53 bits.
    pub(crate) fn unit_f64(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / 9_007_199_254_740_992.0
    }

    /// Uniform in `[-1, 1)`.
    pub(crate) fn signed(&mut self) -> f32 {
        2.0 * self.unit() - 1.0
    }

    /// Uniform between two bounds.
    pub(crate) fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    /// Uniform below a bound that is not 0; the bias of the multiplication is under `bound / 2^64`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.bits()) * bound as u128) >> 64) as usize
    }

    /// Standard normal (Box and Muller 1958).
    pub(crate) fn normal(&mut self) -> f32 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        // 1 - u is in (0, 1], so that the logarithm is finite.
        let radius = (-2.0 * (1.0 - self.unit_f64()).ln()).sqrt() as f32;
        let (sine, cosine) = (std::f32::consts::TAU * self.unit()).sin_cos();
        self.spare = Some(radius * sine);
        radius * cosine
    }

    /// A Poisson count of mean `lambda`, which is not negative.
    ///
    /// Below 10 uniforms are multiplied (Knuth 1969), from there on it is the transformed rejection PTRS of Hörmann,
    /// "The transformed rejection method for generating Poisson random variables", 1993; NumPy does the same.
    pub(crate) fn poisson(&mut self, lambda: f64) -> f64 {
        if lambda < 10.0 {
            let (floor, mut product, mut count) = ((-lambda).exp(), self.unit_f64(), 0.0);
            while product > floor {
                product *= self.unit_f64();
                count += 1.0;
            }
            return count;
        }
        let b = 0.931 + 2.53 * lambda.sqrt();
        let a = -0.059 + 0.02483 * b;
        let inverse_alpha = 1.1239 + 1.1328 / (b - 3.4);
        let v_r = 0.9277 - 3.6224 / (b - 2.0);
        loop {
            let (u, v) = (self.unit_f64() - 0.5, self.unit_f64());
            let us = 0.5 - u.abs();
            let count = ((2.0 * a / us + b) * u + lambda + 0.43).floor();
            if us >= 0.07 && v <= v_r {
                return count;
            }
            if count < 0.0 || (us < 0.013 && v > us) {
                continue;
            }
            let accepted = -lambda + count * lambda.ln() - ln_factorial(count);
            if v.ln() + inverse_alpha.ln() - (a / (us * us) + b).ln() <= accepted {
                return count;
            }
        }
    }
}

/// `ln n!`, by Stirling's series from 10 on (error under 1e-9).
fn ln_factorial(n: f64) -> f64 {
    if n < 10.0 {
        return (2..=n as u32).map(|k| f64::from(k).ln()).sum();
    }
    let half_ln_tau = 0.5 * std::f64::consts::TAU.ln();
    (n + 0.5) * n.ln() - n + half_ln_tau + (1.0 - 1.0 / (30.0 * n * n) + 2.0 / (7.0 * 60.0 * n.powi(4))) / (12.0 * n)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAWS: usize = 200_000;
    /// Four standard errors or more.
    const MEAN_ERRORS: f64 = 4.5;

    fn moments(values: impl Iterator<Item = f64>) -> (f64, f64) {
        let (mut sum, mut squares) = (0.0, 0.0);
        for value in values.take(DRAWS) {
            sum += value;
            squares += value * value;
        }
        let mean = sum / DRAWS as f64;
        (mean, squares / DRAWS as f64 - mean * mean)
    }

    #[test]
    fn the_numbers_are_splitmix64() {
        // The first outputs for state 0 in the reference code.
        let mut random = Random { state: 0, spare: None };
        assert_eq!(random.bits(), 0xE220_A839_7B1D_CDAF);
        assert_eq!(random.bits(), 0x6E78_9E6A_A1B9_65F4);
    }

    #[test]
    fn normals_have_their_moments() {
        let mut random = Random::named(&[1]);
        let (mean, variance) = moments(std::iter::repeat_with(|| f64::from(random.normal())));
        assert!(mean.abs() < 0.01 && (variance - 1.0).abs() < 0.015, "{mean} {variance}");
        let (_, fourth) = moments(std::iter::repeat_with(|| f64::from(random.normal()).powi(2)));
        assert!((fourth - 2.0).abs() < 0.08, "the square's variance is 2, got {fourth}");
    }

    #[test]
    fn counts_are_poisson() {
        for lambda in [0.0, 0.3, 3.0, 9.9, 10.0, 42.0, 500.0] {
            let mut random = Random::named(&[2]);
            let (mean, variance) = moments(std::iter::repeat_with(|| random.poisson(lambda)));
            let error = (lambda / DRAWS as f64).sqrt();
            assert!((mean - lambda).abs() <= MEAN_ERRORS * error, "{lambda}: mean {mean}");
            // The variance of the sample variance is (lambda + 2 lambda^2) / n.
            let error = ((lambda + 2.0 * lambda * lambda) / DRAWS as f64).sqrt();
            assert!((variance - lambda).abs() <= MEAN_ERRORS * error, "{lambda}: variance {variance}");
        }
    }

    #[test]
    fn the_chance_of_a_count_is_its_own() {
        let lambda = 12.5_f64;
        let mut random = Random::named(&[3]);
        let mut seen = [0_u32; 40];
        for _ in 0..DRAWS {
            seen[(random.poisson(lambda) as usize).min(39)] += 1;
        }
        for (count, &times) in seen.iter().enumerate().take(30) {
            let chance = (-lambda + count as f64 * lambda.ln() - ln_factorial(count as f64)).exp();
            let error = (chance * (1.0 - chance) / DRAWS as f64).sqrt();
            assert!((f64::from(times) / DRAWS as f64 - chance).abs() <= MEAN_ERRORS * error + 1e-5, "{count}");
        }
    }
}
