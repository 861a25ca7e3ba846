//! A screen in memory.

use crate::screen::{BACKGROUND, SIDE};
use embedded_graphics::pixelcolor::{Rgb565, Rgb888};
use embedded_graphics::prelude::*;
use image::RgbImage;
use std::convert::Infallible;

/// `SIDE x SIDE` pixels of 16-bit colour; what is drawn outside is dropped, as a display does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Row by row.
    pixels: Vec<Rgb565>,
}

impl Default for Frame {
    fn default() -> Self {
        Self { pixels: vec![BACKGROUND; (SIDE * SIDE) as usize] }
    }
}

impl Frame {
    /// The frame in 24-bit colour, each channel spread over the whole range.
    pub fn to_image(&self) -> RgbImage {
        RgbImage::from_fn(SIDE, SIDE, |x, y| {
            let colour = Rgb888::from(self.pixels[(y * SIDE + x) as usize]);
            image::Rgb([colour.r(), colour.g(), colour.b()])
        })
    }
}

impl OriginDimensions for Frame {
    fn size(&self) -> Size {
        Size::new_equal(SIDE)
    }
}

impl DrawTarget for Frame {
    type Color = Rgb565;
    type Error = Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<Rgb565>>>(&mut self, pixels: I) -> Result<(), Infallible> {
        for Pixel(Point { x, y }, colour) in pixels {
            if let (Ok(x @ 0..SIDE), Ok(y @ 0..SIDE)) = (u32::try_from(x), u32::try_from(y)) {
                self.pixels[(y * SIDE + x) as usize] = colour;
            }
        }
        Ok(())
    }
}
