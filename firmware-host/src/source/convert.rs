//! A camera's or a video's bytes to RGB. Integer arithmetic of BT.601, with video range as V4L2 says for its formats by
//! default.

use crate::frame::Frame;

/// How a camera lays out its pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Y U Y V: two pixels share a colour.
    Yuyv,
    /// A plane of Y, then one of U V for every 2x2 pixels.
    Nv12,
    /// A JPEG a frame.
    Mjpeg,
    /// R G B.
    Rgb,
}

impl Layout {
    /// The layouts that are understood, the cheapest first.
    pub const ALL: [Self; 4] = [Self::Rgb, Self::Yuyv, Self::Nv12, Self::Mjpeg];

    /// The four characters that V4L2 knows it by.
    pub const fn fourcc(self) -> [u8; 4] {
        *match self {
            Self::Yuyv => b"YUYV",
            Self::Nv12 => b"NV12",
            Self::Mjpeg => b"MJPG",
            Self::Rgb => b"RGB3",
        }
    }

    /// The layout of four characters.
    pub fn of(fourcc: [u8; 4]) -> Option<Self> {
        Self::ALL.into_iter().find(|layout| layout.fourcc() == fourcc)
    }
}

/// Which codes stand for black and white.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    /// 16 and 235; colours reach from 16 to 240.
    Video,
    /// 0 and 255.
    Full,
}

/// How planes of colour are thinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chroma {
    /// No colour.
    None,
    /// So many columns and rows share one.
    Shared {
        /// Columns.
        across: usize,
        /// Rows.
        down: usize,
    },
}

impl Chroma {
    /// 4:2:0.
    pub const QUARTER: Self = Self::Shared { across: 2, down: 2 };

    /// Bytes of the planes of Y, U and V of a frame of `height x width`.
    pub fn bytes(self, [height, width]: [u32; 2]) -> usize {
        let (rows, columns) = (height as usize, width as usize);
        rows * columns
            + match self {
                Self::None => 0,
                Self::Shared { across, down } => 2 * rows.div_ceil(down) * columns.div_ceil(across),
            }
    }
}

/// One pixel.
fn rgb(y: u8, u: u8, v: u8) -> [u8; 3] {
    pixel(Range::Video, y, u, v)
}

/// One pixel.
#[allow(clippy::cast_sign_loss, clippy::cast_possible_truncation)] // clamped to a byte
fn pixel(range: Range, y: u8, u: u8, v: u8) -> [u8; 3] {
    if range == Range::Full {
        let (y, u, v) = (256 * i32::from(y), i32::from(u) - 128, i32::from(v) - 128);
        return [y + 359 * v, y - 88 * u - 183 * v, y + 454 * u].map(|value| ((value + 128) >> 8).clamp(0, 255) as u8);
    }
    let (y, u, v) = (298 * (i32::from(y) - 16), i32::from(u) - 128, i32::from(v) - 128);
    [y + 409 * v, y - 100 * u - 208 * v, y + 516 * u].map(|value| ((value + 128) >> 8).clamp(0, 255) as u8)
}

/// A frame of `height x width` from a camera's bytes, whose rows are `stride` bytes apart (of the Y plane for NV12).
///
/// # Errors
/// Why the bytes are no such frame.
pub fn convert(layout: Layout, bytes: &[u8], [height, width]: [u32; 2], stride: usize) -> Result<Frame, String> {
    if layout == Layout::Mjpeg {
        return jpeg(bytes);
    }
    let (rows, columns) = (height as usize, width as usize);
    let (across, down) = match layout {
        Layout::Yuyv => (2 * columns.next_multiple_of(2), rows),
        Layout::Nv12 => (columns.next_multiple_of(2), rows + rows.div_ceil(2)),
        _ => (3 * columns, rows),
    };
    // The last row may end early.
    let needed = down.saturating_sub(1) * stride + across;
    if rows == 0 || columns == 0 || stride < across || bytes.len() < needed {
        return Err(format!(
            "{} bytes are no frame of {width}x{height} {layout:?} pixels: it takes {needed}",
            bytes.len()
        ));
    }
    let mut pixels = Vec::with_capacity(rows * columns * 3);
    for row in 0..rows {
        let line = &bytes[row * stride..];
        match layout {
            Layout::Rgb => pixels.extend_from_slice(&line[..3 * columns]),
            Layout::Yuyv => pixels.extend((0..columns).flat_map(|x| {
                let pair = 4 * (x / 2);
                rgb(line[2 * x], line[pair + 1], line[pair + 3])
            })),
            _ => {
                let colours = &bytes[(rows + row / 2) * stride..];
                pixels.extend((0..columns).flat_map(|x| rgb(line[x], colours[x / 2 * 2], colours[x / 2 * 2 + 1])));
            }
        }
    }
    Ok(Frame::new(height, width, pixels).expect("three bytes a pixel"))
}

/// A frame of `height x width` from a plane of Y and, where there is colour, one of U and one of V, without gaps.
///
/// # Errors
/// Why the bytes are no such frame.
pub fn planar(bytes: &[u8], [height, width]: [u32; 2], chroma: Chroma, range: Range) -> Result<Frame, String> {
    let (rows, columns) = (height as usize, width as usize);
    let needed = chroma.bytes([height, width]);
    if bytes.len() != needed || rows * columns == 0 {
        return Err(format!("{} bytes are no frame of {width}x{height} pixels: it takes {needed}", bytes.len()));
    }
    let (light, colours) = bytes.split_at(rows * columns);
    let mut pixels = Vec::with_capacity(rows * columns * 3);
    let Chroma::Shared { across, down } = chroma else {
        pixels.extend(light.iter().flat_map(|&y| pixel(range, y, 128, 128)));
        return Ok(Frame::new(height, width, pixels).expect("three bytes a pixel"));
    };
    let wide = columns.div_ceil(across);
    let (u, v) = colours.split_at(colours.len() / 2);
    for (row, line) in light.chunks_exact(columns).enumerate() {
        let at = row / down * wide;
        let (u, v) = (&u[at..at + wide], &v[at..at + wide]);
        pixels.extend(line.iter().enumerate().flat_map(|(x, &y)| pixel(range, y, u[x / across], v[x / across])));
    }
    Ok(Frame::new(height, width, pixels).expect("three bytes a pixel"))
}

/// Cameras leave out the Huffman tables of JPEG; the decoder fills in the standard ones.
fn jpeg(bytes: &[u8]) -> Result<Frame, String> {
    let image =
        image::load_from_memory_with_format(bytes, image::ImageFormat::Jpeg).map_err(|error| error.to_string())?;
    let image = image.into_rgb8();
    Frame::new(image.height(), image.width(), image.into_raw()).ok_or_else(|| "a JPEG without pixels".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known values of BT.601, video range: Y, U, V and the colour.
    const KNOWN: [([u8; 3], [u8; 3]); 6] = [
        ([16, 128, 128], [0, 0, 0]),
        ([235, 128, 128], [255, 255, 255]),
        ([81, 90, 240], [255, 0, 0]),
        ([145, 54, 34], [0, 255, 0]),
        ([41, 240, 110], [0, 0, 255]),
        ([126, 128, 128], [128, 128, 128]),
    ];

    fn close(found: &[u8], wanted: [u8; 3]) {
        assert!(found.iter().zip(wanted).all(|(a, b)| a.abs_diff(b) <= 1), "{found:?} is not {wanted:?}");
    }

    #[test]
    fn known_colours_in_every_layout() {
        for ([y, u, v], colour) in KNOWN {
            let yuyv = convert(Layout::Yuyv, &[y, u, y, v], [1, 2], 4).unwrap();
            let nv12 = convert(Layout::Nv12, &[y, y, y, y, u, v], [2, 2], 2).unwrap();
            for frame in [yuyv, nv12] {
                frame.pixels.chunks_exact(3).for_each(|pixel| close(pixel, colour));
            }
        }
        // Black is exact, so that a dark picture stays dark.
        assert_eq!(rgb(16, 128, 128), [0; 3]);
        assert_eq!(rgb(235, 128, 128), [255; 3]);
    }

    #[test]
    fn planes_are_as_the_layouts_of_cameras() {
        let eighth = Chroma::Shared { across: 4, down: 1 };
        for ([y, u, v], colour) in KNOWN {
            let nv12 = convert(Layout::Nv12, &[y, y, y, y, u, v], [2, 2], 2).unwrap();
            let quarter = planar(&[y, y, y, y, u, v], [2, 2], Chroma::QUARTER, Range::Video).unwrap();
            assert_eq!(quarter, nv12);
            let thin = planar(&[y, y, y, y, y, u, u, v, v], [1, 5], eighth, Range::Video).unwrap();
            thin.pixels.chunks_exact(3).for_each(|pixel| close(pixel, colour));
            let grey = planar(&[y], [1, 1], Chroma::None, Range::Video).unwrap();
            assert_eq!(grey.pixels, rgb(y, 128, 128));
        }
        // Odd sides round up: a column and a row of colour more.
        let odd = [16, 235, 16, 235, 16, 235, 16, 235, 16, 128, 128, 128, 128, 128, 128, 128, 128];
        let frame = planar(&odd, [3, 3], Chroma::QUARTER, Range::Video).unwrap();
        assert!(frame.pixels.chunks_exact(3).enumerate().all(|(at, pixel)| pixel == [[0; 3], [255; 3]][at % 2]));
        assert!(planar(&odd[1..], [3, 3], Chroma::QUARTER, Range::Video).unwrap_err().contains("3x3"));
        assert!(planar(&[], [0, 0], Chroma::QUARTER, Range::Video).is_err());
    }

    #[test]
    fn known_colours_of_the_full_range() {
        for (code, colour) in [
            ([0, 128, 128], [0; 3]),
            ([255, 128, 128], [255; 3]),
            ([76, 85, 255], [255, 0, 0]),
            ([150, 44, 21], [0, 255, 0]),
            ([29, 255, 107], [0, 0, 255]),
        ] {
            close(&pixel(Range::Full, code[0], code[1], code[2]), colour);
        }
        assert!((0..=255).all(|y| pixel(Range::Full, y, 128, 128) == [y; 3]), "grey is exact");
    }

    #[test]
    fn pairs_share_their_colour_and_strides_are_skipped() {
        let bytes = [16, 128, 235, 128, 99, 99, 235, 128, 16, 128];
        let frame = convert(Layout::Yuyv, &bytes, [2, 2], 6).unwrap();
        assert_eq!(frame.pixels, [[0; 3], [255; 3], [255; 3], [0; 3]].concat());
        let nv12 = [16, 235, 16, 0, 235, 16, 235, 0, 128, 128, 128, 128];
        let frame = convert(Layout::Nv12, &nv12, [2, 3], 4).unwrap();
        assert_eq!(frame.pixels, [[0; 3], [255; 3], [0; 3], [255; 3], [0; 3], [255; 3]].concat());
        let rgb = convert(Layout::Rgb, &[1, 2, 3, 9, 4, 5, 6], [2, 1], 4).unwrap();
        assert_eq!(rgb.pixels, [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn a_jpeg_is_decoded_and_a_broken_one_named() {
        let mut bytes = std::io::Cursor::new(Vec::new());
        image::RgbImage::from_pixel(16, 8, image::Rgb([200, 30, 30]))
            .write_to(&mut bytes, image::ImageFormat::Jpeg)
            .unwrap();
        let bytes = bytes.into_inner();
        let frame = convert(Layout::Mjpeg, &bytes, [0, 0], 0).unwrap();
        assert_eq!((frame.height, frame.width), (8, 16));
        assert!(frame.pixels[0].abs_diff(200) < 6);
        assert!(convert(Layout::Mjpeg, &bytes[..20], [0, 0], 0).is_err());
    }

    #[test]
    fn frames_that_were_cut_short_are_refused() {
        for layout in [Layout::Yuyv, Layout::Nv12, Layout::Rgb] {
            let error = convert(layout, &[0; 7], [4, 4], 16).unwrap_err();
            assert!(error.contains("4x4"), "{error}");
            assert!(convert(layout, &[0; 7], [0, 0], 0).is_err());
            assert!(convert(layout, &[0; 1000], [4, 4], 1).is_err());
        }
        assert_eq!(Layout::of(*b"MJPG"), Some(Layout::Mjpeg));
        assert_eq!(Layout::of(*b"H264"), None);
    }
}
