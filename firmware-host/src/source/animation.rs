//! A GIF or APNG, again and again at its own pace; of any other picture file, its one frame.

use super::{Pull, Source, SourceError, folder};
use crate::frame::Frame;
use image::codecs::png::PngDecoder;
use image::{AnimationDecoder, ImageDecoder, RgbaImage};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Most pixels of a frame.
const MOST_PIXELS: u64 = 50_000_000;
/// Most bytes of all frames together.
const MOST_BYTES: usize = 256 << 20;
/// Sides above this are made smaller at once.
const SIDE: u32 = 640;
/// Browsers show frames of no duration for so long.
const DEFAULT_DELAY: Duration = Duration::from_millis(100);
/// How long the frame of a picture is shown.
const STILL: Duration = Duration::from_secs(1);

/// A file's frames, decoded at the start.
#[derive(Debug)]
pub struct Animation {
    frames: Vec<(Frame, Duration)>,
    next: usize,
}

impl Animation {
    /// Decodes a file; the content says what it is, not the name.
    ///
    /// # Errors
    /// When it cannot be read or is no picture, with its path.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        let gone = |error: std::io::Error| SourceError::gone(path.display(), error);
        let mut file = BufReader::new(File::open(path).map_err(gone)?);
        let mut start = [0; 8];
        let length = file.read(&mut start).map_err(gone)?;
        file.seek(SeekFrom::Start(0)).map_err(gone)?;
        let mut kept = Kept { path: path.into(), frames: Vec::new(), bytes: 0 };
        if start[..length].starts_with(b"GIF8") {
            gif(file, &mut kept)?;
        } else if start[..length] == *b"\x89PNG\r\n\x1a\n" && apng(file, &mut kept)? {
        } else {
            kept.frames.push((folder::read(path)?, STILL));
        }
        if kept.frames.is_empty() {
            return Err(SourceError::gone(path.display(), "it has no frame"));
        }
        Ok(Self { frames: kept.frames, next: 0 })
    }

    /// How many frames there are.
    pub fn count(&self) -> usize {
        self.frames.len()
    }
}

/// Frames so far, and the limit.
struct Kept {
    path: PathBuf,
    frames: Vec<(Frame, Duration)>,
    bytes: usize,
}

impl Kept {
    /// A frame, transparent parts on white.
    #[allow(clippy::cast_possible_truncation)] // a mean of two bytes is a byte
    fn add(&mut self, canvas: &RgbaImage, delay: Duration) -> Result<(), SourceError> {
        let pixels = canvas.pixels().flat_map(|pixel| {
            let [r, g, b, alpha] = pixel.0.map(u32::from);
            [r, g, b].map(|value| ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8)
        });
        let frame = Frame::new(canvas.height(), canvas.width(), pixels.collect());
        let frame = frame.ok_or_else(|| SourceError::gone(self.path.display(), "it has no pixels"))?.within(SIDE);
        self.bytes += frame.pixels.len();
        if self.bytes > MOST_BYTES {
            let why = format!("its frames take more than {} MiB: make it shorter", MOST_BYTES >> 20);
            return Err(SourceError::gone(self.path.display(), why));
        }
        let delay = if delay < Duration::from_millis(11) { DEFAULT_DELAY } else { delay };
        self.frames.push((frame, delay));
        Ok(())
    }

    /// Whether a canvas of so many pixels is made at all.
    fn fits(&self, [width, height]: [u32; 2]) -> Result<(), SourceError> {
        if u64::from(width) * u64::from(height) > MOST_PIXELS {
            return Err(self.undecodable(format!("{width}x{height} pixels are too many")));
        }
        Ok(())
    }

    fn undecodable(&self, why: impl std::fmt::Display) -> SourceError {
        SourceError::gone(self.path.display(), why)
    }
}

/// Frames of a GIF are patches on a canvas; each says what becomes of its patch afterwards.
fn gif(file: impl Read, kept: &mut Kept) -> Result<(), SourceError> {
    let mut options = gif::DecodeOptions::new();
    options.set_color_output(gif::ColorOutput::RGBA);
    let mut decoder = options.read_info(file).map_err(|error| kept.undecodable(error))?;
    kept.fits([decoder.width().into(), decoder.height().into()])?;
    let mut canvas = RgbaImage::new(decoder.width().into(), decoder.height().into());
    while let Some(frame) = decoder.read_next_frame().map_err(|error| kept.undecodable(error))? {
        let before = (frame.dispose == gif::DisposalMethod::Previous).then(|| canvas.clone());
        let (left, top) = (u32::from(frame.left), u32::from(frame.top));
        let (width, height) = (u32::from(frame.width), u32::from(frame.height));
        let patch = frame.buffer.as_chunks::<4>().0;
        let places = (0..height).flat_map(|y| (0..width).map(move |x| (left + x, top + y)));
        for ((x, y), pixel) in places.clone().zip(patch) {
            if pixel[3] > 0 && x < canvas.width() && y < canvas.height() {
                canvas.put_pixel(x, y, image::Rgba(*pixel));
            }
        }
        kept.add(&canvas, Duration::from_millis(10 * u64::from(frame.delay)))?;
        match frame.dispose {
            gif::DisposalMethod::Background => {
                let (wide, high) = canvas.dimensions();
                for (x, y) in places.filter(|&(x, y)| x < wide && y < high) {
                    canvas.put_pixel(x, y, image::Rgba([0; 4]));
                }
            }
            gif::DisposalMethod::Previous => canvas = before.expect("kept above"),
            _ => {}
        }
    }
    Ok(())
}

/// Whether the file is an animated PNG; then its frames are kept.
fn apng(file: BufReader<File>, kept: &mut Kept) -> Result<bool, SourceError> {
    let decoder = PngDecoder::new(file).map_err(|error| kept.undecodable(error))?;
    if !decoder.is_apng().map_err(|error| kept.undecodable(error))? {
        return Ok(false);
    }
    kept.fits(decoder.dimensions().into())?;
    let decoder = decoder.apng().map_err(|error| kept.undecodable(error))?;
    for frame in decoder.into_frames() {
        let frame = frame.map_err(|error| kept.undecodable(error))?;
        let delay = Duration::from(frame.delay());
        kept.add(frame.buffer(), delay)?;
    }
    Ok(true)
}

impl Source for Animation {
    fn pull(&mut self, _: Duration) -> Result<Pull, SourceError> {
        let (frame, delay) = &self.frames[self.next];
        self.next = (self.next + 1) % self.frames.len();
        Ok(Pull::Lasting(frame.clone(), *delay))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_canvas_that_no_memory_holds_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("bomb.gif");
        // A screen of 65535x65535, a frame of 1x1.
        let bytes: &[u8] =
            b"GIF89a\xff\xff\xff\xff\x00\x00\x00\x2c\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02\x44\x01\x00\x3b";
        std::fs::write(&path, bytes).unwrap();
        let error = Animation::open(&path).err().unwrap().to_string();
        assert!(error.contains("65535x65535 pixels are too many"), "{error}");
    }

    fn colours(path: &Path) -> Vec<([u8; 3], [u8; 3], u128)> {
        let animation = Animation::open(path).unwrap();
        let ends = |frame: &Frame| {
            let last = frame.pixels.len() - 3;
            (frame.pixels[..3].try_into().unwrap(), frame.pixels[last..].try_into().unwrap())
        };
        animation.frames.iter().map(|(frame, delay)| (ends(frame).0, ends(frame).1, delay.as_millis())).collect()
    }

    #[test]
    fn patches_of_a_gif_are_laid_on_each_other_and_taken_away() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("a.gif");
        let palette = [255, 0, 0, 0, 255, 0, 0, 0, 255];
        {
            let mut encoder = gif::Encoder::new(File::create(&path).unwrap(), 4, 4, &palette).unwrap();
            let mut frame = |colour: u8, side: u16, dispose, delay| {
                let buffer = vec![colour; usize::from(side) * usize::from(side)];
                let frame = gif::Frame {
                    width: side,
                    height: side,
                    buffer: buffer.into(),
                    dispose,
                    delay,
                    ..Default::default()
                };
                encoder.write_frame(&frame).unwrap();
            };
            frame(0, 4, gif::DisposalMethod::Keep, 20);
            frame(1, 2, gif::DisposalMethod::Previous, 0);
            frame(2, 1, gif::DisposalMethod::Background, 5);
            frame(2, 2, gif::DisposalMethod::Keep, 5);
        }
        let (red, green, blue) = ([255, 0, 0], [0, 255, 0], [0, 0, 255]);
        assert_eq!(colours(&path), [(red, red, 200), (green, red, 100), (blue, red, 50), (blue, red, 50)]);
    }

    #[test]
    fn an_apng_and_a_picture_are_read() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("a.png");
        let mut encoder = png::Encoder::new(File::create(&path).unwrap(), 2, 1);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_animated(2, 0).unwrap();
        encoder.set_frame_delay(1, 4).unwrap();
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(&[1, 2, 3, 4, 5, 6]).unwrap();
        writer.write_image_data(&[7; 6]).unwrap();
        writer.finish().unwrap();
        assert_eq!(colours(&path), [([1, 2, 3], [4, 5, 6], 250), ([7; 3], [7; 3], 250)]);
        image::RgbImage::from_pixel(3, 2, image::Rgb([9; 3])).save(&path).unwrap();
        assert_eq!(Animation::open(&path).unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_animation_is_named() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("bad.gif");
        for bytes in [&b""[..], b"GIF89a", b"GIF89a\x04\0\x04\0\x80\0\0\0\0\0\xff\xff\xff,\0\0", b"\x89PNG\r\n\x1a\n"] {
            std::fs::write(&path, bytes).unwrap();
            let error = Animation::open(&path).err().unwrap().to_string();
            assert!(error.contains("bad.gif"), "{error}");
        }
    }
}
