//! One screen: the picture, what it was taken for, and how sure and how fast.

use embedded_graphics::mono_font::iso_8859_1::{FONT_6X10, FONT_8X13, FONT_10X20};
use embedded_graphics::mono_font::{MonoFont, MonoTextStyle};
use embedded_graphics::pixelcolor::Rgb565;
use embedded_graphics::prelude::*;
use embedded_graphics::primitives::Rectangle;
use embedded_graphics::text::{Alignment, Baseline, Text, TextStyleBuilder};

/// Rows and columns of the screen.
pub const SIDE: u32 = 240;

/// What lies under everything.
pub const BACKGROUND: Rgb565 = Rgb565::new(2, 4, 3);
const BRIGHT: Rgb565 = Rgb565::new(30, 60, 29);
const DIM: Rgb565 = Rgb565::new(16, 33, 17);
const TROUGH: Rgb565 = Rgb565::new(5, 11, 7);
const FIRST: Rgb565 = Rgb565::new(6, 48, 20);
const OTHER: Rgb565 = Rgb565::new(8, 30, 22);

const MARGIN: i32 = 8;
const INNER: u32 = 224;
/// Side of the square that the picture fits into.
const PICTURE: u32 = 112;
/// Where the column beside the picture starts, and how wide it is.
const COLUMN: (i32, u32) = (128, 104);
const BARS_TOP: i32 = 130;
const BAR_PITCH: i32 = 36;

/// 8-bit RGB, `[height, width, 3]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picture<'a> {
    /// Rows.
    pub height: u32,
    /// Columns.
    pub width: u32,
    /// `height * width * 3` bytes.
    pub pixels: &'a [u8],
}

/// What the screen shows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ViewState<'a> {
    /// What was classified.
    pub picture: Picture<'a>,
    /// Classes with their probabilities, the most probable first; three are shown.
    pub classes: &'a [(String, f32)],
    /// Views that the answer rests on.
    pub views: u32,
    /// Share of the views that agree with the answer.
    pub agreement: f32,
    /// Time of one classification.
    pub milliseconds: f64,
}

/// Draws the whole screen, every pixel of it and none outside.
///
/// # Errors
/// What the target refuses.
///
/// # Panics
/// When the picture's bytes are not `height * width * 3`.
pub fn draw<D: DrawTarget<Color = Rgb565>>(state: &ViewState<'_>, target: &mut D) -> Result<(), D::Error> {
    target.fill_solid(&Rectangle::new(Point::zero(), Size::new_equal(SIDE)), BACKGROUND)?;
    draw_picture(&state.picture, target)?;

    let views = format!("{}", state.views);
    let rows = [("agreement", percent(state.agreement)), ("views", views), ("time", duration(state.milliseconds))];
    let mut y = MARGIN;
    for (name, value) in rows {
        write(name, Point::new(COLUMN.0, y), (COLUMN.1, Alignment::Left), (&FONT_6X10, DIM), target)?;
        write(&value, Point::new(COLUMN.0, y + 11), (COLUMN.1, Alignment::Left), (&FONT_10X20, BRIGHT), target)?;
        y += 38;
    }

    let mut y = BARS_TOP;
    for (rank, (name, probability)) in state.classes.iter().take(3).enumerate() {
        let (text, bar) = if rank == 0 { (BRIGHT, FIRST) } else { (DIM, OTHER) };
        let share = percent(*probability);
        let taken = width(&share, &FONT_8X13) + FONT_8X13.character_size.width;
        write(name, Point::new(MARGIN, y), (INNER - taken, Alignment::Left), (&FONT_8X13, text), target)?;
        write(&share, Point::new(MARGIN, y), (INNER, Alignment::Right), (&FONT_8X13, text), target)?;
        let full = Rectangle::new(Point::new(MARGIN, y + 16), Size::new(INNER, 10));
        target.fill_solid(&full, TROUGH)?;
        #[allow(clippy::cast_precision_loss)]
        let long = (unit(*probability) * INNER as f32).round() as u32;
        target.fill_solid(&Rectangle::new(full.top_left, Size::new(long, 10)), bar)?;
        y += BAR_PITCH;
    }
    Ok(())
}

/// The picture in the top left square, as large as it fits, each pixel the nearest of the source.
fn draw_picture<D: DrawTarget<Color = Rgb565>>(picture: &Picture<'_>, target: &mut D) -> Result<(), D::Error> {
    let &Picture { height, width, pixels } = picture;
    let bytes = height as usize * width as usize * 3;
    assert_eq!(pixels.len(), bytes, "a picture of {height}x{width} has {bytes} bytes");
    let longest = height.max(width);
    if bytes == 0 {
        return Ok(());
    }
    let scaled = |side: u32| (u64::from(side) * u64::from(PICTURE) / u64::from(longest)).max(1);
    let (rows, columns) = (scaled(height), scaled(width));
    let nearest = |at: u64, of: u64, side: u32| ((2 * at + 1) * u64::from(side) / (2 * of)) as usize;
    let colours = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))).map(|(row, column)| {
        let at = 3 * (nearest(row, rows, height) * width as usize + nearest(column, columns, width));
        Rgb565::new(pixels[at] >> 3, pixels[at + 1] >> 2, pixels[at + 2] >> 3)
    });
    let size = Size::new(columns as u32, rows as u32);
    let free = Size::new_equal(PICTURE) - size;
    let top_left = Point::new_equal(MARGIN) + free / 2;
    target.fill_contiguous(&Rectangle::new(top_left, size), colours)
}

/// One line of text, shortened to whole characters where it is wider than `room`.
fn write<D: DrawTarget<Color = Rgb565>>(
    text: &str,
    at: Point,
    (room, alignment): (u32, Alignment),
    (font, colour): (&MonoFont<'_>, Rgb565),
    target: &mut D,
) -> Result<(), D::Error> {
    let text = shortened(text, (room / font.character_size.width) as usize);
    let at = match alignment {
        Alignment::Right => at + Size::new(room - width(&text, font), 0),
        _ => at,
    };
    let style = TextStyleBuilder::new().baseline(Baseline::Top).build();
    Text::with_text_style(&text, at, MonoTextStyle::new(font, colour), style).draw(target).map(|_| ())
}

fn width(text: &str, font: &MonoFont<'_>) -> u32 {
    text.chars().count() as u32 * font.character_size.width
}

/// At most `characters` of `text`, the last ones `...` when some are missing; line breaks become spaces.
fn shortened(text: &str, characters: usize) -> String {
    let plain = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    if text.chars().count() <= characters {
        return plain.collect();
    }
    plain.take(characters.saturating_sub(3)).collect::<String>().trim_end().to_owned() + "..."
}

fn unit(share: f32) -> f32 {
    if share.is_nan() { 0.0 } else { share.clamp(0.0, 1.0) }
}

fn percent(share: f32) -> String {
    if share.is_nan() { "-".into() } else { format!("{:.0} %", 100.0 * unit(share)) }
}

fn duration(milliseconds: f64) -> String {
    match milliseconds {
        ms if !ms.is_finite() || ms < 0.0 => "-".into(),
        ms if ms < 9.95 => format!("{ms:.1} ms"),
        ms if ms < 9_999.5 => format!("{ms:.0} ms"),
        ms => format!("{:.0} s", ms / 1000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Frame;
    use std::collections::HashMap;
    use std::convert::Infallible;
    use std::path::Path;

    /// Keeps every pixel wherever it lies; the later one wins.
    struct Unbounded(HashMap<(i32, i32), Rgb565>);

    impl Dimensions for Unbounded {
        fn bounding_box(&self) -> Rectangle {
            Rectangle::new(Point::new_equal(-10_000), Size::new_equal(20_000))
        }
    }

    impl DrawTarget for Unbounded {
        type Color = Rgb565;
        type Error = Infallible;

        fn draw_iter<I: IntoIterator<Item = Pixel<Rgb565>>>(&mut self, pixels: I) -> Result<(), Infallible> {
            self.0.extend(pixels.into_iter().map(|Pixel(at, colour)| ((at.x, at.y), colour)));
            Ok(())
        }
    }

    fn drawn(state: &ViewState<'_>) -> HashMap<(i32, i32), Rgb565> {
        let mut target = Unbounded(HashMap::new());
        draw(state, &mut target).unwrap();
        target.0
    }

    /// Red grows to the right, green downwards.
    fn gradient(height: u32, width: u32) -> Vec<u8> {
        (0..height).flat_map(|y| (0..width).flat_map(move |x| [(x * 8) as u8, (y * 8) as u8, 96])).collect()
    }

    fn classes(names: [&str; 3], probabilities: [f32; 3]) -> Vec<(String, f32)> {
        names.map(String::from).into_iter().zip(probabilities).collect()
    }

    const LONG: &str = "grand piano, pianoforte with a very\nlong name: \u{fc}berlang \u{1f40c}";

    #[test]
    fn every_pixel_is_drawn_and_none_outside() {
        let odd = [f32::NAN, -1.0, 7.0];
        for (height, width) in [(32, 32), (1, 3000), (3000, 1), (0, 0), (500, 333)] {
            for milliseconds in [0.0, 12.3, 1e30, f64::NAN] {
                let picture = Picture { height, width, pixels: &gradient(height, width) };
                let classes = classes([LONG, "", LONG], odd);
                let state = ViewState { picture, classes: &classes, views: u32::MAX, agreement: -0.5, milliseconds };
                let drawn = drawn(&state);
                let side = 0..i32::try_from(SIDE).unwrap();
                assert!(drawn.keys().all(|(x, y)| side.contains(x) && side.contains(y)));
                assert_eq!(drawn.len(), (SIDE * SIDE) as usize);
                let inner = MARGIN..i32::try_from(SIDE).unwrap() - MARGIN;
                let edge = drawn.iter().filter(|((x, y), _)| !inner.contains(x) || !inner.contains(y));
                assert!(edge.into_iter().all(|(_, &colour)| colour == BACKGROUND), "text or bars reach the margin");
            }
        }
    }

    #[test]
    fn a_long_name_ends_in_dots_and_stays_clear_of_its_percentage() {
        let names = classes([LONG, "b", "c"], [1.0, 0.0, 0.0]);
        let picture = Picture { height: 1, width: 1, pixels: &[0, 0, 0] };
        let state = ViewState { picture, classes: &names, views: 1, agreement: 1.0, milliseconds: 1.0 };
        let drawn = drawn(&state);
        // "100 %" takes 40 columns; one character's width before them stays empty.
        let gap = (MARGIN + 224 - 48)..(MARGIN + 224 - 40);
        assert!(gap.into_iter().all(|x| (BARS_TOP..BARS_TOP + 13).all(|y| drawn[&(x, y)] == BACKGROUND)));
        let short = shortened(LONG, 22);
        assert_eq!(short, "grand piano, pianof...");
        assert_eq!(shortened("frog", 4), "frog");
        assert_eq!(shortened("a\nb", 9), "a b");
    }

    #[test]
    fn times_fit_their_column() {
        for (milliseconds, text) in
            [(0.04, "0.0 ms"), (9.94, "9.9 ms"), (9.96, "10 ms"), (9999.0, "9999 ms"), (1e4, "10 s"), (-1.0, "-")]
        {
            assert_eq!(duration(milliseconds), text);
        }
    }

    /// `GABION_BLESS=1` writes the golden file instead; look at it before it is committed.
    #[test]
    fn looks_as_it_did() {
        let classes = classes(["frog", "a class with a name that is too long", "deer"], [0.83, 0.121, 0.04]);
        let picture = Picture { height: 32, width: 24, pixels: &gradient(32, 24) };
        let state = ViewState { picture, classes: &classes, views: 16, agreement: 0.875, milliseconds: 41.6 };
        let mut frame = Frame::default();
        draw(&state, &mut frame).unwrap();
        let here = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo says where the package lies");
        let golden = Path::new(&here).join("golden/screen.png");
        if std::env::var_os("GABION_BLESS").is_some() {
            frame.to_image().save(&golden).unwrap();
        }
        let golden = image::open(&golden).expect("GABION_BLESS=1 writes it").into_rgb8();
        assert!(golden == frame.to_image(), "the screen differs from golden/screen.png");
    }
}
