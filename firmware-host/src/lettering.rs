//! Text on a canvas: five sizes of Helvetica, and the rule by which what is too long is shortened.

use crate::canvas::Canvas;
use embedded_graphics::prelude::*;
use std::fmt::{self, Write};
use std::ops::Deref;
use u8g2_fonts::types::{FontColor, HorizontalAlignment, VerticalPosition};
use u8g2_fonts::{FontRenderer, fonts};

/// A size and weight; the name is the height in pixels of what is drawn at most, roughly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Face {
    /// Small print.
    Small,
    /// Text.
    Text,
    /// Text, bold.
    Strong,
    /// The verdict on a narrow screen.
    Large,
    /// The verdict on a wide screen.
    Huge,
}

impl Face {
    fn renderer(self) -> &'static FontRenderer {
        static FACES: [FontRenderer; 5] = [
            FontRenderer::new::<fonts::u8g2_font_helvR08_tf>().with_ignore_unknown_chars(true),
            FontRenderer::new::<fonts::u8g2_font_helvR10_tf>().with_ignore_unknown_chars(true),
            FontRenderer::new::<fonts::u8g2_font_helvB10_tf>().with_ignore_unknown_chars(true),
            FontRenderer::new::<fonts::u8g2_font_helvB14_tf>().with_ignore_unknown_chars(true),
            FontRenderer::new::<fonts::u8g2_font_helvB18_tf>().with_ignore_unknown_chars(true),
        ];
        &FACES[self as usize]
    }

    /// Rows from the top of the highest letter to the bottom of the lowest.
    pub const fn height(self) -> i32 {
        [11, 14, 14, 18, 24][self as usize]
    }

    /// Rows from the top to the baseline.
    const fn ascent(self) -> i32 {
        [8, 11, 11, 14, 19][self as usize]
    }

    /// Columns that one character takes.
    fn advance(self, character: char) -> i32 {
        let mut bytes = [0; 4];
        let text: &str = character.encode_utf8(&mut bytes);
        let measured = self.renderer().get_rendered_dimensions(text, Point::zero(), VerticalPosition::Baseline);
        measured.map_or(0, |measured| measured.advance.x)
    }

    /// Columns that a text takes.
    pub fn width(self, text: &str) -> i32 {
        text.chars().map(|character| self.advance(character)).sum()
    }
}

/// A short text without an allocation; what is beyond 96 bytes is left off.
#[derive(Clone, Copy)]
pub struct Line {
    bytes: [u8; Self::CAPACITY],
    length: usize,
}

impl Line {
    const CAPACITY: usize = 96;

    /// Nothing.
    pub const fn new() -> Self {
        Self { bytes: [0; Self::CAPACITY], length: 0 }
    }

    /// What `write!` would write.
    pub fn of(arguments: fmt::Arguments<'_>) -> Self {
        let mut line = Self::new();
        // The end of the line is no error.
        let _ = line.write_fmt(arguments);
        line
    }

    fn push(&mut self, character: char) -> fmt::Result {
        let end = self.length + character.len_utf8();
        let room = self.bytes.get_mut(self.length..end).ok_or(fmt::Error)?;
        character.encode_utf8(room);
        self.length = end;
        Ok(())
    }

    fn truncate(&mut self, length: usize) {
        self.length = length;
        self.length = self.trim_end().len();
    }
}

impl Default for Line {
    fn default() -> Self {
        Self::new()
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|character| self.push(character))
    }
}

impl Deref for Line {
    type Target = str;

    fn deref(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.length]).expect("whole characters were pushed")
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

/// `text` within `room` columns. Line breaks and runs of spaces become one space, characters that the face lacks become
/// `?`. What is too long keeps as many whole characters as leave room for `...`, without a space before it; where not
/// even that fits, nothing is left.
pub fn fit(text: &str, face: Face, room: i32) -> Line {
    const DOTS: &str = "...";
    let dots = face.width(DOTS);
    let mut line = Line::new();
    // Where `...` would be put, should more follow than fits.
    let mut cut = 0;
    let mut wide = 0;
    let mut words = text.chars().map(|c| if c.is_control() || c.is_whitespace() { ' ' } else { c }).peekable();
    while words.next_if_eq(&' ').is_some() {}
    while let Some(character) = words.next() {
        if character == ' ' && words.peek().is_none_or(|&next| next == ' ') {
            continue;
        }
        let character = if face.advance(character) > 0 { character } else { '?' };
        wide += face.advance(character);
        if wide > room || line.length + character.len_utf8() + DOTS.len() > Line::CAPACITY {
            if dots > room {
                return Line::new();
            }
            line.truncate(cut);
            let _ = line.write_str(DOTS);
            return line;
        }
        let _ = line.push(character);
        if wide + dots <= room {
            cut = line.length;
        }
    }
    line
}

/// To which side of its room a text goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Its start is the room's.
    Left,
    /// Its middle is the room's.
    Middle,
    /// Its end is the room's.
    Right,
}

/// Writes one line into `room` columns from `at`, its top left corner; returns the columns taken.
pub fn write<C: PixelColor>(
    canvas: &mut Canvas<C>,
    text: &str,
    face: Face,
    colour: C,
    (at, room, side): (Point, i32, Side),
) -> i32 {
    let line = fit(text, face, room);
    let width = face.width(&line);
    let left = match side {
        Side::Left => 0,
        Side::Middle => (room - width) / 2,
        Side::Right => room - width,
    };
    let baseline = Point::new(at.x + left, at.y + face.ascent());
    let drawn = face.renderer().render_aligned(
        &*line,
        baseline,
        VerticalPosition::Baseline,
        HorizontalAlignment::Left,
        FontColor::Transparent(colour),
        canvas,
    );
    drawn.expect("a canvas refuses nothing, and what the face lacks was replaced");
    width
}

/// [`write()`] over several lines, broken between words; what is left goes into the last line, shortened.
pub fn write_lines<C: PixelColor>(
    canvas: &mut Canvas<C>,
    text: &str,
    face: Face,
    colour: C,
    (at, room, lines): (Point, i32, i32),
) {
    let mut rest = text.trim_start();
    for line in 0..lines {
        let at = at + Point::new(0, line * (face.height() + 2));
        let last = line + 1 == lines;
        let end = if last { rest.len() } else { whole_words(rest, face, room) };
        write(canvas, &rest[..end], face, colour, (at, room, Side::Left));
        rest = rest[end..].trim_start();
    }
}

/// The end of the last word that fits; of the first word, where it alone does not.
fn whole_words(text: &str, face: Face, room: i32) -> usize {
    let ends = text.char_indices().filter(|(_, c)| c.is_whitespace()).map(|(at, _)| at).chain([text.len()]);
    let mut fitting = None;
    for end in ends {
        if fitting.is_some() && face.width(&text[..end]) > room {
            break;
        }
        fitting = Some(end);
    }
    fitting.unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FACES: [Face; 5] = [Face::Small, Face::Text, Face::Strong, Face::Large, Face::Huge];

    #[test]
    fn a_long_name_ends_in_dots() {
        let fitted = |text, room| fit(text, Face::Text, room).to_string();
        assert_eq!(fitted("frog", 100), "frog");
        assert_eq!(fitted("grand piano, pianoforte", 80), "grand pian...");
        assert_eq!(fitted("grand piano, pianoforte", 47), "grand...");
        assert_eq!(fitted("frog", 1), "");
        assert_eq!(fitted(" a\n\n b ", 100), "a b");
        assert_eq!(fitted("\u{fc}ber \u{1f40c}", 100), "\u{fc}ber ?");
        assert_eq!(fitted("", 100), "");
    }

    #[test]
    fn lines_break_between_words() {
        let text = "use the engine without a bundle";
        let end = whole_words(text, Face::Small, 80);
        assert_eq!(&text[..end], "use the engine");
        assert_eq!(whole_words("automobile", Face::Huge, 10), 10);
        assert_eq!(whole_words("", Face::Huge, 10), 0);
    }

    proptest! {
        /// No text is wider than its room, what fits is whole, and what is shortened keeps a prefix.
        #[test]
        fn texts_fit_their_room(text in "[ -~\u{c0}-\u{ff}]{0,120}", room in 0i32..260, face in 0usize..5) {
            let face = FACES[face];
            let line = fit(&text, face, room);
            prop_assert!(face.width(&line) <= room);
            let plain = text.split_whitespace().collect::<Vec<_>>().join(" ");
            let kept = line.strip_suffix("...").unwrap_or(&line);
            prop_assert!(plain.starts_with(kept), "{kept:?} of {plain:?}");
            if plain.len() < Line::CAPACITY - 3 && face.width(&plain) <= room {
                prop_assert_eq!(&*line, plain.as_str());
            }
        }

        /// What is drawn stays within the room's columns and the face's rows.
        #[test]
        fn letters_stay_in_their_rows(text in "[ -~\u{c0}-\u{ff}]{0,40}", face in 0usize..5) {
            use embedded_graphics::pixelcolor::BinaryColor;
            let face = FACES[face];
            let mut canvas = Canvas::new(Size::new(160, 60), BinaryColor::Off);
            write(&mut canvas, &text, face, BinaryColor::On, (Point::new(10, 10), 140, Side::Left));
            for (at, pixel) in canvas.pixels().iter().enumerate().filter(|(_, pixel)| pixel.is_on()) {
                let (x, y) = (i32::try_from(at % 160).unwrap(), i32::try_from(at / 160).unwrap());
                // The accent of a capital rises into the space above, a slanted end into the column beside.
                prop_assert!((10 - 6..10 + face.height() + 2).contains(&y), "{pixel:?} {x} {y}");
                prop_assert!((8..152).contains(&x), "{x} {y}");
            }
        }
    }
}
