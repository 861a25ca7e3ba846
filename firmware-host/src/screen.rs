//! Three screens (240x240 and 320x240 in colour, 128x64 in one), drawn in memory and sent as what differs.
//!
//! A display without a buffer of its own shows every pixel as it arrives, so clearing and drawing again would flicker.
//! [`Screen::update`] draws the whole picture into memory (0.2 ms) and sends the rectangles in which it differs from
//! what the display has, each pixel once.

mod adapt;
mod attack;
mod live;
mod mono;
mod palette;
mod plot;

pub(crate) use palette::DRAWN;
pub(crate) use plot::{budget, duration, percent};

use crate::canvas::{Canvas, differing};
use crate::state::ViewState;
use embedded_graphics::pixelcolor::{BinaryColor, Rgb565};
use embedded_graphics::prelude::*;
use embedded_graphics::primitives::Rectangle;

/// 240x240 pixels: ST7789.
pub const SQUARE: Size = Size::new(240, 240);
/// 320x240 pixels: ILI9341, and ST7789 of that size.
pub const WIDE: Size = Size::new(320, 240);
/// 128x64 pixels: SSD1306.
pub const MONO: Size = Size::new(128, 64);

/// A colour that there is a screen for.
pub trait Paint: PixelColor {
    /// What lies under everything.
    const GROUND: Self;

    /// Whether there is a layout for this size.
    fn fits(size: Size) -> bool;

    /// Draws every pixel; allocates nothing.
    fn paint(canvas: &mut Canvas<Self>, state: &ViewState<'_>);
}

impl Paint for Rgb565 {
    const GROUND: Self = palette::GROUND;

    fn fits(size: Size) -> bool {
        size == SQUARE || size == WIDE
    }

    fn paint(canvas: &mut Canvas<Self>, state: &ViewState<'_>) {
        live::paint(canvas, state);
    }
}

impl Paint for BinaryColor {
    const GROUND: Self = BinaryColor::Off;

    fn fits(size: Size) -> bool {
        size == MONO
    }

    fn paint(canvas: &mut Canvas<Self>, state: &ViewState<'_>) {
        mono::paint(canvas, state);
    }
}

/// Draws the classified picture with its views alone, in the middle of `room`.
pub(crate) fn draw_picture(canvas: &mut Canvas<Rgb565>, state: &ViewState<'_>, room: Rectangle) {
    if let Some(shown) = &state.picture {
        let inside = plot::picture(canvas, shown, room);
        plot::views(canvas, state.views, inside);
    }
}

/// What a call sent to the display.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Rectangles.
    pub areas: u32,
    /// Pixels.
    pub pixels: u32,
}

/// What a display shows, and what it is to show next.
#[derive(Debug)]
pub struct Screen<C> {
    shown: Canvas<C>,
    next: Canvas<C>,
    /// Whether the display shows `shown`.
    known: bool,
}

impl<C: Paint> Screen<C> {
    /// A screen whose display shows something unknown.
    ///
    /// # Panics
    /// When there is no layout for the size: see [`SQUARE`], [`WIDE`] and [`MONO`].
    pub fn new(size: Size) -> Self {
        assert!(C::fits(size), "there is no screen of {}x{} pixels in this colour", size.width, size.height);
        let canvas = Canvas::new(size, C::GROUND);
        Self { shown: canvas.clone(), next: canvas, known: false }
    }

    /// What the display shows.
    pub fn canvas(&self) -> &Canvas<C> {
        &self.shown
    }

    /// Rows and columns.
    pub fn size(&self) -> Size {
        self.shown.size()
    }

    /// Shows `state`, sending what differs; the first time, and after the target refused something, every pixel.
    ///
    /// # Errors
    /// What the target refuses.
    ///
    /// # Panics
    /// When a picture's bytes are not `height * width * 3`.
    pub fn update<D: DrawTarget<Color = C>>(
        &mut self,
        state: &ViewState<'_>,
        target: &mut D,
    ) -> Result<Sent, D::Error> {
        C::paint(&mut self.next, state);
        let mut sent = Sent::default();
        let Self { shown, next, known } = self;
        let mut send = |area: Rectangle| {
            sent.areas += 1;
            sent.pixels += area.size.width * area.size.height;
            target.fill_contiguous(&area, next.within(area))
        };
        if std::mem::replace(known, false) {
            differing(shown, next, &mut send)?;
        } else {
            send(next.bounding_box())?;
        }
        *known = true;
        std::mem::swap(shown, next);
        Ok(sent)
    }

    /// Every pixel is sent with the next update: the display was switched off, or drawn on by others.
    pub fn forget(&mut self) {
        self.known = false;
    }
}
