//! An embedded image set: ten shapes and textures, drawn from a seed, with no file behind it.
//!
//! The class is a shape or a texture ("ring", "stripes"); colour, contrast, polarity, place, size, rotation, stretch,
//! background, clutter, light and noise are chance, so that pixels alone say little and a convolutional network says
//! much. Drawing uses only operations that IEEE 754 rounds exactly (no sine, no power), so image `i` of seed `s` has
//! the same bytes on every machine.

use super::order::{Random, purpose};
use super::{Images, Split};
use rayon::prelude::*;

/// Side of an image, pixels.
pub const SIDE: usize = 32;

/// Names of the ten classes, in the order of the labels.
pub const CLASSES: [&str; 10] =
    ["disc", "ring", "square", "triangle", "cross", "star", "spiral", "dots", "stripes", "checkerboard"];

/// How many images to draw, and from which seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Synth {
    /// Decides every image.
    pub seed: u64,
    /// Training images.
    pub train: usize,
    /// Test images; drawn from numbers that no training image uses.
    pub test: usize,
}

impl Default for Synth {
    fn default() -> Self {
        Self { seed: 0, train: 5000, test: 1000 }
    }
}

impl Synth {
    /// Draws both parts. Image `i` has label `i % 10`, whatever the sizes.
    pub fn draw(&self) -> Split {
        Split { train: self.part(0, self.train), test: self.part(1, self.test) }
    }

    fn part(&self, part: u64, count: usize) -> Images {
        let mut pixels = vec![0; count * SIDE * SIDE * 3];
        pixels.par_chunks_exact_mut(SIDE * SIDE * 3).enumerate().for_each(|(index, image)| {
            let mut random = Random::named(&[purpose::SYNTH, self.seed, part, index as u64]);
            Scene::new(index % CLASSES.len(), &mut random).paint(&mut random, image);
        });
        let labels = (0u16..10).cycle().take(count).collect();
        Images { pixels, height: SIDE, width: SIDE, labels, classes: CLASSES.map(String::from).to_vec() }
    }
}

type Colour = [f32; 3];
type Point = [f32; 2];

fn blend(from: Colour, to: Colour, share: f32) -> Colour {
    [0, 1, 2].map(|c| from[c] + (to[c] - from[c]) * share)
}

fn luma([r, g, b]: Colour) -> f32 {
    0.299 * r + 0.587 * g + 0.114 * b
}

fn length([x, y]: Point) -> f32 {
    (x * x + y * y).sqrt()
}

/// How much of a pixel lies inside an edge that is `distance` pixels outside of its centre.
fn coverage(distance: f32) -> f32 {
    (0.5 - distance).clamp(0.0, 1.0)
}

/// A direction, uniform on the circle, without a sine.
fn direction(random: &mut Random) -> Point {
    loop {
        let p = [random.between(-1.0, 1.0), random.between(-1.0, 1.0)];
        let r = length(p);
        if (0.1..=1.0).contains(&r) {
            return [p[0] / r, p[1] / r];
        }
    }
}

fn colour(random: &mut Random) -> Colour {
    let grey = random.unit();
    let tint = random.unit();
    let any = [random.unit(), random.unit(), random.unit()];
    blend([grey; 3], any, 0.35 + 0.65 * tint)
}

/// The distance of two colours as an eye sees it, roughly: brightness counts most.
fn contrast(a: Colour, b: Colour) -> f32 {
    let hue = [0, 1, 2].map(|c| (a[c] - b[c]).abs()).into_iter().fold(0.0, f32::max);
    (luma(a) - luma(b)).abs() + 0.25 * hue
}

/// Smooth noise over the image: a coarse grid of chance values, interpolated.
struct Noise {
    cells: f32,
    grid: [[f32; 8]; 8],
}

impl Noise {
    /// `cells` cells along a side, 1 to 6; values within `[-1, 1]`.
    fn new(cells: f32, random: &mut Random) -> Self {
        let mut grid = [[0.0; 8]; 8];
        for value in grid.as_flattened_mut() {
            *value = random.between(-1.0, 1.0);
        }
        Self { cells, grid }
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // both are within 0..=6
    fn at(&self, [x, y]: Point) -> f32 {
        let scale = self.cells / SIDE as f32;
        let (x, y) = (x * scale, y * scale);
        let (column, row) = ((x as usize).min(6), (y as usize).min(6));
        let ease = |t: f32| t * t * (3.0 - 2.0 * t);
        let (u, v) = (ease(x - column as f32), ease(y - row as f32));
        let line = |row: &[f32; 8]| row[column] + (row[column + 1] - row[column]) * u;
        let (above, below) = (line(&self.grid[row]), line(&self.grid[row + 1]));
        above + (below - above) * v
    }
}

/// A short stroke or a spot that belongs to no class.
struct Clutter {
    from: Point,
    along: Point,
    radius: f32,
    colour: Colour,
}

impl Clutter {
    fn new(around: Colour, random: &mut Random) -> Self {
        let from = [random.between(0.0, SIDE as f32), random.between(0.0, SIDE as f32)];
        let to = direction(random);
        let reach = if random.chance(0.4) { 0.0 } else { random.between(3.0, 9.0) };
        let radius = if reach == 0.0 { random.between(0.8, 2.2) } else { random.between(0.5, 1.1) };
        let colour = blend(around, colour(random), random.between(0.4, 0.9));
        Self { from, along: [to[0] * reach, to[1] * reach], radius, colour }
    }

    fn coverage(&self, [x, y]: Point) -> f32 {
        let p = [x - self.from[0], y - self.from[1]];
        let [dx, dy] = self.along;
        let share = ((p[0] * dx + p[1] * dy) / (dx * dx + dy * dy).max(1e-6)).clamp(0.0, 1.0);
        coverage(length([p[0] - dx * share, p[1] - dy * share]) - self.radius)
    }
}

/// The class's own numbers, in units of the object's radius.
struct Shape {
    class: usize,
    /// A width or a period, by class.
    width: f32,
    /// A phase or an offset.
    phase: Point,
    /// The second form of a class: outlined for triangle and star, a square patch for the textures.
    variant: bool,
}

/// Distance to a convex polygon's edge, negative inside, from the distances to its sides.
fn polygon(p: Point, normals: &[Point], apothem: f32) -> f32 {
    normals.iter().map(|n| p[0] * n[0] + p[1] * n[1]).fold(f32::MIN, f32::max) - apothem
}

fn square(p: Point, half: f32) -> f32 {
    p[0].abs().max(p[1].abs()) - half
}

/// Distance to stripes of a period (half ink, half ground).
fn stripes(x: f32, period: f32) -> f32 {
    let t = x / period;
    ((t - t.floor() - 0.5).abs() - 0.25) * period
}

/// The angle of a point over the full turn, `[0, 1)`; a polynomial, right to 1/1000 of a turn.
fn turn([x, y]: Point) -> f32 {
    let (small, large) = (x.abs().min(y.abs()), x.abs().max(y.abs()).max(1e-6));
    let t = small / large;
    let eighth = t * (0.125 + 0.043_45 * (1.0 - t));
    let quarter = if y.abs() > x.abs() { 0.25 - eighth } else { eighth };
    let half = if x < 0.0 { 0.5 - quarter } else { quarter };
    if y < 0.0 { 1.0 - half } else { half }
}

impl Shape {
    fn new(class: usize, random: &mut Random) -> Self {
        let (low, high) = match CLASSES[class] {
            "ring" => (0.11, 0.2),
            "square" => (0.1, 0.18),
            "cross" => (0.17, 0.3),
            "spiral" => (0.085, 0.12),
            "dots" => (0.3, 0.42),
            "stripes" => (0.42, 0.75),
            "checkerboard" => (0.6, 1.0),
            _ => (0.1, 0.16),
        };
        Self {
            class,
            width: random.between(low, high),
            phase: [random.unit(), random.unit()],
            variant: random.chance(0.5),
        }
    }

    /// Signed distance from the ink's edge, negative inside; the object fills the unit disc or less.
    fn distance(&self, p: Point) -> f32 {
        let outlined = |d: f32| if self.variant { (d + self.width).abs() - self.width } else { d };
        let patch = || if self.variant { square(p, 0.88) } else { length(p) - 1.0 };
        match CLASSES[self.class] {
            "disc" => length(p) - 0.85,
            "ring" => (length(p) - 0.8).abs() - self.width,
            "square" => (square(p, 0.7)).abs() - self.width,
            "triangle" => outlined(polygon(p, &[[0.0, 1.0], [0.866_025_4, -0.5], [-0.866_025_4, -0.5]], 0.52)),
            "cross" => {
                let arm = |a: f32, b: f32| (a.abs() - 0.95).max(b.abs() - self.width);
                arm(p[0], p[1]).min(arm(p[1], p[0]))
            }
            "star" => outlined(star(p)),
            "spiral" => {
                let radius = length(p);
                let winding = radius / 0.42 - turn(if self.variant { p } else { [p[0], -p[1]] });
                let nearest = (winding - winding.floor() - 0.5).abs() * 0.42;
                (nearest - self.width).max(radius - 1.0)
            }
            "dots" => length([p[0].abs() - 0.62, p[1]]) - self.width,
            "stripes" => patch().max(stripes(p[0] + self.phase[0], self.width)),
            "checkerboard" => {
                let (a, b) = (stripes(p[0] + self.phase[0], self.width), stripes(p[1] + self.phase[1], self.width));
                // Both inside or both outside their stripes: the exclusive or of two half-planes.
                patch().max(a.max(b).min(-a.min(b)))
            }
            class => unreachable!("{class} is not drawn"),
        }
    }
}

/// Distance to a five-pointed star of radius 1, by folding the plane on its axes (after I. Quilez, sdStar5).
fn star([x, y]: Point) -> f32 {
    const K1: Point = [0.809_017, -0.587_785_25];
    const K2: Point = [-0.809_017, -0.587_785_25];
    const INNER: f32 = 0.44;
    let fold = |p: Point, k: Point| {
        let depth = 2.0 * (k[0] * p[0] + k[1] * p[1]).max(0.0);
        [p[0] - depth * k[0], p[1] - depth * k[1]]
    };
    let p = fold(fold([x.abs(), y], K1), K2);
    let p = [p[0].abs(), p[1] - 1.0];
    let edge = [-INNER * K1[1], INNER * K1[0] - 1.0];
    let share = ((p[0] * edge[0] + p[1] * edge[1]) / (edge[0] * edge[0] + edge[1] * edge[1])).clamp(0.0, 1.0);
    let away = length([p[0] - edge[0] * share, p[1] - edge[1] * share]);
    if p[1] * edge[0] - p[0] * edge[1] < 0.0 { -away } else { away }
}

/// Everything that chance decides of one image but its grain.
struct Scene {
    shape: Shape,
    centre: Point,
    /// From pixels to the object's frame: rotation, stretch and size.
    frame: [Point; 2],
    radius: f32,
    ink: [Colour; 2],
    ink_noise: Noise,
    ground: [Colour; 2],
    ground_noise: Noise,
    behind: Vec<Clutter>,
    before: Vec<Clutter>,
    light: Point,
    gain: f32,
    grain: f32,
}

impl Scene {
    fn new(class: usize, random: &mut Random) -> Self {
        let shape = Shape::new(class, random);
        let radius = random.between(7.5, 13.0);
        let play = (SIDE as f32 / 2.0 - radius + 1.5).max(0.0);
        let centre = [0, 1].map(|_| SIDE as f32 / 2.0 + random.between(-play, play));
        let [c, s] = direction(random);
        let stretch = random.between(0.87, 1.15);
        let (along, across) = (1.0 / (radius * stretch), stretch / radius);
        let frame = [[c * along, s * along], [-s * across, c * across]];

        let first = colour(random);
        let ground = [first, blend(first, colour(random), random.between(0.0, 0.6))];
        let middle = blend(ground[0], ground[1], 0.5);
        let mut ink = colour(random);
        let mut tries = 0;
        while contrast(ink, middle) < 0.33 {
            tries += 1;
            ink = if tries < 16 { colour(random) } else { [if luma(middle) < 0.5 { 1.0 } else { 0.0 }; 3] };
        }
        let ink = [ink, blend(ink, colour(random), random.between(0.0, 0.35))];
        let clutter = |most: usize, random: &mut Random| {
            (0..random.below(most + 1)).map(|_| Clutter::new(middle, random)).collect::<Vec<_>>()
        };
        let (behind, before) = (clutter(6, random), clutter(2, random));
        let (ink_cells, ground_cells) = (random.between(1.0, 6.0), random.between(1.0, 6.0));
        let sun = direction(random);
        let slope = random.between(0.0, 0.016);
        Self {
            shape,
            centre,
            frame,
            radius,
            ink,
            ink_noise: Noise::new(ink_cells, random),
            ground,
            ground_noise: Noise::new(ground_cells, random),
            behind,
            before,
            light: [sun[0] * slope, sun[1] * slope],
            gain: random.between(0.75, 1.15),
            grain: random.between(0.005, 0.06),
        }
    }

    fn colour(&self, at: Point) -> Colour {
        let mut seen = blend(self.ground[0], self.ground[1], 0.5 + 0.5 * self.ground_noise.at(at));
        for piece in &self.behind {
            seen = blend(seen, piece.colour, piece.coverage(at));
        }
        let d = [at[0] - self.centre[0], at[1] - self.centre[1]];
        let p = self.frame.map(|row| row[0] * d[0] + row[1] * d[1]);
        let covered = coverage(self.shape.distance(p) * self.radius);
        if covered > 0.0 {
            let ink = blend(self.ink[0], self.ink[1], 0.5 + 0.5 * self.ink_noise.at(at));
            seen = blend(seen, ink, covered);
        }
        for piece in &self.before {
            seen = blend(seen, piece.colour, piece.coverage(at));
        }
        let middle = SIDE as f32 / 2.0;
        let light = self.gain + self.light[0] * (at[0] - middle) + self.light[1] * (at[1] - middle);
        seen.map(|value| value * light)
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // clamped to 0..=255
    fn paint(&self, random: &mut Random, image: &mut [u8]) {
        for (index, pixel) in image.chunks_exact_mut(3).enumerate() {
            let at = [(index % SIDE) as f32 + 0.5, (index / SIDE) as f32 + 0.5];
            let bits = random.bits();
            for (channel, value) in self.colour(at).into_iter().enumerate() {
                // The sum of two uniform numbers: nearly a bell, from 20 of the 64 bits.
                let bits = bits >> (20 * channel);
                let bell = ((bits & 0x3FF) + ((bits >> 10) & 0x3FF)) as f32 / 1023.0 - 1.0;
                let value = value + bell * 2.45 * self.grain;
                pixel[channel] = (value * 255.0 + 0.5).clamp(0.0, 255.0) as u8;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::archive::tests::sha256;

    #[test]
    fn an_image_depends_on_its_seed_part_and_index_alone() {
        let draw = |seed, train, test| Synth { seed, train, test }.draw();
        let (small, large) = (draw(3, 25, 7), draw(3, 120, 30));
        assert_eq!((small.train.len(), small.test.len()), (25, 7));
        assert_eq!(small.train.pixels, large.train.pixels[..25 * 3072]);
        assert_eq!(small.train.labels[..12], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]);
        assert_ne!(small.train.pixels[..7 * 3072], small.test.pixels);
        assert_ne!(small.train.pixels, draw(4, 25, 0).train.pixels);
    }

    #[test]
    fn the_pixels_are_pinned() {
        // On every machine; a change here changes every published run on this set.
        let split = Synth { seed: 1, train: 500, test: 0 }.draw();
        assert_eq!(sha256(&split.train.pixels), "164ab551819158fdb9d69fe5e24fd0eb7c6bdb105802c96ecc9398160e1dfbbd");
    }

    #[test]
    fn every_object_can_be_seen() {
        for index in 0..2000 {
            let mut random = Random::named(&[purpose::SYNTH, 8, 0, index as u64]);
            let scene = Scene::new(index % 10, &mut random);
            let middle = blend(scene.ground[0], scene.ground[1], 0.5);
            let ink = scene.ink[0];
            assert!(contrast(ink, middle) >= 0.33, "image {index}: {ink:?} on {middle:?}");
            let inked = (0..SIDE * SIDE).filter(|at| {
                let d = [(at % SIDE) as f32 + 0.5 - scene.centre[0], (at / SIDE) as f32 + 0.5 - scene.centre[1]];
                scene.shape.distance(scene.frame.map(|row| row[0] * d[0] + row[1] * d[1])) < 0.0
            });
            let inked = inked.count();
            assert!((20..700).contains(&inked), "image {index} of class {}: {inked} pixels", CLASSES[index % 10]);
        }
    }

    #[test]
    fn a_turn_is_the_angle() {
        for step in 0..1000 {
            let angle = step as f32 / 1000.0;
            let (y, x) = (angle * std::f32::consts::TAU).sin_cos();
            let off = (turn([x, y]) - angle).abs();
            assert!(off.min(1.0 - off) < 1e-3, "{angle}: {off}");
        }
    }
}
