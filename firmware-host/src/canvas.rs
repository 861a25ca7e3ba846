//! A screen in memory, and where two of them differ.

use embedded_graphics::pixelcolor::{BinaryColor, Rgb565, Rgb888};
use embedded_graphics::prelude::*;
use embedded_graphics::primitives::Rectangle;
use image::RgbImage;
use std::convert::Infallible;

/// Side of the tiles that [`differing`] compares, pixels.
const TILE: usize = 8;
/// Most runs of tiles in a row: 2048 columns, every other tile.
const MOST_RUNS: usize = 128;

/// Pixels of one colour type, row by row; what is drawn outside is dropped, as a display does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Canvas<C> {
    size: Size,
    pixels: Vec<C>,
}

impl<C: PixelColor> Canvas<C> {
    /// All of one colour.
    ///
    /// # Panics
    /// Above 2048 columns.
    pub fn new(size: Size, colour: C) -> Self {
        assert!(size.width as usize <= 2 * MOST_RUNS * TILE, "a canvas has at most 2048 columns, got {}", size.width);
        Self { size, pixels: vec![colour; size.width as usize * size.height as usize] }
    }

    /// `[height, width]`, row by row.
    pub fn pixels(&self) -> &[C] {
        &self.pixels
    }

    /// The pixels of row `y` from column `x`, `width` of them.
    ///
    /// # Panics
    /// Outside of the canvas.
    pub fn row(&self, x: usize, y: usize, width: usize) -> &[C] {
        &self.pixels[y * self.size.width as usize + x..][..width]
    }

    /// The pixels of row `y` from column `x`, to be written.
    ///
    /// # Panics
    /// Outside of the canvas.
    pub fn row_mut(&mut self, x: usize, y: usize, width: usize) -> &mut [C] {
        &mut self.pixels[y * self.size.width as usize + x..][..width]
    }

    /// The pixels of `area`, row by row; `area` lies within the canvas.
    pub fn within(&self, area: Rectangle) -> impl Iterator<Item = C> + '_ {
        let (x, y) = (area.top_left.x.unsigned_abs() as usize, area.top_left.y.unsigned_abs() as usize);
        let Size { width, height } = area.size;
        (y..y + height as usize).flat_map(move |y| self.row(x, y, width as usize).iter().copied())
    }

    /// Takes over every pixel of a canvas of the same size.
    pub fn copy_from(&mut self, other: &Self) {
        self.pixels.copy_from_slice(&other.pixels);
    }
}

/// A colour that can be seen on a screen of this machine.
pub trait Visible: PixelColor {
    /// In 24 bits.
    fn rgb(self) -> [u8; 3];
}

impl Visible for Rgb565 {
    fn rgb(self) -> [u8; 3] {
        let colour = Rgb888::from(self);
        [colour.r(), colour.g(), colour.b()]
    }
}

impl Visible for BinaryColor {
    fn rgb(self) -> [u8; 3] {
        if self.is_on() { [216, 236, 255] } else { [0, 0, 0] }
    }
}

impl<C: Visible> Canvas<C> {
    /// The canvas in 24-bit colour.
    pub fn to_image(&self) -> RgbImage {
        let bytes = self.pixels.iter().flat_map(|&colour| colour.rgb()).collect();
        RgbImage::from_raw(self.size.width, self.size.height, bytes).expect("three bytes a pixel")
    }
}

impl<C> OriginDimensions for Canvas<C> {
    fn size(&self) -> Size {
        self.size
    }
}

impl<C: PixelColor> DrawTarget for Canvas<C> {
    type Color = C;
    type Error = Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<C>>>(&mut self, pixels: I) -> Result<(), Infallible> {
        for Pixel(Point { x, y }, colour) in pixels {
            if let (Ok(x), Ok(y)) = (u32::try_from(x), u32::try_from(y))
                && x < self.size.width
                && y < self.size.height
            {
                self.pixels[(y * self.size.width + x) as usize] = colour;
            }
        }
        Ok(())
    }

    fn fill_solid(&mut self, area: &Rectangle, colour: C) -> Result<(), Infallible> {
        let area = area.intersection(&self.bounding_box());
        let (x, y) = (area.top_left.x.unsigned_abs() as usize, area.top_left.y.unsigned_abs() as usize);
        for y in y..y + area.size.height as usize {
            self.row_mut(x, y, area.size.width as usize).fill(colour);
        }
        Ok(())
    }
}

/// The rectangles that cover every pixel in which `after` is not `before`, disjoint, of whole tiles of 8x8; runs of
/// tiles that continue below are one rectangle. Allocates nothing.
///
/// # Errors
/// The first that `each` returns.
///
/// # Panics
/// When the sizes differ.
pub fn differing<C: PixelColor, E>(
    before: &Canvas<C>,
    after: &Canvas<C>,
    mut each: impl FnMut(Rectangle) -> Result<(), E>,
) -> Result<(), E> {
    assert_eq!(before.size, after.size, "canvases of different sizes");
    let (width, height) = (after.size.width as usize, after.size.height as usize);
    let mut open = Runs::default();
    let mut top = 0;
    for y in (0..height).step_by(TILE) {
        let rows = y..height.min(y + TILE);
        let differs = |x: usize| {
            let wide = TILE.min(width - x);
            rows.clone().any(|y| before.row(x, y, wide) != after.row(x, y, wide))
        };
        let mut runs = Runs::default();
        for x in (0..width).step_by(TILE).filter(|&x| differs(x)) {
            runs.add(x, width.min(x + TILE));
        }
        if runs != open {
            open.emit(top, y, &mut each)?;
            (open, top) = (runs, y);
        }
    }
    open.emit(top, height, &mut each)
}

/// Spans of columns.
#[derive(Clone, Copy, PartialEq)]
struct Runs {
    spans: [(u16, u16); MOST_RUNS],
    count: usize,
}

impl Default for Runs {
    fn default() -> Self {
        Self { spans: [(0, 0); MOST_RUNS], count: 0 }
    }
}

impl Runs {
    #[allow(clippy::cast_possible_truncation)] // a canvas has at most 2048 columns
    fn add(&mut self, from: usize, to: usize) {
        if let Some(last) = self.count.checked_sub(1).map(|last| &mut self.spans[last])
            && last.1 as usize == from
        {
            last.1 = to as u16;
        } else {
            self.spans[self.count] = (from as u16, to as u16);
            self.count += 1;
        }
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap)] // as above
    fn emit<E>(&self, top: usize, bottom: usize, each: &mut impl FnMut(Rectangle) -> Result<(), E>) -> Result<(), E> {
        for &(from, to) in &self.spans[..self.count] {
            let corner = Point::new(i32::from(from), top as i32);
            each(Rectangle::new(corner, Size::new(u32::from(to - from), (bottom - top) as u32)))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Copying what differs makes the canvases equal, and no pixel is copied twice.
        #[test]
        fn differences_are_covered_once(
            width in 1u32..70, height in 1u32..40,
            points in proptest::collection::vec((0i32..70, 0i32..40), 0..30),
        ) {
            let mut before = Canvas::new(Size::new(width, height), BinaryColor::Off);
            let mut after = before.clone();
            after.draw_iter(points.iter().map(|&(x, y)| Pixel(Point::new(x, y), BinaryColor::On))).unwrap();
            let mut touched = 0;
            let mut areas = Vec::new();
            differing(&before, &after, |area| { areas.push(area); Ok::<_, Infallible>(()) }).unwrap();
            for (at, area) in areas.iter().enumerate() {
                touched += area.size.width * area.size.height;
                prop_assert!(areas[..at].iter().all(|other| other.intersection(area).is_zero_sized()));
                before.fill_contiguous(area, after.within(*area)).unwrap();
            }
            prop_assert!(before == after);
            prop_assert!(touched <= 64 * points.len() as u32);
        }
    }

    #[test]
    fn equal_canvases_differ_nowhere() {
        let canvas = Canvas::new(Size::new(240, 240), Rgb565::BLACK);
        differing(&canvas, &canvas.clone(), Err).unwrap();
    }
}
