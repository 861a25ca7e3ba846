//! Pictures, bars, outlines and curves on a colour canvas, and numbers as they are written.

use super::palette::{BAD, GOOD, TROUGH};
use crate::canvas::Canvas;
use crate::lettering::Line;
use crate::state::{Picture, View};
use embedded_graphics::pixelcolor::Rgb565;
use embedded_graphics::prelude::*;
use embedded_graphics::primitives::Rectangle;
use gabion_spec::Pixels;

/// A rectangle from its corner and sides.
pub fn area(x: i32, y: i32, width: i32, height: i32) -> Rectangle {
    Rectangle::new(Point::new(x, y), Size::new(width.max(0).unsigned_abs(), height.max(0).unsigned_abs()))
}

/// Fills a rectangle.
pub fn fill<C: PixelColor>(canvas: &mut Canvas<C>, area: Rectangle, colour: C) {
    let Ok(()) = canvas.fill_solid(&area, colour);
}

/// The four sides of a rectangle, one pixel wide.
pub fn outline<C: PixelColor>(canvas: &mut Canvas<C>, frame: Rectangle, colour: C) {
    let (Point { x, y }, Size { width, height }) = (frame.top_left, frame.size);
    let (width, height) = (width.cast_signed(), height.cast_signed());
    fill(canvas, area(x, y, width, 1), colour);
    fill(canvas, area(x, y + height - 1, width, 1), colour);
    fill(canvas, area(x, y, 1, height), colour);
    fill(canvas, area(x + width - 1, y, 1, height), colour);
}

/// A bar that is full at 1.
pub fn bar<C: PixelColor>(canvas: &mut Canvas<C>, full: Rectangle, share: f32, (trough, colour): (C, C)) {
    fill(canvas, full, trough);
    let long = scaled(share, full.size.width);
    fill(canvas, Rectangle::new(full.top_left, Size::new(long, full.size.height)), colour);
}

/// A curve of values in `[0, 1]` over the whole width, the latest values last, with its end marked.
pub fn curve<C: PixelColor>(canvas: &mut Canvas<C>, room: Rectangle, values: &[f32], (line, end): (C, C)) {
    let (Point { x, y }, Size { width, height }) = (room.top_left, room.size);
    if values.is_empty() || width < 2 || height < 2 {
        return;
    }
    let row = |value: f32| y + (height - 1 - scaled(value, height - 1)).cast_signed();
    let steps = values.len().max(2) - 1;
    let at = |column: usize| {
        // Linear between the values that lie to the left and right of a column.
        #[allow(clippy::cast_precision_loss)] // columns and rounds are few
        let place = column as f32 / (width - 1) as f32 * steps as f32;
        let left = (place as usize).min(values.len() - 1);
        let right = (left + 1).min(values.len() - 1);
        row(unit(values[left]) + (unit(values[right]) - unit(values[left])) * (place - place.floor()))
    };
    let mut before = at(0);
    for column in 0..width as usize {
        let now = at(column);
        let (top, bottom) = (before.min(now), before.max(now));
        #[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap)] // within the room
        fill(canvas, area(x + column as i32, top, 1, bottom - top + 1), line);
        before = now;
    }
    fill(canvas, area(x + width.cast_signed() - 3, before - 1, 3, 3), end);
}

/// The picture in the middle of a square, as large as it fits, each pixel the nearest of the source; where it lies.
pub fn picture(canvas: &mut Canvas<Rgb565>, shown: &Picture<'_>, room: Rectangle) -> Rectangle {
    let &Picture { height, width, pixels } = shown;
    let bytes = height as usize * width as usize * 3;
    assert_eq!(pixels.len(), bytes, "a picture of {height}x{width} has {bytes} bytes");
    fill(canvas, room, TROUGH);
    if bytes == 0 {
        return Rectangle::new(room.top_left, Size::zero());
    }
    // The largest of the picture's shape within the room.
    let (room_wide, room_high) = (u64::from(room.size.width), u64::from(room.size.height));
    let (wide, high) = (u64::from(width), u64::from(height));
    let (columns, rows) = if room_wide * high <= room_high * wide {
        (room_wide, (room_wide * high / wide).max(1))
    } else {
        ((room_high * wide / high).max(1), room_high)
    };
    let nearest = |at: u64, of: u64, side: u64| ((2 * at + 1) * side / (2 * of)) as usize;
    let size = Size::new(columns as u32, rows as u32);
    let inside = Rectangle::new(room.top_left + (room.size - size) / 2, size);
    let (left, top) = (inside.top_left.x.unsigned_abs() as usize, inside.top_left.y.unsigned_abs() as usize);
    for row in 0..rows {
        let line = &pixels[nearest(row, rows, high) * width as usize * 3..][..width as usize * 3];
        for (column, pixel) in canvas.row_mut(left, top + row as usize, columns as usize).iter_mut().enumerate() {
            let at = 3 * nearest(column as u64, columns, wide);
            *pixel = Rgb565::new(line[at] >> 3, line[at + 1] >> 2, line[at + 2] >> 3);
        }
    }
    inside
}

/// `after - before`, sixteen times as strong about grey, in the middle of a square.
pub fn difference(canvas: &mut Canvas<Rgb565>, before: &Picture<'_>, after: &Picture<'_>, room: Rectangle) {
    fill(canvas, room, TROUGH);
    if (before.height, before.width) != (after.height, after.width) || before.pixels.is_empty() {
        return;
    }
    let (high, wide) = (before.height as usize, before.width as usize);
    let side = room.size.width.min(room.size.height) as usize;
    let (columns, rows) =
        if wide >= high { (side, (side * high / wide).max(1)) } else { ((side * wide / high).max(1), side) };
    let left = room.top_left.x.unsigned_abs() as usize + (room.size.width as usize - columns) / 2;
    let top = room.top_left.y.unsigned_abs() as usize + (room.size.height as usize - rows) / 2;
    for row in 0..rows {
        let source = (2 * row + 1) * high / (2 * rows) * wide;
        for (column, pixel) in canvas.row_mut(left, top + row, columns).iter_mut().enumerate() {
            let at = 3 * (source + (2 * column + 1) * wide / (2 * columns));
            let strong = |channel: usize| {
                let moved = i32::from(after.pixels[at + channel]) - i32::from(before.pixels[at + channel]);
                u8::try_from((128 + 16 * moved).clamp(0, 255)).expect("clamped to a byte")
            };
            *pixel = Rgb565::new(strong(0) >> 3, strong(1) >> 2, strong(2) >> 3);
        }
    }
}

/// The outlines of the views on a picture that lies in `inside`.
pub fn views(canvas: &mut Canvas<Rgb565>, views: &[View], inside: Rectangle) {
    for agreeing in [true, false] {
        // Dissent is drawn last, so that it is seen.
        for view in views.iter().filter(|view| view.agrees == agreeing) {
            let [left, top, right, bottom] = view.area.map(unit);
            let (wide, high) = (inside.size.width, inside.size.height);
            let corner = Point::new(scaled(left, wide).cast_signed(), scaled(top, high).cast_signed());
            let far = Point::new(scaled(right, wide).cast_signed(), scaled(bottom, high).cast_signed());
            let size = far - corner;
            if size.x > 1 && size.y > 1 {
                let at = inside.top_left + corner;
                outline(canvas, area(at.x, at.y, size.x, size.y), if agreeing { GOOD } else { BAD });
            }
        }
    }
}

/// Into `[0, 1]`; what is no number is 0.
pub fn unit(share: f32) -> f32 {
    if share.is_nan() { 0.0 } else { share.clamp(0.0, 1.0) }
}

/// A share of a length.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)] // screens are small
pub fn scaled(share: f32, length: u32) -> u32 {
    (unit(share) * length as f32).round() as u32
}

/// `83 %`.
pub fn percent(share: f32) -> Line {
    if share.is_nan() { Line::of(format_args!("-")) } else { Line::of(format_args!("{:.0} %", 100.0 * unit(share))) }
}

/// `8/255`, and `3.1/255` for what is no whole level.
pub fn budget(epsilon: Pixels) -> Line {
    let levels = 255.0 * epsilon.0;
    if (levels - levels.round()).abs() < 0.05 {
        Line::of(format_args!("{levels:.0}/255"))
    } else {
        Line::of(format_args!("{levels:.1}/255"))
    }
}

/// `9.9 ms`, `42 ms`, `12 s`.
pub fn duration(milliseconds: Option<f64>) -> Line {
    match milliseconds {
        Some(ms) if ms.is_finite() && ms >= 0.0 => match ms {
            ms if ms < 9.95 => Line::of(format_args!("{ms:.1} ms")),
            ms if ms < 9_999.5 => Line::of(format_args!("{ms:.0} ms")),
            ms if ms < 9_999_500.0 => Line::of(format_args!("{:.0} s", ms / 1000.0)),
            _ => Line::of(format_args!("> 9999 s")),
        },
        _ => Line::of(format_args!("- ms")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_shares_are_short() {
        let times = [
            (0.04, "0.0 ms"),
            (9.94, "9.9 ms"),
            (9.96, "10 ms"),
            (9999.0, "9999 ms"),
            (1e4, "10 s"),
            (1e30, "> 9999 s"),
            (-1.0, "- ms"),
            (f64::NAN, "- ms"),
        ];
        for (milliseconds, text) in times {
            assert_eq!(&*duration(Some(milliseconds)), text);
        }
        assert_eq!(&*duration(None), "- ms");
        assert_eq!([8.0 / 255.0, 0.0123].map(|epsilon| budget(Pixels(epsilon)).to_string()), ["8/255", "3.1/255"]);
        assert_eq!([0.126, 7.0, -1.0, f32::NAN].map(|share| percent(share).to_string()), ["13 %", "100 %", "0 %", "-"]);
    }

    #[test]
    fn a_picture_keeps_its_shape() {
        let mut canvas = Canvas::new(Size::new(100, 100), Rgb565::BLACK);
        for (height, width, size) in [(32, 32, (90, 90)), (10, 20, (90, 45)), (20, 10, (45, 90)), (1, 3000, (90, 1))] {
            let pixels = vec![255; (height * width * 3) as usize];
            let inside = picture(&mut canvas, &Picture { height, width, pixels: &pixels }, area(5, 5, 90, 90));
            assert_eq!((inside.size.width, inside.size.height), size);
        }
    }
}
