//! A V4L2 camera: frames are mapped, not copied, until they are converted.

use super::convert::{Layout, convert};
use super::{Pull, Source, SourceError};
use std::path::{Path, PathBuf};
use std::time::Duration;
use v4l::buffer::Type;
use v4l::io::traits::CaptureStream;
use v4l::prelude::{Device, MmapStream};
use v4l::video::Capture;
use v4l::{Format, FourCC};

/// Rows and columns that are asked for; a camera gives the nearest it has.
const WANTED: [u32; 2] = [480, 640];
/// Buffers in flight.
const BUFFERS: u32 = 4;
/// Sides above this are made smaller at once.
const SIDE: u32 = 640;

/// An open camera.
pub struct Camera {
    path: PathBuf,
    layout: Layout,
    format: Format,
    stream: MmapStream<'static>,
}

impl Camera {
    /// Opens a device and agrees on a layout, the cheapest that both know.
    ///
    /// # Errors
    /// When there is no such device, or no layout in common.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        let gone = |error: std::io::Error| SourceError::gone(path.display(), error);
        let device = Device::with_path(path).map_err(gone)?;
        let offered = device.enum_formats().map_err(gone)?;
        let layout = Layout::ALL.into_iter().find(|layout| offered.iter().any(|o| o.fourcc.repr == layout.fourcc()));
        let Some(layout) = layout else {
            let names: Vec<String> = offered.iter().map(|offered| offered.fourcc.to_string()).collect();
            let why = format!("gives {}; RGB3, YUYV, NV12 and MJPG are understood", names.join(", "));
            return Err(SourceError::gone(path.display(), why));
        };
        let [height, width] = WANTED;
        let format = device.set_format(&Format::new(width, height, FourCC::new(&layout.fourcc()))).map_err(gone)?;
        let layout = Layout::of(format.fourcc.repr).ok_or_else(|| {
            SourceError::gone(path.display(), format!("insists on {}, which is not understood", format.fourcc))
        })?;
        let stream = MmapStream::with_buffers(&device, Type::VideoCapture, BUFFERS).map_err(gone)?;
        Ok(Self { path: path.into(), layout, format, stream })
    }
}

impl Source for Camera {
    fn pull(&mut self, patience: Duration) -> Result<Pull, SourceError> {
        self.stream.set_timeout(patience);
        let (bytes, meta) = match self.stream.next() {
            Ok(frame) => frame,
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => return Ok(Pull::Waiting),
            Err(error) => return Err(SourceError::gone(self.path.display(), error)),
        };
        let used = bytes.get(..meta.bytesused as usize).filter(|used| !used.is_empty()).unwrap_or(bytes);
        let size = [self.format.height, self.format.width];
        let frame = convert(self.layout, used, size, self.format.stride as usize);
        let frame = frame.map_err(|why| SourceError::broken(self.path.display(), why))?;
        Ok(Pull::Frame(frame.within(SIDE)))
    }
}
