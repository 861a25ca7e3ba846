//! `/dev/fb0`, by plain writes: no mapping, no ioctl. Size and depth are read from `/sys/class/graphics`; the screen is
//! in the middle, as many whole times enlarged as fits. What changed is written, row by row.

use super::{Kept, Shape, Target, TargetError, at};
use crate::state::ViewState;
use embedded_graphics::prelude::*;
use embedded_graphics::primitives::Rectangle;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How a framebuffer lies in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// 16 for RGB565, 32 for XRGB8888; both little-endian.
    pub bits: u32,
    /// Bytes from one row to the next.
    pub stride: u32,
}

impl Geometry {
    /// What the system says of a device of that name.
    ///
    /// # Errors
    /// When it says nothing, or something that is not understood.
    pub fn of(device: &Path) -> Result<Self, TargetError> {
        let name = device.file_name().unwrap_or_default();
        Self::read(&Path::new("/sys/class/graphics").join(name), device)
    }

    fn read(folder: &Path, device: &Path) -> Result<Self, TargetError> {
        let text = |name: &str| {
            let path = folder.join(name);
            std::fs::read_to_string(&path).map(|text| text.trim().to_owned()).map_err(at(&path))
        };
        let bad = |name: &str, text: &str| TargetError::new(device.display(), format!("{name} is `{text}`"));
        let number = |name: &str| text(name).and_then(|text| text.parse().map_err(|_| bad(name, &text)));
        let virtual_size = text("virtual_size")?;
        let size = virtual_size.split_once(',').and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
        let Some((width, height)) = size else { return Err(bad("virtual_size", &virtual_size)) };
        let geometry = Self { width, height, bits: number("bits_per_pixel")?, stride: number("stride")? };
        geometry.checked(device)
    }

    fn checked(self, device: &Path) -> Result<Self, TargetError> {
        let Self { width, height, bits, stride } = self;
        if !matches!(bits, 16 | 32) || stride < width * (bits / 8) {
            let why =
                format!("{width}x{height} pixels of {bits} bits, {stride} bytes a row: 16 and 32 bits are understood");
            return Err(TargetError::new(device.display(), why));
        }
        Ok(self)
    }
}

/// A framebuffer.
#[derive(Debug)]
pub struct Framebuffer {
    path: PathBuf,
    file: File,
    geometry: Geometry,
    screen: Kept,
    scale: u32,
    /// Where the screen's first pixel lies.
    corner: (u32, u32),
    line: Vec<u8>,
}

impl Framebuffer {
    /// Opens a device, clears it, and puts the screen in its middle.
    ///
    /// # Errors
    /// When it cannot be opened, or is smaller than the screen.
    pub fn open(path: &Path, shape: Shape) -> Result<Self, TargetError> {
        Self::with(path, Geometry::of(path)?, shape)
    }

    /// [`Framebuffer::open`] of a file of known geometry.
    ///
    /// # Errors
    /// As there.
    pub fn with(path: &Path, geometry: Geometry, shape: Shape) -> Result<Self, TargetError> {
        let geometry = geometry.checked(path)?;
        let mut file = OpenOptions::new().write(true).open(path).map_err(at(path))?;
        let screen = Kept::new(shape);
        let Size { width, height } = screen.size();
        let scale = (geometry.width / width).min(geometry.height / height);
        if scale == 0 {
            let why =
                format!("{}x{} pixels are less than the screen's {width}x{height}", geometry.width, geometry.height);
            return Err(TargetError::new(path.display(), why));
        }
        let black = vec![0; geometry.stride as usize];
        for _ in 0..geometry.height {
            file.write_all(&black).map_err(at(path))?;
        }
        let corner = ((geometry.width - width * scale) / 2, (geometry.height - height * scale) / 2);
        Ok(Self { path: path.into(), file, geometry, screen, scale, corner, line: Vec::new() })
    }

    fn write(&mut self, area: Rectangle) -> std::io::Result<()> {
        let image = self.screen.image();
        let (left, top) = (area.top_left.x.unsigned_abs(), area.top_left.y.unsigned_abs());
        for y in top..top + area.size.height {
            self.line.clear();
            for x in left..left + area.size.width {
                let [r, g, b] = image.get_pixel(x, y).0;
                for _ in 0..self.scale {
                    if self.geometry.bits == 32 {
                        self.line.extend([b, g, r, 0]);
                    } else {
                        let word = u16::from(r >> 3) << 11 | u16::from(g >> 2) << 5 | u16::from(b >> 3);
                        self.line.extend(word.to_le_bytes());
                    }
                }
            }
            for copy in 0..self.scale {
                let row = u64::from(self.corner.1 + y * self.scale + copy);
                let column = u64::from((self.corner.0 + left * self.scale) * self.geometry.bits / 8);
                self.file.seek(SeekFrom::Start(row * u64::from(self.geometry.stride) + column))?;
                self.file.write_all(&self.line)?;
            }
        }
        Ok(())
    }
}

impl Target for Framebuffer {
    fn show(&mut self, state: &ViewState<'_>, _: Duration) -> Result<(), TargetError> {
        let Some(area) = self.screen.update(state) else { return Ok(()) };
        let written = self.write(area).map_err(at(&self.path));
        if written.is_err() {
            self.screen.forget();
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The file after two updates is the screen, enlarged, in the middle of black; padding is left alone.
    #[test]
    fn the_file_is_the_screen() {
        for (bits, width, height, padding) in
            [(16, 240, 240, 0), (32, 300, 260, 16), (32, 500, 490, 0), (16, 320, 240, 6)]
        {
            let place = tempfile::NamedTempFile::new().unwrap();
            let stride = width * bits / 8 + padding;
            let geometry = Geometry { width, height, bits, stride };
            let mut framebuffer = Framebuffer::with(place.path(), geometry, Shape::Square).unwrap();
            framebuffer.show(&ViewState::saying("one"), Duration::ZERO).unwrap();
            framebuffer.show(&ViewState::saying("another"), Duration::ZERO).unwrap();
            let bytes = std::fs::read(place.path()).unwrap();
            assert_eq!(bytes.len() as u32, stride * height);
            let image = framebuffer.screen.image();
            let scale = (width / 240).min(height / 240);
            let (left, top) = ((width - 240 * scale) / 2, (height - 240 * scale) / 2);
            for y in 0..height {
                for x in 0..width {
                    let inside = x >= left && y >= top && x < left + 240 * scale && y < top + 240 * scale;
                    let wanted = if inside { image.get_pixel((x - left) / scale, (y - top) / scale).0 } else { [0; 3] };
                    let at = (y * stride + x * bits / 8) as usize;
                    if bits == 32 {
                        assert_eq!(bytes[at..at + 3], [wanted[2], wanted[1], wanted[0]], "{x} {y}");
                    } else {
                        let word = u16::from_le_bytes([bytes[at], bytes[at + 1]]);
                        let [r, g, b] = wanted.map(u16::from);
                        assert_eq!(word, r >> 3 << 11 | g >> 2 << 5 | b >> 3, "{x} {y}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_not_understood_is_named() {
        let place = tempfile::tempdir().unwrap();
        let device = Path::new("/dev/fb9");
        let put = |name: &str, text: &str| std::fs::write(place.path().join(name), text).unwrap();
        assert!(Geometry::read(place.path(), device).unwrap_err().to_string().contains("virtual_size"));
        put("virtual_size", "800,480\n");
        put("bits_per_pixel", "16\n");
        put("stride", "1600\n");
        let found = Geometry::read(place.path(), device).unwrap();
        assert_eq!(found, Geometry { width: 800, height: 480, bits: 16, stride: 1600 });
        put("bits_per_pixel", "24\n");
        assert!(Geometry::read(place.path(), device).unwrap_err().to_string().contains("/dev/fb9"));
        let small = Geometry { width: 200, height: 100, bits: 16, stride: 400 };
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(Framebuffer::with(file.path(), small, Shape::Square).unwrap_err().why.contains("240x240"));
        assert!(Framebuffer::with(file.path(), small, Shape::Mono).is_ok());
    }
}
