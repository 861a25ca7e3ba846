//! Contact sheets: a picture with the crops of its views on it, and the views.

use embedded_graphics::mono_font::iso_8859_1::FONT_6X10;
use embedded_graphics::mono_font::{MonoFont, MonoTextStyle};
use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::prelude::*;
use embedded_graphics::primitives::{PrimitiveStyle, Rectangle};
use embedded_graphics::text::{Baseline, Text};
use gabion_runtime::Rgb;
use gabion_spec::Draw;
use image::RgbImage;
use image::imageops::{self, FilterType};
use std::convert::Infallible;
use std::io::Cursor;

/// What a sheet shows.
#[derive(Clone, Copy, Debug)]
pub struct Sheet<'a> {
    /// The picture that the views are of.
    pub source: &'a Rgb,
    /// One a view.
    pub draws: &'a [Draw],
    /// Height and width of a view.
    pub size: [u32; 2],
    /// `[draws, 3, height, width]` in `[0, 1]`.
    pub views: &'a [f32],
    /// The same views made by somebody else, to be compared; and the names of the two.
    pub other: Option<(&'a [f32], [&'a str; 2])>,
}

/// Differences are shown so many times larger.
pub const AMPLIFIED: f32 = 50.0;

const MARGIN: u32 = 16;
const GAP: u32 = 12;
/// Pixels that a view is enlarged to at most, by a whole factor.
const TILE: u32 = 128;
/// Of a tile's frame, in the colour of its crop.
const FRAME: u32 = 3;
const FONT: MonoFont<'_> = FONT_6X10;
const LINE: u32 = 12;
const CAPTION_LINES: u32 = 3;
/// Pixels of the longer side of the source.
const SOURCE: u32 = 640;
const INK: Rgb888 = Rgb888::new(32, 36, 44);

/// The largest difference of two values, and its view.
pub fn largest_difference(one: &[f32], other: &[f32], views: usize) -> (f32, usize) {
    let length = (one.len() / views.max(1)).max(1);
    let mut largest = (0.0, 0);
    for (at, (a, b)) in one.iter().zip(other).enumerate() {
        let off = (a - b).abs();
        if off > largest.0 {
            largest = (off, at / length);
        }
    }
    largest
}

/// What a draw does to a crop, in words.
pub fn words(draw: &Draw) -> Vec<String> {
    let mut words = vec![format!("{}x{}", draw.height, draw.width)];
    let mut add = |happens: bool, word: &str| words.extend(happens.then(|| word.to_string()));
    add(draw.flip != 0, "flip");
    add(draw.jitter != 0, "jitter");
    add(draw.grayscale != 0, "gray");
    add(draw.blur_sigma > 0.0, &format!("blur\u{a0}{:.1}", draw.blur_sigma));
    add(draw.solarize < Draw::NO_SOLARIZE, "solarize");
    words
}

/// The sheet as a PNG file.
///
/// # Panics
/// As [`draw()`].
pub fn png(sheet: &Sheet<'_>) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    draw(sheet).write_to(&mut file, image::ImageFormat::Png).expect("memory takes what is written to it");
    file.into_inner()
}

/// Draws the sheet.
///
/// # Panics
/// When views or source have not their size's length.
pub fn draw(sheet: &Sheet<'_>) -> RgbImage {
    let [height, width] = sheet.size;
    let length = 3 * (height * width) as usize;
    assert_eq!(sheet.views.len(), sheet.draws.len() * length, "values: given (left), of the views (right)");
    let factor = (TILE / height.max(width)).max(1);
    let tile = [height * factor + 2 * FRAME, width * factor + 2 * FRAME];
    let names: &[&str] = match &sheet.other {
        None => &[""],
        Some((_, [one, other])) => &[one, other, "difference x 50"],
    };
    let across = u32::try_from(names.len()).expect("three at most");
    // A caption keeps its room where tiles are narrow.
    let cell_width = (across * tile[1] + (across - 1) * FRAME).max(TILE + 2 * FRAME);
    let cell_height = tile[0] + CAPTION_LINES * LINE + 4;
    let count = u32::try_from(sheet.draws.len()).expect("views are few");
    let columns = columns(count, cell_width, cell_height);
    let rows = count.div_ceil(columns);
    let source = Scaled::of(sheet.source);
    let heading = if across > 1 { LINE + 4 } else { 0 };
    let grid = [rows * (cell_height + GAP) - GAP + heading, columns * (cell_width + GAP) - GAP];
    let source_height = source.image.height() + LINE + 4;
    let left = 2 * MARGIN + source.image.width().max(TILE);
    let mut canvas = Canvas(RgbImage::from_pixel(
        left + grid[1] + MARGIN,
        2 * MARGIN + grid[0].max(source_height),
        image::Rgb([255; 3]),
    ));
    let under = format!("{}x{} pixels", sheet.source.height, sheet.source.width);
    canvas.paste(&source.image, MARGIN, MARGIN);
    canvas.text(&under, MARGIN, MARGIN + source.image.height() + 4, INK);
    for (number, draw) in sheet.draws.iter().enumerate() {
        let [x, y, width, height] = source.crop(draw);
        canvas.frame(x, y, width, height, colour(number));
    }
    for (number, draw) in sheet.draws.iter().enumerate() {
        source.label(&mut canvas, draw, number);
    }
    if across > 1 {
        for (column, (at, name)) in
            (0..columns).flat_map(|column| names.iter().enumerate().map(move |name| (column, name)))
        {
            let x = left + column * (cell_width + GAP) + u32::try_from(at).expect("three at most") * (tile[1] + FRAME);
            canvas.text(name, x, MARGIN, INK);
        }
    }
    for (number, draw) in sheet.draws.iter().enumerate() {
        let at = u32::try_from(number).expect("views are few");
        let x = left + at % columns * (cell_width + GAP);
        let y = MARGIN + heading + at / columns * (cell_height + GAP);
        let view = &sheet.views[number * length..][..length];
        let mut tiles = vec![view.to_vec()];
        let mut caption = words(draw);
        caption.insert(0, format!("{}:", number + 1));
        if let Some((other, _)) = sheet.other {
            let other = &other[number * length..][..length];
            tiles.push(other.to_vec());
            tiles.push(view.iter().zip(other).map(|(a, b)| (a - b).abs() * AMPLIFIED).collect());
            let (off, _) = largest_difference(view, other, 1);
            let apart = format!("off\u{a0}by\u{a0}{:.0e}/255", 255.0 * off);
            caption.push(if off > 0.0 { apart } else { "equal".into() });
        }
        for (place, tile_values) in (0u32..).zip(&tiles) {
            let x = x + place * (tile[1] + FRAME);
            canvas.fill(x, y, tile[1], tile[0], colour(number));
            canvas.paste(&enlarged(tile_values, sheet.size, factor), x + FRAME, y + FRAME);
        }
        for (line, text) in (0u32..).zip(wrapped(&caption, cell_width / FONT.character_size.width)) {
            canvas.text(&text, x, y + tile[0] + 4 + line * LINE, INK);
        }
    }
    canvas.0
}

/// So many that the grid is about as high as it is wide and few places stay empty.
fn columns(count: u32, width: u32, height: u32) -> u32 {
    let square =
        (1..=count).find(|columns| columns * width >= count.div_ceil(*columns) * height).unwrap_or(count).max(1);
    let near = square.saturating_sub(2).max(1)..=square + 1;
    near.min_by_key(|columns| (columns * count.div_ceil(*columns) - count, columns.abs_diff(square))).unwrap_or(square)
}

/// Words in lines of at most `most` characters; a line more than there is room for goes unshown.
fn wrapped(words: &[String], most: u32) -> Vec<String> {
    let mut lines: Vec<String> = vec![String::new()];
    for word in words {
        let line = lines.last_mut().expect("there is one");
        if line.is_empty() {
            line.clone_from(word);
        } else if line.chars().count() + 1 + word.chars().count() <= most as usize {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.clone());
        }
    }
    lines.truncate(CAPTION_LINES as usize);
    lines
}

/// `[3, height, width]` as bytes, each pixel a square.
fn enlarged(values: &[f32], [height, width]: [u32; 2], factor: u32) -> RgbImage {
    let area = (height * width) as usize;
    RgbImage::from_fn(width * factor, height * factor, |x, y| {
        let at = (y / factor * width + x / factor) as usize;
        image::Rgb([0, 1, 2].map(|channel| (values[channel * area + at].clamp(0.0, 1.0) * 255.0).round() as u8))
    })
}

/// The colour of a view's crop: hues as far from one another as they get, dark enough for white letters.
#[allow(clippy::cast_precision_loss)]
fn colour(number: usize) -> Rgb888 {
    let hue = 6.0 * ((number as f32 * 0.618_034 + 0.58) % 1.0);
    let value = [0.86, 0.66][number % 2];
    let channel = |shift: f32| {
        let place = (hue + shift) % 6.0;
        let share = (2.0 - (place - 3.0).abs()).clamp(0.0, 1.0);
        (255.0 * value * (1.0 - 0.85 * share)) as u8
    };
    Rgb888::new(channel(0.0), channel(4.0), channel(2.0))
}

/// The source as it is shown.
struct Scaled {
    image: RgbImage,
    scale: f64,
}

impl Scaled {
    fn of(source: &Rgb) -> Self {
        let [height, width] = [source.height, source.width].map(|side| u32::try_from(side).expect("a picture's side"));
        let longer = height.max(width);
        let whole = RgbImage::from_raw(width, height, source.pixels.clone()).expect("3 bytes a pixel");
        if longer <= SOURCE {
            let factor = (SOURCE / longer).max(1);
            let image = imageops::resize(&whole, width * factor, height * factor, FilterType::Nearest);
            return Self { image, scale: f64::from(factor) };
        }
        let scale = f64::from(SOURCE) / f64::from(longer);
        let side = |side: u32| ((f64::from(side) * scale).round() as u32).max(1);
        Self { image: imageops::resize(&whole, side(width), side(height), FilterType::Triangle), scale }
    }

    fn place(&self, pixels: u32) -> u32 {
        (f64::from(pixels) * self.scale).round() as u32
    }

    /// Left, top, width, height of a crop on the canvas.
    fn crop(&self, draw: &Draw) -> [u32; 4] {
        let [left, top] = [draw.left, draw.top].map(|at| self.place(at));
        let [right, bottom] = [draw.left + draw.width, draw.top + draw.height].map(|at| self.place(at));
        [MARGIN + left, MARGIN + top, (right - left).max(2), (bottom - top).max(2)]
    }

    fn label(&self, canvas: &mut Canvas, draw: &Draw, number: usize) {
        let [x, y, width, _] = self.crop(draw);
        // Labels of crops that begin at one place stand side by side.
        let label = format!("{}", number + 1);
        let label_width = u32::try_from(label.len()).expect("short") * FONT.character_size.width + 3;
        let steps = (width / (label_width + 2)).clamp(1, 8);
        let at = u32::try_from(number).expect("views are few") % steps;
        let x = (x + 2 + at * (label_width + 2)).min(MARGIN + self.image.width().saturating_sub(label_width));
        let y = (y + 2).min(MARGIN + self.image.height().saturating_sub(LINE));
        canvas.fill(x, y, label_width, LINE - 1, colour(number));
        canvas.text(&label, x + 2, y + 1, Rgb888::WHITE);
    }
}

struct Canvas(RgbImage);

impl Canvas {
    fn paste(&mut self, image: &RgbImage, x: u32, y: u32) {
        imageops::replace(&mut self.0, image, x.into(), y.into());
    }

    fn fill(&mut self, x: u32, y: u32, width: u32, height: u32, colour: Rgb888) {
        let _ = Self::area(x, y, width, height).into_styled(PrimitiveStyle::with_fill(colour)).draw(self);
    }

    fn frame(&mut self, x: u32, y: u32, width: u32, height: u32, colour: Rgb888) {
        let _ = Self::area(x, y, width, height).into_styled(PrimitiveStyle::with_stroke(colour, 2)).draw(self);
    }

    fn text(&mut self, text: &str, x: u32, y: u32, colour: Rgb888) {
        let style = MonoTextStyle::new(&FONT, colour);
        let _ = Text::with_baseline(text, Self::point(x, y), style, Baseline::Top).draw(self);
    }

    fn area(x: u32, y: u32, width: u32, height: u32) -> Rectangle {
        Rectangle::new(Self::point(x, y), Size::new(width, height))
    }

    fn point(x: u32, y: u32) -> Point {
        Point::new(x.cast_signed(), y.cast_signed())
    }
}

impl OriginDimensions for Canvas {
    fn size(&self) -> Size {
        Size::new(self.0.width(), self.0.height())
    }
}

impl DrawTarget for Canvas {
    type Color = Rgb888;
    type Error = Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<Rgb888>>>(&mut self, pixels: I) -> Result<(), Infallible> {
        for Pixel(at, colour) in pixels {
            if let (Ok(x), Ok(y)) = (u32::try_from(at.x), u32::try_from(at.y))
                && let Some(pixel) = self.0.get_pixel_mut_checked(x, y)
            {
                *pixel = image::Rgb([colour.r(), colour.g(), colour.b()]);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gabion_augment::{Augment, ViewId, sample};

    fn picture(height: usize, width: usize) -> Rgb {
        Rgb { height, width, pixels: (0..3 * height * width).map(|at| (at * 37 % 256) as u8).collect() }
    }

    fn draws(size: [u32; 2], count: u32) -> Vec<Draw> {
        (0..count).map(|view| sample(&Augment::default(), ViewId { seed: 1, epoch: 0, image: 0, view }, size)).collect()
    }

    #[test]
    fn a_tile_is_the_view_in_squares() {
        let source = picture(32, 32);
        let draws = draws([32, 32], 1);
        let views: Vec<f32> = (0..3 * 1024).map(|at| (at % 256) as f32 / 255.0).collect();
        let sheet = draw(&Sheet { source: &source, draws: &draws, size: [32, 32], views: &views, other: None });
        let left = 2 * MARGIN + 640 + FRAME;
        for (y, x) in [(0, 0), (5, 9), (31, 31)] {
            let at = (y * 32 + x) as usize;
            let wanted = [0, 1, 2].map(|c| ((c * 1024 + at) % 256) as u8);
            for corner in [0, 3] {
                let found = sheet.get_pixel(left + 4 * x + corner, MARGIN + FRAME + 4 * y + corner);
                assert_eq!(found.0, wanted);
            }
        }
        // The frame has the colour of the crop on the source.
        let colour = colour(0);
        let wanted = [colour.r(), colour.g(), colour.b()];
        assert_eq!(sheet.get_pixel(left - 1, MARGIN).0, wanted);
        let [x, y, width, height] = Scaled::of(&source).crop(&draws[0]);
        assert_eq!((width, height), (20 * draws[0].width, 20 * draws[0].height));
        assert_eq!(sheet.get_pixel(x + width - 1, y + height - 1).0, wanted);
    }

    #[test]
    fn every_size_is_drawn() {
        for (rows, columns, size, count) in [
            (8, 8, [16, 16], 1),
            (3000, 40, [224, 224], 5),
            (9, 700, [32, 64], 64),
            (1, 1, [1, 1], 3),
            (40, 3000, [5, 300], 2),
        ] {
            let source = picture(rows, columns);
            let draws = draws([rows, columns].map(|side| side as u32), count);
            let views = vec![0.25; draws.len() * 3 * (size[0] * size[1]) as usize];
            let compared = Some((views.as_slice(), ["cpu", "gpu"]));
            for other in [None, compared] {
                let image = draw(&Sheet { source: &source, draws: &draws, size, views: &views, other });
                assert!(image.width() > 100 && image.height() > 50);
            }
        }
    }

    #[test]
    fn the_largest_difference_is_found_with_its_view() {
        assert_eq!(largest_difference(&[0.0, 0.1, 0.5, 0.2], &[0.0, 0.1, 0.25, 0.2], 2), (0.25, 1));
        assert_eq!(largest_difference(&[], &[], 0), (0.0, 0));
    }

    #[test]
    fn captions_keep_to_their_lines() {
        let words: Vec<String> =
            ["1:", "24x29", "flip", "jitter", "gray", "blur\u{a0}1.2", "solarize"].map(String::from).into();
        assert_eq!(wrapped(&words, 22), ["1: 24x29 flip jitter", "gray blur\u{a0}1.2 solarize"]);
    }
}
