//! What a source gives: an image, and what it shows where the source knows.

use crate::state::Picture;
use gabion_runtime::Rgb;

/// 8-bit RGB, `[height, width, 3]`, at least one pixel.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    /// Rows.
    pub height: u32,
    /// Columns.
    pub width: u32,
    /// `height * width * 3` bytes.
    pub pixels: Vec<u8>,
    /// Name of the class, where the source knows it.
    pub label: Option<String>,
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Frame({}x{}, {:?})", self.width, self.height, self.label)
    }
}

impl Frame {
    /// A frame without a label; nothing when the bytes are not `height * width * 3`, or none.
    pub fn new(height: u32, width: u32, pixels: Vec<u8>) -> Option<Self> {
        let bytes = u64::from(height) * u64::from(width) * 3;
        (bytes > 0 && bytes == pixels.len() as u64).then_some(Self { height, width, pixels, label: None })
    }

    /// As a screen shows it.
    pub fn picture(&self) -> Picture<'_> {
        Picture { height: self.height, width: self.width, pixels: &self.pixels }
    }

    /// As the runtime takes it.
    pub fn rgb(&self) -> Rgb {
        Rgb { height: self.height as usize, width: self.width as usize, pixels: self.pixels.clone() }
    }

    /// The frame with sides of at most `side`, each pixel the mean of those it stands for.
    #[must_use]
    pub fn within(&self, side: u32) -> Self {
        let longest = self.height.max(self.width);
        if longest <= side {
            return self.clone();
        }
        let scaled = |length: u32| {
            let scaled = (u64::from(length) * u64::from(side) / u64::from(longest)).max(1);
            u32::try_from(scaled).expect("shorter than before")
        };
        let (height, width) = (scaled(self.height), scaled(self.width));
        let image =
            image::RgbImage::from_raw(self.width, self.height, self.pixels.clone()).expect("three bytes a pixel");
        let pixels = image::imageops::thumbnail(&image, width, height).into_raw();
        Self { height, width, pixels, label: self.label.clone() }
    }
}

impl TryFrom<Rgb> for Frame {
    type Error = ();

    fn try_from(rgb: Rgb) -> Result<Self, ()> {
        let (Ok(height), Ok(width)) = (u32::try_from(rgb.height), u32::try_from(rgb.width)) else { return Err(()) };
        Self::new(height, width, rgb.pixels).ok_or(())
    }
}
