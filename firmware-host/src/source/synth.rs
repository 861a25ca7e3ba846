//! Drawn shapes: no file, no camera, the same bytes on every machine (no operation but those that IEEE 754 rounds
//! exactly).

use super::{Pull, Source, SourceError};
use crate::frame::Frame;
use crate::random::Random;
use std::time::Duration;

/// Names of the shapes, in the order of their indices.
pub const CLASSES: [&str; 6] = ["disc", "ring", "square", "triangle", "cross", "stripes"];

/// Side of a frame, pixels.
pub const SIDE: u32 = 96;

/// Frames that the stream shows one shape for.
const HOLD: u32 = 24;

/// Where and how a shape lies; lengths in half sides of the frame.
#[derive(Clone, Copy, Debug)]
struct Pose {
    centre: [f32; 2],
    radius: f32,
    /// Tangent of half the angle.
    turn: f32,
}

/// The look of a frame, each value in `[0, 1]`.
#[derive(Clone, Copy, Debug)]
struct Colours {
    ground: [f32; 3],
    slope: f32,
    shape: [f32; 3],
}

impl Pose {
    fn chance(random: &mut Random) -> Self {
        Self {
            centre: [random.between(-0.2, 0.2), random.between(-0.2, 0.2)],
            radius: random.between(0.5, 0.72),
            turn: random.between(-0.12, 0.12),
        }
    }

    fn towards(self, other: Self, share: f32) -> Self {
        let blend = |a: f32, b: f32| a + (b - a) * share;
        Self {
            centre: [blend(self.centre[0], other.centre[0]), blend(self.centre[1], other.centre[1])],
            radius: blend(self.radius, other.radius),
            turn: blend(self.turn, other.turn),
        }
    }
}

impl Colours {
    fn chance(random: &mut Random) -> Self {
        let grey = random.between(0.28, 0.55);
        let contrast = random.between(0.28, 0.55);
        let tint = [0; 3].map(|_: u8| random.between(-0.12, 0.12));
        let other = [0; 3].map(|_: u8| random.between(-0.12, 0.12));
        let level = |base: f32, tint: [f32; 3]| {
            let mean = (tint[0] + tint[1] + tint[2]) / 3.0;
            tint.map(|tint| (base + tint - mean).clamp(0.0, 1.0))
        };
        Self { ground: level(grey, tint), slope: random.between(-0.08, 0.08), shape: level(grey + contrast, other) }
    }
}

/// How far a point lies outside of a shape of radius 1, roughly.
fn outside(class: usize, [u, v]: [f32; 2]) -> f32 {
    let (x, y) = (u.abs(), v.abs());
    let r = (u * u + v * v).sqrt();
    match class {
        0 => r - 0.9,
        1 => (r - 0.72).abs() - 0.2,
        2 => x.max(y) - 0.8,
        3 => (0.5 * y.copysign(-v) + 0.87 * x - 0.45).max(v - 0.7),
        4 => (x - 0.26).max(y - 0.95).min((y - 0.26).max(x - 0.95)),
        _ => (x - 0.9).max((y - 0.6).abs().min(y) - 0.15).max(y - 0.75),
    }
}

#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 0..=255, small sides
fn draw(class: usize, pose: Pose, colours: Colours, random: &mut Random) -> Frame {
    let half = SIDE as f32 / 2.0;
    let (cos, sin) = (
        (1.0 - pose.turn * pose.turn) / (1.0 + pose.turn * pose.turn),
        2.0 * pose.turn / (1.0 + pose.turn * pose.turn),
    );
    let mut pixels = Vec::with_capacity((SIDE * SIDE * 3) as usize);
    for row in 0..SIDE {
        for column in 0..SIDE {
            let at = |index: u32| (index as f32 + 0.5) / half - 1.0;
            let (x, y) = (at(column) - pose.centre[0], at(row) - pose.centre[1]);
            let local = [(cos * x + sin * y) / pose.radius, (cos * y - sin * x) / pose.radius];
            let cover = (0.5 - outside(class, local) * pose.radius * half).clamp(0.0, 1.0);
            let noise = random.between(-0.02, 0.02);
            for channel in 0..3 {
                let ground = colours.ground[channel] + colours.slope * at(row);
                let value = ground + (colours.shape[channel] - ground) * cover + noise;
                pixels.push((255.0 * value.clamp(0.0, 1.0) + 0.5) as u8);
            }
        }
    }
    Frame { height: SIDE, width: SIDE, pixels, label: Some(CLASSES[class].into()) }
}

/// Frames of which each is chance: shape `i % 6`.
#[derive(Clone, Debug)]
pub struct Synth {
    random: Random,
    next: usize,
}

impl Synth {
    /// Equal seeds give equal frames.
    pub fn new(seed: u64) -> Self {
        Self { random: Random::new(seed ^ 0x7379_6E74), next: 0 }
    }
}

impl Iterator for Synth {
    type Item = Frame;

    fn next(&mut self) -> Option<Frame> {
        let class = self.next % CLASSES.len();
        self.next += 1;
        let (pose, colours) = (Pose::chance(&mut self.random), Colours::chance(&mut self.random));
        Some(draw(class, pose, colours, &mut self.random))
    }
}

/// A stream as of a camera: a shape drifts for a while, then the next one comes.
#[derive(Clone, Debug)]
pub struct Stream {
    random: Random,
    count: u32,
    class: usize,
    from: Pose,
    to: Pose,
    colours: Colours,
}

impl Stream {
    /// Equal seeds give equal streams.
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x7374_7265_616D);
        let (from, to) = (Pose::chance(&mut random), Pose::chance(&mut random));
        let colours = Colours::chance(&mut random);
        let class = random.below(CLASSES.len());
        Self { random, count: 0, class, from, to, colours }
    }

    /// The next frame.
    #[allow(clippy::cast_precision_loss)] // HOLD is small
    pub fn frame(&mut self) -> Frame {
        if self.count == HOLD {
            self.count = 0;
            // Another shape, whichever.
            self.class = (self.class + 1 + self.random.below(CLASSES.len() - 1)) % CLASSES.len();
            (self.from, self.to) = (Pose::chance(&mut self.random), Pose::chance(&mut self.random));
            self.colours = Colours::chance(&mut self.random);
        }
        let pose = self.from.towards(self.to, self.count as f32 / HOLD as f32);
        self.count += 1;
        draw(self.class, pose, self.colours, &mut self.random)
    }
}

impl Source for Stream {
    fn pull(&mut self, _: Duration) -> Result<Pull, SourceError> {
        Ok(Pull::Frame(self.frame()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_its_seed() {
        let (mut a, mut b, mut c) = (Stream::new(1), Stream::new(1), Stream::new(2));
        let (a, b, c): (Vec<_>, Vec<_>, Vec<_>) = (0..60).map(|_| (a.frame(), b.frame(), c.frame())).fold(
            Default::default(),
            |mut all: (Vec<_>, Vec<_>, Vec<_>), (a, b, c)| {
                all.0.push(a);
                all.1.push(b);
                all.2.push(c);
                all
            },
        );
        assert!(a == b && a != c);
        let mut labels: Vec<_> = a.iter().map(|frame| frame.label.clone()).collect();
        labels.dedup();
        assert_eq!(labels.len(), 3);
    }
}
