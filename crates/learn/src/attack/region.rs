//! Where a perturbed image may be, and the directions that lead there.

use gabion_spec::Norm;

/// The perturbed images of one image: a ball around it, intersected with the box of valid pixels `[0, 1]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Region {
    /// How distances are measured.
    pub norm: Norm,
    /// Radius in units of the pixel range.
    pub epsilon: f32,
}

impl Region {
    /// An L-infinity ball.
    pub const fn linf(epsilon: f32) -> Self {
        Self { norm: Norm::Linf, epsilon }
    }

    /// A Euclidean ball.
    pub const fn l2(epsilon: f32) -> Self {
        Self { norm: Norm::L2, epsilon }
    }

    /// Brings `z` into the region of `x`: into the ball, then into the box.
    pub fn project(&self, x: &[f32], z: &mut [f32]) {
        match self.norm {
            Norm::Linf => z.iter_mut().zip(x).for_each(|(z, x)| {
                *z = z.clamp(x - self.epsilon, x + self.epsilon).clamp(0.0, 1.0);
            }),
            Norm::L2 => {
                let length = self.distance(x, z);
                let scale = if length > self.epsilon { self.epsilon / length } else { 1.0 };
                z.iter_mut().zip(x).for_each(|(z, x)| *z = (x + (*z - x) * scale).clamp(0.0, 1.0));
            }
        }
    }

    /// Distance of two images; not a number when one of them is none.
    pub fn distance(&self, x: &[f32], z: &[f32]) -> f32 {
        let changes = x.iter().zip(z).map(|(x, z)| z - x);
        match self.norm {
            Norm::Linf => changes.fold(0.0, |most: f32, change| {
                let change = change.abs();
                if change > most || change.is_nan() { change } else { most }
            }),
            Norm::L2 => length(changes),
        }
    }

    /// Whether `z` is within the radius, up to `slack`, and in the box.
    pub fn contains(&self, x: &[f32], z: &[f32], slack: f32) -> bool {
        // A NaN is outside.
        self.distance(x, z) <= self.epsilon + slack && z.iter().all(|value| (0.0..=1.0).contains(value))
    }

    /// The unit step that raises a linear function of this gradient most: its sign, or its direction. Zero of zero.
    pub fn ascent(&self, gradient: &[f32]) -> impl Fn(f32) -> f32 {
        let scale = match self.norm {
            Norm::Linf => 0.0,
            // A gradient may be too small for its square to be a number.
            Norm::L2 => {
                let most = greatest(gradient);
                if most > 0.0 { 1.0 / (length(gradient.iter().map(|g| g / most)) * most) } else { 0.0 }
            }
        };
        let norm = self.norm;
        move |g| match norm {
            Norm::Linf => sign(g),
            Norm::L2 => g * scale,
        }
    }

    /// Turns unbounded values into a perturbation of exactly the radius, before the box.
    pub(super) fn stretch(&self, values: &mut [f32]) {
        let size = match self.norm {
            Norm::Linf => greatest(values),
            Norm::L2 => length(values.iter().copied()),
        };
        let scale = self.epsilon / (size + 1e-12);
        values.iter_mut().for_each(|value| *value *= scale);
    }
}

/// Sign with that of 0 being 0.
pub(super) fn sign(value: f32) -> f32 {
    if value > 0.0 {
        1.0
    } else if value < 0.0 {
        -1.0
    } else {
        0.0
    }
}

/// Greatest absolute value.
pub(super) fn greatest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |most: f32, value| most.max(value.abs()))
}

fn length(values: impl Iterator<Item = f32>) -> f32 {
    values.map(|value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt() as f32
}
