//! What a screen showed, as an animated GIF (252 colours) or APNG (exact). Each frame is the rectangle that changed.

use super::reduced::{indices, palette};
use super::{Kept, Shape, Target, TargetError, at};
use crate::state::ViewState;
use embedded_graphics::prelude::*;
use embedded_graphics::primitives::Rectangle;
use gabion_runtime::durable;
use image::RgbImage;
use image::imageops::crop_imm;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Most frames of a recording; what comes after is not recorded.
pub const MOST: usize = 3000;
/// How long the last frame is shown.
const LAST: Duration = Duration::from_secs(2);

/// Which format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// 252 colours, shown everywhere.
    Gif,
    /// Exact.
    Apng,
}

/// A recording that is written at its end.
#[derive(Debug)]
pub struct Recording {
    path: PathBuf,
    format: Format,
    screen: Kept,
    /// Where each frame lies, what it shows, and when.
    frames: Vec<(Rectangle, RgbImage, Duration)>,
}

impl Recording {
    /// Starts a recording; the file is written by [`Target::finish`].
    pub fn new(path: &Path, format: Format, shape: Shape) -> Self {
        Self { path: path.into(), format, screen: Kept::new(shape), frames: Vec::new() }
    }

    /// How many frames there are.
    pub fn count(&self) -> usize {
        self.frames.len()
    }

    /// How long frame `index` is shown.
    fn duration(&self, index: usize) -> Duration {
        let next = self.frames.get(index + 1);
        next.map_or(LAST, |(_, _, at)| at.saturating_sub(self.frames[index].2))
    }

    fn gif(&self) -> Result<Vec<u8>, gif::EncodingError> {
        let mut bytes = Vec::new();
        let Size { width, height } = self.screen.size();
        let (width, height) = (side(width), side(height));
        let mut encoder = gif::Encoder::new(&mut bytes, width, height, palette().as_flattened())?;
        encoder.set_repeat(gif::Repeat::Infinite)?;
        // Hundredths of seconds add up to the whole time: no frame carries another's rounding.
        let (mut time, mut written) = (Duration::ZERO, 0);
        for (index, (area, image, _)) in self.frames.iter().enumerate() {
            time += self.duration(index);
            let until = (time.as_millis() / 10) as u64;
            let delay = u16::try_from(until - written).unwrap_or(u16::MAX);
            written = until;
            let frame = gif::Frame {
                left: side(area.top_left.x.unsigned_abs()),
                top: side(area.top_left.y.unsigned_abs()),
                width: side(area.size.width),
                height: side(area.size.height),
                delay,
                dispose: gif::DisposalMethod::Keep,
                buffer: indices(image).into(),
                ..gif::Frame::default()
            };
            encoder.write_frame(&frame)?;
        }
        drop(encoder);
        Ok(bytes)
    }

    fn apng(&self) -> Result<Vec<u8>, png::EncodingError> {
        let mut bytes = Vec::new();
        let Size { width, height } = self.screen.size();
        let mut encoder = png::Encoder::new(&mut bytes, width, height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_compression(png::Compression::High);
        encoder.set_animated(u32::try_from(self.frames.len()).unwrap_or(u32::MAX).max(1), 0)?;
        let mut writer = encoder.write_header()?;
        for (index, (area, image, _)) in self.frames.iter().enumerate() {
            let milliseconds = u16::try_from(self.duration(index).as_millis()).unwrap_or(u16::MAX);
            writer.set_frame_delay(milliseconds, 1000)?;
            if index > 0 {
                writer.set_frame_dimension(area.size.width, area.size.height)?;
                writer.set_frame_position(area.top_left.x.unsigned_abs(), area.top_left.y.unsigned_abs())?;
            }
            writer.write_image_data(image.as_raw())?;
        }
        writer.finish()?;
        Ok(bytes)
    }
}

/// Screens have less than 65536 rows and columns.
fn side(length: u32) -> u16 {
    u16::try_from(length).expect("a screen's side")
}

impl Target for Recording {
    fn show(&mut self, state: &ViewState<'_>, time: Duration) -> Result<(), TargetError> {
        if self.frames.len() >= MOST {
            return Ok(());
        }
        if let Some(area) = self.screen.update(state) {
            let (x, y) = (area.top_left.x.unsigned_abs(), area.top_left.y.unsigned_abs());
            let image = crop_imm(&self.screen.image(), x, y, area.size.width, area.size.height).to_image();
            self.frames.push((area, image, time));
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), TargetError> {
        if self.frames.is_empty() {
            return Ok(());
        }
        let failed = |error: String| TargetError::new(self.path.display(), error);
        let bytes = match self.format {
            Format::Gif => self.gif().map_err(|error| failed(error.to_string()))?,
            Format::Apng => self.apng().map_err(|error| failed(error.to_string()))?,
        };
        durable::write(&self.path, &bytes).map_err(at(&self.path))?;
        self.frames.clear();
        Ok(())
    }
}
