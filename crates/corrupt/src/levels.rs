//! Intensities between the byte and the arithmetic: levels, f32 from 0 (black) to 255 (white).

/// White.
pub(crate) const WHITE: f32 = 255.0;

/// What is added before the fraction is cut off, so that a value which is whole but for rounding stays itself.
const SLACK: f32 = 1.0 / 1024.0;

/// The levels of bytes.
pub(crate) fn from_bytes(image: &[u8]) -> Vec<f32> {
    image.iter().map(|&byte| f32::from(byte)).collect()
}

/// The byte of a level. The original casts with NumPy, which cuts the fraction off.
#[inline(always)]
pub(crate) fn truncated(level: f32) -> u8 {
    (level + SLACK) as u8
}

/// The byte nearest to a level, as PIL resizes.
#[inline(always)]
pub(crate) fn rounded(level: f32) -> u8 {
    (level + 0.5) as u8
}

/// Writes levels as bytes, [`truncated`].
pub(crate) fn to_bytes(levels: &[f32], out: &mut [u8]) {
    for (out, &level) in out.iter_mut().zip(levels) {
        *out = truncated(level);
    }
}
