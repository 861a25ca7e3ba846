//! Frost: an image behind ice crystals.
//!
//! The original blends with crops of five photographs, which are not free to be passed on. Here the crystals are drawn:
//! layers of feathers, each with a spine and barbs, over a slow haze. Each of five kinds has the mean colour and the
//! deviation of one of the photographs and goes by its look (foil, needles twice, leaves, feathers), and what is one
//! pixel of a photograph there is one unit of length here. So the strength of the corruption is the original's, and its
//! details are not.

use crate::Scale;
use crate::levels::{WHITE, truncated};
use crate::random::{Random, hash};

/// One kind of ice.
struct Ice {
    /// Mean colour and its deviation, levels, measured on the photograph.
    colour: [f32; 3],
    deviation: [f32; 3],
    /// Side of the cells of the largest feathers; each has one.
    cell: f32,
    /// Half width of a feather in parts of its half length.
    slenderness: f32,
    /// How much of a feather's light is in its barbs, the rest is in its spine and blade.
    barbs: f32,
    /// How much of the light is in the haze.
    haze: f32,
    /// Mean and deviation of [`Ice::light`] with the above, as the test below measures them.
    moments: [f32; 2],
}

/// In the order of `frost1.png` to `frost5.jpg`; the second and the third photograph are the same. (The original has a
/// sixth file that its random index does not reach.)
const KINDS: [Ice; 5] = [FOIL, NEEDLES, NEEDLES, LEAVES, FEATHERS];

const FOIL: Ice = Ice {
    colour: [78.0, 149.0, 166.0],
    deviation: [27.0, 16.0, 15.0],
    cell: 40.0,
    slenderness: 0.08,
    barbs: 0.1,
    haze: 1.6,
    moments: [0.886, 0.275],
};
const NEEDLES: Ice = Ice {
    colour: [201.0, 205.0, 214.0],
    deviation: [21.0, 22.0, 23.0],
    cell: 46.0,
    slenderness: 0.14,
    barbs: 0.25,
    haze: 0.5,
    moments: [0.391, 0.216],
};
const LEAVES: Ice = Ice {
    colour: [138.0, 153.0, 165.0],
    deviation: [28.0, 28.0, 30.0],
    cell: 24.0,
    slenderness: 0.4,
    barbs: 0.5,
    haze: 0.6,
    moments: [0.660, 0.297],
};
const FEATHERS: Ice = Ice {
    colour: [112.0, 123.0, 135.0],
    deviation: [44.0, 43.0, 42.0],
    cell: 52.0,
    slenderness: 0.45,
    barbs: 0.8,
    haze: 0.5,
    moments: [0.634, 0.305],
};

/// Layers of feathers, each with cells [`SHRINK`] times the last's.
const LAYERS: u64 = 3;
const SHRINK: f32 = 0.55;
/// Distance of a feather's barbs in units of length.
const BARB_SPACING: f32 = 5.0;
/// Half lengths of a feather that its barbs are counted from, so that none is counted backwards.
const FAR: f32 = 2.0;
/// Side of the largest cells of the haze.
const HAZE_CELL: f32 = 150.0;
/// Of its octaves.
const HAZE_WEIGHTS: [f32; 3] = [0.5, 0.3, 0.2];

/// Units of length that one pixel of the image covers: the original shrinks its photographs for CIFAR.
fn unit(scale: Scale) -> f32 {
    match scale {
        Scale::Cifar => 5.0,
        Scale::Imagenet => 1.0,
    }
}

/// Blends with ice: `weights` of the image and of the ice.
pub(crate) fn frost(
    image: &[u8],
    size: [usize; 2],
    scale: Scale,
    weights: (f32, f32),
    random: &mut Random,
    out: &mut [u8],
) {
    let ice = &KINDS[random.below(KINDS.len())];
    let light = ice.light(random.bits(), size, unit(scale));
    let (pixels, _) = image.as_chunks::<3>();
    let (out, _) = out.as_chunks_mut::<3>();
    for ((out, pixel), light) in out.iter_mut().zip(pixels).zip(light) {
        let ice = ice.coloured(light);
        *out =
            std::array::from_fn(|channel| truncated(weights.0 * f32::from(pixel[channel]) + weights.1 * ice[channel]));
    }
}

impl Ice {
    /// The colour of a light.
    fn coloured(&self, light: f32) -> [f32; 3] {
        let light = (light - self.moments[0]) / self.moments[1];
        std::array::from_fn(|channel| (self.colour[channel] + self.deviation[channel] * light).clamp(0.0, WHITE))
    }

    /// Haze and all layers of feathers, `size`, a pixel covering `unit` units of length.
    fn light(&self, key: u64, size: [usize; 2], unit: f32) -> Vec<f32> {
        let [height, width] = size;
        let extent = size.map(|side| side as f32 * unit);
        let haze = Haze::new(key, extent);
        let mut layers = Vec::with_capacity(LAYERS as usize);
        let (mut cell, mut weight) = (self.cell, 1.0);
        for layer in 0..LAYERS {
            layers.push((Cells::new(hash(&[key, layer]), extent, cell, |bits| self.feather(bits)), weight));
            (cell, weight) = (SHRINK * cell, 0.8 * weight);
        }
        let mut light = Vec::with_capacity(height * width);
        for y in 0..height {
            for x in 0..width {
                let at = [y as f32 * unit, x as f32 * unit];
                let feathers = layers.iter().map(|(layer, weight)| weight * self.brightest(layer, at)).sum::<f32>();
                light.push(self.haze * haze.at(at) + feathers);
            }
        }
        light
    }

    /// A feather from random bits.
    fn feather(&self, bits: u64) -> Feather {
        let part = |place: u32| ((bits >> (16 * place)) & 0xFFFF) as f32 / 65536.0;
        let (sine, cosine) = (std::f32::consts::TAU * part(2)).sin_cos();
        let (length, glow) = (0.55 + 0.45 * part(3), 0.55 + 0.45 * hash(&[bits]) as f32 / u64::MAX as f32);
        Feather { y: part(0), x: part(1), sine, cosine, length, glow }
    }

    /// The brightest feather of a layer at a point.
    fn brightest(&self, layer: &Cells<Feather>, at: [f32; 2]) -> f32 {
        let [y, x] = at.map(|place| place / layer.side);
        let mut brightest = 0.0_f32;
        for v in 0..3 {
            for (u, feather) in layer.row(y as usize + v, x as usize, 3).iter().enumerate() {
                let down = y - (y as usize + v) as f32 + 1.0 - feather.y;
                let right = x - (x as usize + u) as f32 + 1.0 - feather.x;
                if down * down + right * right < feather.length * feather.length {
                    let along = (right * feather.cosine + down * feather.sine) / feather.length;
                    let across = (right * feather.sine - down * feather.cosine).abs() / feather.length;
                    let shape = self.shape(along, across / self.slenderness, feather.length * layer.side);
                    brightest = brightest.max(feather.glow * shape);
                }
            }
        }
        brightest
    }

    /// How bright a feather is at a point: `along` from -1 at its root to 1 at its tip, `across` from 0 at its spine to
    /// 1 at its widest; `length` is its half length.
    fn shape(&self, along: f32, across: f32, length: f32) -> f32 {
        let to_tip = 0.5 - 0.5 * along;
        let widest = 1.8 * to_tip.sqrt() * (1.0 - to_tip * to_tip);
        if across >= widest {
            return 0.0;
        }
        let edge = 1.0 - across / widest;
        // Barbs lean towards the tip.
        let slant = (along - 0.8 * across * self.slenderness + FAR) * length / BARB_SPACING;
        let wave = (2.0 * (slant - slant as u32 as f32) - 1.0).abs();
        let spine = (1.0 - 4.0 * across).max(0.0);
        let blade = edge.min(0.4) + 0.6 * spine;
        edge.sqrt() * ((1.0 - self.barbs) * blade + self.barbs * (wave * wave + 0.4 * spine))
    }
}

/// A feather in the cell that it is rooted in; lengths in sides of a cell, at most 1, so that it ends in a neighbour.
struct Feather {
    y: f32,
    x: f32,
    sine: f32,
    cosine: f32,
    /// Half of it, along the spine.
    length: f32,
    glow: f32,
}

/// Square cells over the window from 0 to its extent and one cell beyond, with something random in each.
struct Cells<T> {
    side: f32,
    columns: usize,
    values: Vec<T>,
}

impl<T> Cells<T> {
    fn new(key: u64, extent: [f32; 2], side: f32, value: impl Fn(u64) -> T) -> Self {
        let [rows, columns] = extent.map(|extent| (extent / side) as usize + 3);
        let place = |place: usize| hash(&[key, (place / columns) as u64, (place % columns) as u64]);
        Self { side, columns, values: (0..rows * columns).map(|cell| value(place(cell))).collect() }
    }

    /// What is in `count` cells of a row. Rows and columns are counted from one cell before the window.
    #[inline(always)]
    fn row(&self, row: usize, column: usize, count: usize) -> &[T] {
        &self.values[row * self.columns + column..][..count]
    }
}

/// Value noise in `[0, 1]`, smooth over [`HAZE_CELL`].
struct Haze([Cells<f32>; HAZE_WEIGHTS.len()]);

impl Haze {
    fn new(key: u64, extent: [f32; 2]) -> Self {
        let value = |bits: u64| bits as f32 / u64::MAX as f32;
        Self(std::array::from_fn(|octave| {
            Cells::new(hash(&[key, u64::MAX, octave as u64]), extent, HAZE_CELL / (1 << octave) as f32, value)
        }))
    }

    fn at(&self, at: [f32; 2]) -> f32 {
        let mix = |from: f32, to: f32, part: f32| from + (to - from) * part;
        let smooth = |part: f32| part * part * (3.0 - 2.0 * part);
        let octaves = self.0.iter().map(|cells| {
            let [y, x] = at.map(|place| place / cells.side);
            let (row, column) = (y as usize, x as usize);
            let (v, u) = (smooth(y - row as f32), smooth(x - column as f32));
            let line = |row: usize| mix(cells.row(row, column, 2)[0], cells.row(row, column, 2)[1], u);
            mix(line(row), line(row + 1), v)
        });
        octaves.zip(HAZE_WEIGHTS).map(|(octave, weight)| weight * octave).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the mean and the deviation of light, over many windows.
    const MOMENTS_OFF: f64 = 0.05;

    #[test]
    fn light_has_mean_0_and_deviation_1() {
        let mut failures = Vec::new();
        for (kind, ice) in KINDS.iter().enumerate() {
            let (mut sum, mut squares, mut n) = (0.0, 0.0, 0.0);
            for key in 0..400 {
                for light in ice.light(key, [20, 20], 8.5).into_iter().map(f64::from) {
                    (sum, squares, n) = (sum + light, squares + light * light, n + 1.0);
                }
            }
            let mean = sum / n;
            let deviation = (squares / n - mean * mean).sqrt();
            let [known_mean, known_deviation] = ice.moments.map(f64::from);
            if (mean - known_mean).abs() > MOMENTS_OFF * known_deviation
                || (deviation / known_deviation - 1.0).abs() > MOMENTS_OFF
            {
                failures.push(format!("kind {kind}: moments are [{mean:.3}, {deviation:.3}]"));
            }
        }
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    }
}
