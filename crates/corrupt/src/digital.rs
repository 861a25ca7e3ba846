//! What digital processing does: less contrast, fewer pixels. Elastic deformation and JPEG have files of their own.

use crate::axis::Axis;
use crate::levels::{from_bytes, rounded, to_bytes, truncated};

/// Draws every value towards its channel's mean; `factor` of the distance is left.
pub(crate) fn contrast(image: &[u8], factor: f64, out: &mut [u8]) {
    let (pixels, _) = image.as_chunks::<3>();
    let (out, _) = out.as_chunks_mut::<3>();
    let mut table = [[0_u8; 256]; 3];
    for (channel, table) in table.iter_mut().enumerate() {
        let sum: u64 = pixels.iter().map(|pixel| u64::from(pixel[channel])).sum();
        let mean = sum as f64 / pixels.len() as f64;
        for (level, byte) in table.iter_mut().enumerate() {
            *byte = truncated(((level as f64 - mean) * factor + mean) as f32);
        }
    }
    for (out, pixel) in out.iter_mut().zip(pixels) {
        *out = std::array::from_fn(|channel| table[channel][usize::from(pixel[channel])]);
    }
}

/// Shrinks to `part` of both sides and enlarges again, both with PIL's `BOX`, which rounds after every pass.
pub(crate) fn pixelate(image: &[u8], [height, width]: [usize; 2], part: f64, out: &mut [u8]) {
    let small = [height, width].map(|side| ((side as f64 * part) as usize).max(1));
    let shrunk = resized(&from_bytes(image), [height, width], small);
    to_bytes(&resized(&shrunk, small, [height, width]), out);
}

/// Resizes `[from, 3]` levels to `[to, 3]`, rows first as PIL does, both results rounded.
fn resized(levels: &[f32], from: [usize; 2], to: [usize; 2]) -> Vec<f32> {
    let whole = |levels: &mut [f32]| levels.iter_mut().for_each(|level| *level = f32::from(rounded(*level)));
    let mut narrow = vec![0.0; from[0] * to[1] * 3];
    Axis::boxes(from[1], to[1]).rows::<3>(levels, from[1], &mut narrow);
    whole(&mut narrow);
    let mut resized = vec![0.0; to[0] * to[1] * 3];
    Axis::boxes(from[0], to[0]).columns(&narrow, to[1] * 3, &mut resized);
    whole(&mut resized);
    resized
}
