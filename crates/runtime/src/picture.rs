//! Picture files as 8-bit RGB.
//!
//! A picture is turned as its EXIF says, what is transparent is laid on white (as a page shows it; dropping alpha would
//! show whatever colour lies hidden under it, often black), grey becomes three equal channels, 16 bits become 8.

use crate::untrusted;
use gabion_spec::one_line;
use image::imageops::{self, FilterType};
use image::{DynamicImage, ImageDecoder, ImageReader, Limits, RgbImage};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Most pixels of a picture that [`Rgb::open`] decodes.
pub const MOST_PIXELS: u64 = 100_000_000;
/// What errors call a picture that is no file.
pub const IN_MEMORY: &str = "the picture in memory";

/// Most bytes that a decoder allocates for what a picture holds beside its pixels.
const BESIDE_PIXELS: u64 = 1 << 26;

/// An image of 8-bit RGB.
#[derive(Clone, PartialEq, Eq)]
pub struct Rgb {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// `[height, width, 3]`.
    pub pixels: Vec<u8>,
}

impl std::fmt::Debug for Rgb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rgb({}x{})", self.width, self.height)
    }
}

/// Why a picture cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PictureError {
    /// The system refused.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file that is no picture, or a damaged one.
    #[error("{} is not a picture that can be read ({why}): use a whole PNG, JPEG or WebP", path.display())]
    Undecodable {
        /// The file.
        path: PathBuf,
        /// The decoder's reason.
        why: String,
    },
    /// A picture above the limit; refused before its pixels are allocated.
    #[error("{} is {width}x{height}, above the limit of {limit} pixels: make it smaller", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Columns.
        width: u32,
        /// Rows.
        height: u32,
        /// Most pixels that are decoded.
        limit: u64,
    },
}

impl Rgb {
    /// Reads a PNG, JPEG or WebP of at most [`MOST_PIXELS`] pixels; the content says which, not the name.
    ///
    /// # Errors
    /// When the file cannot be read or decoded, or is above the limit.
    pub fn open(path: &Path) -> Result<Self, PictureError> {
        Self::open_within(path, MOST_PIXELS)
    }

    /// [`Rgb::open`] with another limit.
    ///
    /// # Errors
    /// When the file cannot be read or decoded, or is above the limit.
    pub fn open_within(path: &Path, most_pixels: u64) -> Result<Self, PictureError> {
        // The user named it, so a link is followed; a pipe would never end and has no second look.
        let file = std::fs::canonicalize(path).and_then(|path| untrusted::open(&path));
        let file = file.map_err(|source| PictureError::Io { path: path.into(), source })?;
        Self::decode(BufReader::new(file), path, most_pixels)
    }

    /// The picture that a file's bytes are; errors name it [`IN_MEMORY`].
    ///
    /// # Errors
    /// When it cannot be decoded or is above the limit.
    pub fn from_bytes(bytes: &[u8], most_pixels: u64) -> Result<Self, PictureError> {
        Self::decode(std::io::Cursor::new(bytes), Path::new(IN_MEMORY), most_pixels)
    }

    /// [`Rgb::open_within`] of bytes from wherever; `path` is what an error calls them.
    ///
    /// # Errors
    /// When they cannot be read or decoded, or the picture is above the limit.
    pub fn decode(from: impl BufRead + Seek, path: &Path, most_pixels: u64) -> Result<Self, PictureError> {
        // The JPEG decoder panics on some of what it does not expect.
        let decoded = catch_unwind(AssertUnwindSafe(|| Self::decode_or_panic(from, path, most_pixels)));
        let failed = |_| PictureError::Undecodable { path: path.into(), why: "the decoder fails on it".into() };
        decoded.map_err(failed)?
    }

    fn decode_or_panic(mut from: impl BufRead + Seek, path: &Path, most_pixels: u64) -> Result<Self, PictureError> {
        let unreadable = |source| PictureError::Io { path: path.into(), source };
        let undecodable = |error: image::ImageError| match error {
            image::ImageError::IoError(source) if source.raw_os_error().is_some() => unreadable(source),
            error => PictureError::Undecodable { path: path.into(), why: one_line(&error.to_string()) },
        };
        if let Some(why) = false_webp(&mut from).map_err(unreadable)? {
            return Err(PictureError::Undecodable { path: path.into(), why: why.into() });
        }
        // By content: ImageNet has a PNG that is called .JPEG.
        let mut reader = ImageReader::new(from).with_guessed_format().map_err(unreadable)?;
        // What a PNG holds beside its pixels unpacks to more than it takes.
        reader.limits(alloc(BESIDE_PIXELS));
        let mut decoder = reader.into_decoder().map_err(undecodable)?;
        let (width, height) = decoder.dimensions();
        if u64::from(width) * u64::from(height) > most_pixels {
            return Err(PictureError::TooLarge { path: path.into(), width, height, limit: most_pixels });
        }
        // What a decoder allocates beside the picture: at most 8 bytes a pixel for 16-bit RGBA, twice.
        decoder.set_limits(alloc(most_pixels.saturating_mul(16).max(BESIDE_PIXELS))).map_err(undecodable)?;
        // A picture with unreadable EXIF data is still a picture.
        let orientation = decoder.orientation().unwrap_or(image::metadata::Orientation::NoTransforms);
        let mut picture = DynamicImage::from_decoder(decoder).map_err(undecodable)?;
        picture.apply_orientation(orientation);
        Ok(on_white(picture).into())
    }

    /// The largest centred part of the shape `height x width`, resampled to that size with a triangle filter that
    /// widens when shrinking (antialiased, as Pillow's bilinear). The result equals "resize the short side, crop the
    /// centre" up to the filter's reach over the crop's edge, and no strip of a picture can blow up.
    ///
    /// # Panics
    /// When `pixels` is not `height * width * 3` long, or one of the sizes is 0 or not a u32.
    #[must_use]
    pub fn centre(&self, height: usize, width: usize) -> Self {
        let side = |side: usize| u32::try_from(side).ok().filter(|&side| side > 0).expect("a side is in 1..=u32::MAX");
        let (rows, columns) = (u64::from(side(self.height)), u64::from(side(self.width)));
        let (wanted_rows, wanted_columns) = (side(height), side(width));
        let (height, width) = (u64::from(wanted_rows), u64::from(wanted_columns));
        let cut_width = columns.min((rows * width / height).max(1));
        let cut_height = rows.min((columns * height / width).max(1));
        let (left, top) = ((columns - cut_width) / 2, (rows - cut_height) / 2);
        let stride = self.width * 3;
        assert!(
            self.pixels.len() == self.height * stride,
            "{}x{} RGB pixels are {} bytes, got {}",
            self.width,
            self.height,
            self.height * stride,
            self.pixels.len()
        );
        let narrow = |value: u64| u32::try_from(value).expect("no part of a side exceeds it");
        let mut cut = Vec::with_capacity((cut_width * cut_height * 3) as usize);
        for row in self.pixels.chunks_exact(stride).skip(top as usize).take(cut_height as usize) {
            cut.extend_from_slice(&row[left as usize * 3..][..cut_width as usize * 3]);
        }
        let cut = RgbImage::from_raw(narrow(cut_width), narrow(cut_height), cut).expect("the rows were cut to size");
        if (cut_width, cut_height) == (width, height) {
            return cut.into();
        }
        imageops::resize(&cut, wanted_columns, wanted_rows, FilterType::Triangle).into()
    }
}

impl From<RgbImage> for Rgb {
    fn from(picture: RgbImage) -> Self {
        Self { height: picture.height() as usize, width: picture.width() as usize, pixels: picture.into_raw() }
    }
}

fn alloc(bytes: u64) -> Limits {
    let mut limits = Limits::default();
    limits.max_alloc = Some(bytes);
    limits
}

/// What is wrong with a WebP whose chunks claim more bytes than there are: the decoder allocates what a chunk of EXIF data
/// claims, up to 4 GiB, before it reads. Other formats pass. The reader stands at its start again.
fn false_webp(from: &mut (impl BufRead + Seek)) -> io::Result<Option<&'static str>> {
    let length = from.seek(SeekFrom::End(0))?;
    from.rewind()?;
    let mut start = [0; 12];
    let webp = length >= 12 && {
        from.read_exact(&mut start)?;
        start.starts_with(b"RIFF") && start.ends_with(b"WEBP")
    };
    let (mut at, mut why) = (12, None);
    while webp && at + 8 <= length {
        let mut header = [0; 8];
        from.read_exact(&mut header)?;
        let [_, _, _, _, size @ ..] = header;
        at += 8 + u64::from(u32::from_le_bytes(size));
        if at > length {
            why = Some("a part claims more bytes than the file has");
            break;
        }
        // Parts start at even places.
        at += at % 2;
        from.seek(SeekFrom::Start(at))?;
    }
    from.rewind()?;
    Ok(why)
}

/// Any picture as 8-bit RGB, what is transparent laid on white.
#[allow(clippy::cast_possible_truncation)] // a mean of two bytes is a byte
fn on_white(picture: DynamicImage) -> RgbImage {
    if !picture.color().has_alpha() {
        return picture.into_rgb8();
    }
    let picture = picture.into_rgba8();
    let mut opaque = RgbImage::new(picture.width(), picture.height());
    for (into, from) in opaque.pixels_mut().zip(picture.pixels()) {
        let [r, g, b, alpha] = from.0.map(u32::from);
        into.0 = [r, g, b].map(|value| ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8);
    }
    opaque
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Left half black, right half white.
    fn halves() -> RgbImage {
        RgbImage::from_fn(16, 8, |x, _| image::Rgb([if x < 8 { 0 } else { 255 }; 3]))
    }

    fn open(name: &str, bytes: &[u8]) -> Result<Rgb, PictureError> {
        let path = std::env::temp_dir().join(format!("gabion-picture-{}-{name}", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        let opened = Rgb::open(&path);
        std::fs::remove_file(&path).unwrap();
        opened
    }

    #[test]
    fn exif_turns_a_picture() {
        let mut jpeg = std::io::Cursor::new(Vec::new());
        halves().write_to(&mut jpeg, image::ImageFormat::Jpeg).unwrap();
        let jpeg = jpeg.into_inner();
        let plain = open("plain.png", &jpeg).unwrap();
        assert_eq!((plain.height, plain.width), (8, 16));
        assert_eq!(plain, Rgb::from_bytes(&jpeg, MOST_PIXELS).unwrap());
        // TIFF header, one entry: orientation (0x0112), a short, 6 (a quarter turn clockwise).
        let exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
        let length = u16::try_from(exif.len() + 2).unwrap().to_be_bytes();
        let turned = [&jpeg[..2], &[0xFF, 0xE1], &length, exif, &jpeg[2..]].concat();
        let turned = open("turned.jpg", &turned).unwrap();
        assert_eq!((turned.height, turned.width), (16, 8));
        assert!(turned.pixels[0] < 50 && *turned.pixels.last().unwrap() > 200);
    }

    #[test]
    fn what_is_no_picture_is_named() {
        // Of the last one the colours are finer than the light, on which the decoder panics.
        let odd = include_bytes!("../../../fuzz/corpus/image/luma-below-chroma.jpg");
        for bytes in [&b""[..], b"text", b"\x89PNG\r\n\x1a\n", b"\xFF\xD8\xFF", odd] {
            let error = open("bad.png", bytes).unwrap_err().to_string();
            assert!(error.contains("bad.png") && !error.contains('\n'), "{error}");
            let error = Rgb::from_bytes(bytes, MOST_PIXELS).unwrap_err().to_string();
            assert!(error.starts_with(IN_MEMORY) && !error.contains('\n'), "{error}");
        }
        let error = Rgb::open(Path::new("/no/such/picture.png")).unwrap_err();
        assert!(matches!(error, PictureError::Io { .. }), "{error}");
    }

    #[test]
    fn a_webp_that_claims_what_it_has_not_is_refused_before_it_is_believed() {
        let mut webp = std::io::Cursor::new(Vec::new());
        halves().write_to(&mut webp, image::ImageFormat::WebP).unwrap();
        let webp = webp.into_inner();
        assert_eq!(open("whole.webp", &webp).unwrap(), halves().into());
        // An extended file: flags (EXIF), 24 bits each of width and height less one, the picture, EXIF data.
        let extended = |exif: &[u8]| {
            let head = b"VP8X\x0A\0\0\0\x08\0\0\0\x0F\0\0\x07\0\0";
            let mut bytes = [&webp[..12], head, &webp[12..], b"EXIF", exif].concat();
            let length = u32::try_from(bytes.len() - 8).unwrap();
            bytes[4..8].copy_from_slice(&length.to_le_bytes());
            bytes
        };
        assert_eq!(open("extended.webp", &extended(b"\x06\0\0\0Exif\0\0")).unwrap(), halves().into());
        let huge = extended(b"\xFE\xFF\xFF\xFFExif\0\0");
        let error = open("huge.webp", &huge).unwrap_err().to_string();
        assert!(error.contains("claims more bytes"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn a_link_is_followed_and_a_pipe_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let [file, link, pipe] = ["file.png", "link.png", "pipe.png"].map(|name| folder.path().join(name));
        halves().save(&file).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(Rgb::open(&link).unwrap(), halves().into());
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let error = Rgb::open(&pipe).unwrap_err().to_string();
        assert!(error.contains("not a file"), "{error}");
    }

    #[test]
    fn the_centre_is_cut_and_resampled() {
        let picture = Rgb::from(halves());
        assert_eq!(picture.centre(8, 16), picture);
        let cut = picture.centre(8, 8);
        assert_eq!((cut.pixels[0], cut.pixels[4 * 3]), (0, 255));
        let small = picture.centre(2, 4);
        assert_eq!((small.height, small.width, small.pixels[0], small.pixels[11]), (2, 4, 0, 255));
    }
}
