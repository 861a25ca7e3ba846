//! SSD1306 of 128x64 over I2C (its data sheet, Solomon Systech 2008). The `ssd1306` crate does the same; its macros ask
//! for more of a crate that lies under Burn, and all of that would be built again.

use crate::screen::MONO;
use embedded_graphics::pixelcolor::BinaryColor;
use embedded_graphics::prelude::*;
use embedded_graphics::primitives::Rectangle;
use embedded_hal::i2c::I2c;

const ADDRESS: u8 = 0x3C;
/// The byte before commands, and before data.
const COMMAND: u8 = 0x00;
const DATA: u8 = 0x40;
const WIDTH: usize = 128;

/// Off, clock, 64 rows, no offset, charge pump, horizontal addressing, turned to the connector on top, contrast, on.
const INIT: [u8; 26] = [
    COMMAND, 0xAE, 0xD5, 0x80, 0xA8, 0x3F, 0xD3, 0x00, 0x40, 0x8D, 0x14, 0x20, 0x00, 0xA1, 0xC8, 0xDA, 0x12, 0x81,
    0x8F, 0xD9, 0xF1, 0xDB, 0x40, 0xA4, 0xA6, 0xAF,
];

/// A display, with a copy of its memory: it takes bytes of eight rows, so that a pixel alone cannot be sent.
#[derive(Debug)]
pub struct Oled<I2C> {
    i2c: I2C,
    /// Pages of eight rows, a byte a column, the top row the lowest bit.
    memory: [u8; WIDTH * 8],
}

impl<I2C: I2c> Oled<I2C> {
    /// Switches a display on.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn new(mut i2c: I2C) -> Result<Self, I2C::Error> {
        i2c.write(ADDRESS, &INIT)?;
        Ok(Self { i2c, memory: [0; WIDTH * 8] })
    }

    /// Sends the bytes that hold an area.
    fn send(&mut self, area: &Rectangle) -> Result<(), I2C::Error> {
        let Some(last) = area.bottom_right() else { return Ok(()) };
        let byte = |side: i32| u8::try_from(side).expect("within the display");
        let (left, right) = (byte(area.top_left.x), byte(last.x));
        let (first, end) = (byte(area.top_left.y / 8), byte(last.y / 8));
        self.i2c.write(ADDRESS, &[COMMAND, 0x21, left, right, 0x22, first, end])?;
        let mut line = [DATA; WIDTH + 1];
        for page in usize::from(first)..=usize::from(end) {
            let columns = &self.memory[page * WIDTH..][usize::from(left)..=usize::from(right)];
            line[1..=columns.len()].copy_from_slice(columns);
            self.i2c.write(ADDRESS, &line[..=columns.len()])?;
        }
        Ok(())
    }
}

impl<I2C> OriginDimensions for Oled<I2C> {
    fn size(&self) -> Size {
        MONO
    }
}

impl<I2C: I2c> DrawTarget for Oled<I2C> {
    type Color = BinaryColor;
    type Error = I2C::Error;

    fn draw_iter<P: IntoIterator<Item = Pixel<BinaryColor>>>(&mut self, pixels: P) -> Result<(), I2C::Error> {
        let whole = self.bounding_box();
        for Pixel(at, colour) in pixels.into_iter().filter(|Pixel(at, _)| whole.contains(*at)) {
            let (x, y) = (at.x.unsigned_abs() as usize, at.y.unsigned_abs() as usize);
            let bit = 1 << (y % 8);
            let byte = &mut self.memory[y / 8 * WIDTH + x];
            *byte = if colour.is_on() { *byte | bit } else { *byte & !bit };
        }
        Ok(())
    }

    fn fill_contiguous<P: IntoIterator<Item = BinaryColor>>(
        &mut self,
        area: &Rectangle,
        colours: P,
    ) -> Result<(), I2C::Error> {
        self.draw_iter(area.points().zip(colours).map(|(at, colour)| Pixel(at, colour)))?;
        self.send(&area.intersection(&self.bounding_box()))
    }
}
