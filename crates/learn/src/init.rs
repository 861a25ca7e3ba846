//! Random initial weights, drawn on the host by name, so that they do not depend on the device or on the order in
//! which layers are made.

use std::f64::consts::TAU;

/// A stream of random numbers that belongs to a seed and a parameter's name (SplitMix64, Steele et al. 2014).
pub(crate) struct Stream(u64);

impl Stream {
    pub(crate) fn new(seed: u64, name: &str) -> Self {
        // FNV-1a of the name.
        let hash = name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        let mut stream = Self(seed ^ hash.rotate_left(17));
        // Seeds that differ in a bit must not give neighbouring streams.
        stream.0 = stream.next() ^ hash;
        stream
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `[0, 1)`.
    #[allow(clippy::cast_precision_loss)] // 53 bits fit
    pub(crate) fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Plus or minus 1.
    pub(crate) fn sign(&mut self) -> f32 {
        if self.next() >> 63 == 0 { 1.0 } else { -1.0 }
    }

    /// Uniform below a bound that is not 0.
    #[allow(clippy::cast_possible_truncation)] // the result is below a usize
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    /// Standard normal (Box and Muller 1958).
    pub(crate) fn normal(&mut self) -> f64 {
        (-2.0 * (1.0 - self.uniform()).ln()).sqrt() * (TAU * self.uniform()).cos()
    }
}

/// `count` values uniform in `[-bound, bound]`.
#[allow(clippy::cast_possible_truncation)]
pub(crate) fn uniform(seed: u64, name: &str, count: usize, bound: f64) -> Vec<f32> {
    let mut stream = Stream::new(seed, name);
    (0..count).map(|_| ((2.0 * stream.uniform() - 1.0) * bound) as f32).collect()
}

/// `count` normal values of mean 0 and the given standard deviation.
#[allow(clippy::cast_possible_truncation)]
pub(crate) fn normal(seed: u64, name: &str, count: usize, std: f64) -> Vec<f32> {
    let mut stream = Stream::new(seed, name);
    (0..count).map(|_| (stream.normal() * std) as f32).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn moments_are_right_and_names_matter() {
        let draws = super::normal(3, "conv1.weight", 20_000, 2.0);
        let mean = draws.iter().sum::<f32>() / 20_000.0;
        let var = draws.iter().map(|x| x * x).sum::<f32>() / 20_000.0;
        assert!(mean.abs() < 0.05 && (var - 4.0).abs() < 0.15, "mean {mean}, variance {var}");
        assert_ne!(draws, super::normal(3, "conv2.weight", 20_000, 2.0));
        assert_ne!(draws, super::normal(4, "conv1.weight", 20_000, 2.0));
        let uniform = super::uniform(1, "fc", 20_000, 0.5);
        assert!(uniform.iter().all(|x| x.abs() <= 0.5));
    }
}
