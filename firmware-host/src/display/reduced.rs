//! A screen in 252 colours, for GIF and sixels: the drawn colours exactly, pictures in a cube of 6x8x5 with a pattern of
//! 4x4 that hides the steps.

use crate::screen::DRAWN;
use embedded_graphics::pixelcolor::{Rgb888, RgbColor};
use image::RgbImage;

const CUBE: [usize; 3] = [6, 8, 5];
/// Bayer's 4x4 thresholds, in sixteenths.
const BAYER: [[i32; 4]; 4] = [[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]];

fn drawn() -> [[u8; 3]; DRAWN.len()] {
    DRAWN.map(|colour| {
        let colour = Rgb888::from(colour);
        [colour.r(), colour.g(), colour.b()]
    })
}

/// The colours, in the order of their indices.
#[allow(clippy::cast_possible_truncation)] // at most 255
pub fn palette() -> Vec<[u8; 3]> {
    let [reds, greens, blues] = CUBE;
    let level = |at: usize, of: usize| (at * 255 / (of - 1)) as u8;
    let cube = (0..reds).flat_map(|r| (0..greens).flat_map(move |g| (0..blues).map(move |b| (r, g, b))));
    let cube = cube.map(|(r, g, b)| [level(r, reds), level(g, greens), level(b, blues)]);
    drawn().into_iter().chain(cube).collect()
}

/// The index of each pixel.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_possible_wrap)] // below 256
pub fn indices(image: &RgbImage) -> Vec<u8> {
    let drawn = drawn();
    let index = |x: u32, y: u32, pixel: [u8; 3]| {
        if let Some(at) = drawn.iter().position(|colour| *colour == pixel) {
            return at as u8;
        }
        let threshold = BAYER[y as usize % 4][x as usize % 4];
        let at = [0, 1, 2].map(|channel| {
            let steps = CUBE[channel] as i32 - 1;
            // value * steps / 255, rounded up where what is left exceeds the threshold.
            ((i32::from(pixel[channel]) * steps * 16 + 255 * threshold + 127) / (255 * 16)).clamp(0, steps) as usize
        });
        (drawn.len() + (at[0] * CUBE[1] + at[1]) * CUBE[2] + at[2]) as u8
    };
    image.enumerate_pixels().map(|(x, y, pixel)| index(x, y, pixel.0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawn_colours_are_exact_and_others_near() {
        let palette = palette();
        assert!(palette.len() <= 256);
        for colour in drawn() {
            let index = indices(&RgbImage::from_pixel(1, 1, image::Rgb(colour)))[0];
            assert_eq!(palette[usize::from(index)], colour);
        }
        // The mean over the pattern is the colour.
        for colour in [[100, 150, 200], [3, 254, 127], [0, 0, 0], [255, 255, 255]] {
            let found = indices(&RgbImage::from_pixel(4, 4, image::Rgb(colour)));
            for channel in 0..3 {
                let sum: u32 = found.iter().map(|at| u32::from(palette[usize::from(*at)][channel])).sum();
                let mean = i64::from(sum / 16);
                assert!((mean - i64::from(colour[channel])).abs() <= 6, "{colour:?} {channel}: {mean}");
            }
        }
    }
}
