//! What is computed, and the numbers that it is computed of.

use serde::{Deserialize, Serialize};
use std::path::Path;
use std::{fs, io};

/// Added to variances.
pub const EPSILON: f64 = 1e-5;

/// What is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Work {
    /// A 3x3 convolution with stride 1 and no bias.
    Conv,
    /// A basic block: 3x3 convolution, batch normalisation, ReLU, the first two again, residual, ReLU.
    Block,
}

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Pass {
    /// There and back by a given gradient of the output, to those of the input and of all weights; statistics of the batch.
    Train,
    /// There alone; given statistics.
    Infer,
}

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Case {
    pub work: Work,
    pub pass: Pass,
    /// Channels in and out.
    pub width: usize,
    /// Images.
    pub batch: usize,
    /// Rows and columns of an image.
    pub side: usize,
}

impl Case {
    pub fn layers(&self) -> usize {
        match self.work {
            Work::Conv => 1,
            Work::Block => 2,
        }
    }

    pub fn activation(&self) -> usize {
        self.batch * self.width * self.side * self.side
    }

    pub fn weight(&self) -> usize {
        9 * self.width * self.width
    }

    /// Lengths of what comes of a pass: output, gradient of the input, then of each layer weight, gamma and beta.
    pub fn outputs(&self) -> Vec<usize> {
        let mut lengths = vec![self.activation()];
        if self.pass == Pass::Train {
            lengths.push(self.activation());
            for _ in 0..self.layers() {
                lengths.push(self.weight());
                if self.work == Work::Block {
                    lengths.extend([self.width; 2]);
                }
            }
        }
        lengths
    }
}

/// A convolution and the normalisation after it.
pub struct Layer {
    /// `[out, in, 3, 3]`.
    pub weight: Vec<f32>,
    /// This and the others: `[channels]`.
    pub gamma: Vec<f32>,
    pub beta: Vec<f32>,
    pub mean: Vec<f32>,
    pub var: Vec<f32>,
}

/// The operands, in torch's order of axes.
pub struct Operands {
    /// `[batch, channels, rows, columns]`.
    pub x: Vec<f32>,
    /// The gradient of the output, of the same shape.
    pub dy: Vec<f32>,
    pub layers: [Layer; 2],
}

impl Operands {
    /// The same numbers for the same case; the file is little-endian f32 in the order of the fields.
    pub fn write(case: &Case, path: &Path) -> io::Result<()> {
        let mut state = 1u64;
        let mut noise = |length: usize, from: f32, to: f32| -> Vec<f32> {
            let mut next = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 40) as f32 / (1u64 << 24) as f32
            };
            (0..length).map(|_| from + (to - from) * next()).collect()
        };
        let mut all = noise(case.activation(), -1.0, 1.0);
        all.extend(noise(case.activation(), -1.0, 1.0));
        let spread = (6.0 / (9 * case.width) as f32).sqrt();
        for _ in 0..2 {
            all.extend(noise(case.weight(), -spread, spread));
            for (from, to) in [(0.5, 1.5), (-0.5, 0.5), (-0.5, 0.5), (0.5, 1.5)] {
                all.extend(noise(case.width, from, to));
            }
        }
        write(path, &all)
    }

    pub fn read(case: &Case, path: &Path) -> io::Result<Self> {
        let all = read(path)?;
        let mut rest = all.as_slice();
        let mut take = |length: usize| {
            let (taken, left) = rest.split_at(length);
            rest = left;
            taken.to_vec()
        };
        let (x, dy) = (take(case.activation()), take(case.activation()));
        let mut layer = || {
            let weight = take(case.weight());
            let [gamma, beta, mean, var] = std::array::from_fn(|_| take(case.width));
            Layer { weight, gamma, beta, mean, var }
        };
        Ok(Self { x, dy, layers: [layer(), layer()] })
    }
}

pub fn write(path: &Path, values: &[f32]) -> io::Result<()> {
    fs::write(path, values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())
}

pub fn read(path: &Path) -> io::Result<Vec<f32>> {
    let bytes = fs::read(path)?;
    Ok(bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

/// How far a side's values are from another's: for each tensor the root of the mean square of the difference by that of the
/// values; the largest of all gradients.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Difference {
    pub output: f64,
    /// 0 where there are none.
    pub gradients: f64,
}

impl Difference {
    pub fn of(case: &Case, left: &[f32], right: &[f32]) -> Self {
        let (mut found, mut start) = (Self { output: 0.0, gradients: 0.0 }, 0);
        for (index, length) in case.outputs().into_iter().enumerate() {
            let range = start..start + length;
            start += length;
            let one = match (left.get(range.clone()), right.get(range)) {
                (Some(left), Some(right)) => apart(left, right),
                _ => f64::INFINITY,
            };
            let into = if index == 0 { &mut found.output } else { &mut found.gradients };
            *into = into.max(one);
        }
        found
    }

    /// Whether it is no more than rounding. Rounding also opens or closes a ReLU where its input is next to 0: few of a
    /// block's, which yet move its gradients by some 1e-4.
    pub fn is_small(&self, work: Work) -> bool {
        let behind_relu = if work == Work::Block { 1e-2 } else { 1e-3 };
        self.output <= 1e-3 && self.gradients <= behind_relu
    }
}

fn apart(left: &[f32], right: &[f32]) -> f64 {
    let square = |value: f64| value * value;
    let (mut apart, mut size) = (0.0, 0.0);
    for (a, b) in left.iter().zip(right) {
        apart += square(f64::from(*a) - f64::from(*b));
        size += square(f64::from(*b));
    }
    let apart = (apart / size).sqrt();
    if apart.is_nan() { f64::INFINITY } else { apart }
}
