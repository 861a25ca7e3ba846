//! Where screens are shown.
//!
//! | module | what it is |
//! |---|---|
//! | [`still`] | PNG files: one that is written anew, or one for each frame |
//! | [`recording`] | an animated GIF or APNG |
//! | [`terminal`] | half blocks in 24-bit colour and a column of text, or sixels |
//! | [`framebuffer`] | `/dev/fb0` |
//! | `window` | a window, with the feature of that name |
//! | `panel` | ST7789, ILI9341 and SSD1306 on a bus, with the feature `spi` |

pub mod framebuffer;
#[cfg(feature = "spi")]
pub mod panel;
pub mod recording;
pub mod reduced;
pub mod still;
pub mod terminal;
#[cfg(feature = "window")]
pub mod window;

use crate::canvas::Canvas;
use crate::command::Command;
use crate::config::Wiring;
use crate::screen::{MONO, Paint, SQUARE, Screen, WIDE};
use crate::state::ViewState;
use embedded_graphics::pixelcolor::{BinaryColor, Rgb565};
use embedded_graphics::prelude::*;
use embedded_graphics::primitives::Rectangle;
use image::RgbImage;
use std::convert::Infallible;
#[cfg(target_os = "linux")]
use std::os::unix::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Why a target shows nothing: one line, with what to do.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {why}")]
pub struct TargetError {
    /// The path or name.
    pub what: String,
    /// The reason.
    pub why: String,
}

impl TargetError {
    fn new(what: impl ToString, why: impl ToString) -> Self {
        Self { what: what.to_string(), why: why.to_string() }
    }
}

/// Something that shows screens.
pub trait Target {
    /// Shows a state; `at` is the time since the start.
    ///
    /// # Errors
    /// When it cannot; the next call tries again.
    fn show(&mut self, state: &ViewState<'_>, at: Duration) -> Result<(), TargetError>;

    /// What was asked for on the target itself since the last call.
    fn commands(&mut self) -> Vec<Command> {
        Vec::new()
    }

    /// How long the program may sleep; windows want to be looked after.
    fn patience(&self) -> Option<Duration> {
        None
    }

    /// Whether the last state was not shown yet, and is to be given again.
    fn owes(&self) -> bool {
        false
    }

    /// Whether it is drawn over whatever is written to the standard output.
    fn covers_output(&self) -> bool {
        false
    }

    /// The end: what is kept is written.
    ///
    /// # Errors
    /// When it cannot be written.
    fn finish(&mut self) -> Result<(), TargetError> {
        Ok(())
    }
}

/// Which of the three screens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// 240x240 in colour.
    #[default]
    Square,
    /// 320x240 in colour.
    Wide,
    /// 128x64 in one colour.
    Mono,
}

/// A screen of any of the three shapes, kept in memory.
#[derive(Debug)]
pub enum Kept {
    /// In colour.
    Colour(Screen<Rgb565>),
    /// In one colour.
    Mono(Screen<BinaryColor>),
}

/// The rectangle around all that was sent.
struct Extent<C>(Size, Option<Rectangle>, std::marker::PhantomData<C>);

impl<C> OriginDimensions for Extent<C> {
    fn size(&self) -> Size {
        self.0
    }
}

impl<C: PixelColor> DrawTarget for Extent<C> {
    type Color = C;
    type Error = Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<C>>>(&mut self, _: I) -> Result<(), Infallible> {
        self.1 = Some(Rectangle::new(Point::zero(), self.0));
        Ok(())
    }

    fn fill_contiguous<I: IntoIterator<Item = C>>(&mut self, area: &Rectangle, _: I) -> Result<(), Infallible> {
        let around = self.1.map_or(*area, |other| {
            let far = |r: &Rectangle| r.top_left + r.size;
            let top_left = other.top_left.component_min(area.top_left);
            let bottom_right = far(&other).component_max(far(area));
            let size = bottom_right - top_left;
            Rectangle::new(top_left, Size::new(size.x.unsigned_abs(), size.y.unsigned_abs()))
        });
        self.1 = Some(around);
        Ok(())
    }
}

fn extent<C: Paint>(screen: &mut Screen<C>, state: &ViewState<'_>) -> Option<Rectangle> {
    let mut extent = Extent(screen.size(), None, std::marker::PhantomData);
    let Ok(_) = screen.update(state, &mut extent);
    extent.1
}

impl Kept {
    /// An empty screen.
    pub fn new(shape: Shape) -> Self {
        match shape {
            Shape::Square => Self::Colour(Screen::new(SQUARE)),
            Shape::Wide => Self::Colour(Screen::new(WIDE)),
            Shape::Mono => Self::Mono(Screen::new(MONO)),
        }
    }

    /// Rows and columns.
    pub fn size(&self) -> Size {
        match self {
            Self::Colour(screen) => screen.size(),
            Self::Mono(screen) => screen.size(),
        }
    }

    /// Draws a state; the rectangle around what changed.
    pub fn update(&mut self, state: &ViewState<'_>) -> Option<Rectangle> {
        match self {
            Self::Colour(screen) => extent(screen, state),
            Self::Mono(screen) => extent(screen, state),
        }
    }

    /// The next update counts everything as changed.
    pub fn forget(&mut self) {
        match self {
            Self::Colour(screen) => screen.forget(),
            Self::Mono(screen) => screen.forget(),
        }
    }

    /// What is shown.
    pub fn image(&self) -> RgbImage {
        match self {
            Self::Colour(screen) => Canvas::to_image(screen.canvas()),
            Self::Mono(screen) => Canvas::to_image(screen.canvas()),
        }
    }
}

/// A display's chip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chip {
    /// 240x240 over SPI.
    St7789,
    /// 320x240 over SPI.
    Ili9341,
    /// 128x64 over I2C.
    Ssd1306,
}

/// What is shown on, as it is written.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(try_from = "String")]
pub enum Outlet {
    /// `png:PATH`: a file that is written anew, or, without `.png`, a folder of numbered ones.
    Png(PathBuf),
    /// `gif:PATH`
    Gif(PathBuf),
    /// `apng:PATH`
    Apng(PathBuf),
    /// `terminal`
    Terminal,
    /// `sixel`
    Sixel,
    /// `window`
    Window,
    /// `fb:/dev/fb0`
    Framebuffer(PathBuf),
    /// `st7789:/dev/spidev0.0`, `ili9341:/dev/spidev0.0`, `ssd1306:/dev/i2c-1`
    Panel(Chip, PathBuf),
    /// `none`
    None,
}

impl FromStr for Outlet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, path) = text.split_once(':').map_or((text, None), |(name, path)| (name, Some(PathBuf::from(path))));
        match (name, path.filter(|path| !path.as_os_str().is_empty())) {
            ("png", Some(path)) => Ok(Self::Png(path)),
            ("gif", Some(path)) => Ok(Self::Gif(path)),
            ("apng", Some(path)) => Ok(Self::Apng(path)),
            ("fb", Some(path)) => Ok(Self::Framebuffer(path)),
            ("st7789", Some(path)) => Ok(Self::Panel(Chip::St7789, path)),
            ("ili9341", Some(path)) => Ok(Self::Panel(Chip::Ili9341, path)),
            ("ssd1306", Some(path)) => Ok(Self::Panel(Chip::Ssd1306, path)),
            ("terminal", None) => Ok(Self::Terminal),
            ("sixel", None) => Ok(Self::Sixel),
            ("window", None) => Ok(Self::Window),
            ("none", None) => Ok(Self::None),
            _ => Err(format!(
                "`{text}` is no target: use terminal, sixel, window, png:PATH, gif:PATH, apng:PATH, fb:/dev/fb0, \
                 st7789:/dev/spidev0.0, ili9341:/dev/spidev0.0, ssd1306:/dev/i2c-1 or none"
            )),
        }
    }
}

impl TryFrom<String> for Outlet {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// Opens an outlet; nothing for `none`.
///
/// # Errors
/// When it cannot be opened here, with what to do.
#[cfg_attr(not(feature = "spi"), allow(unused_variables))]
pub fn open(outlet: &Outlet, shape: Shape, wiring: &Wiring) -> Result<Option<Box<dyn Target>>, TargetError> {
    Ok(Some(match outlet {
        Outlet::None => return Ok(None),
        Outlet::Png(path) => Box::new(still::Still::open(path, shape)?),
        Outlet::Gif(path) => Box::new(recording::Recording::new(path, recording::Format::Gif, shape)),
        Outlet::Apng(path) => Box::new(recording::Recording::new(path, recording::Format::Apng, shape)),
        Outlet::Terminal => Box::new(terminal::Terminal::open(terminal::Style::Blocks, shape)?),
        Outlet::Sixel => Box::new(terminal::Terminal::open(terminal::Style::Sixels, shape)?),
        Outlet::Framebuffer(path) => Box::new(framebuffer::Framebuffer::open(path, shape)?),
        #[cfg(feature = "window")]
        Outlet::Window => Box::new(window::Pane::open(shape)?),
        #[cfg(not(feature = "window"))]
        Outlet::Window => {
            return Err(TargetError::new("window", "built without windows: build with --features window"));
        }
        #[cfg(feature = "spi")]
        Outlet::Panel(chip, bus) => panel::open(*chip, bus, wiring)?,
        #[cfg(not(feature = "spi"))]
        Outlet::Panel(_, bus) => {
            return Err(TargetError::new(bus.display(), "built without displays: build with --features spi"));
        }
    }))
}

/// The desktop that windows are opened on. Where it does not answer, SDL would draw where nobody looks.
///
/// # Errors
/// Why there is none.
pub fn desktop() -> Result<String, String> {
    let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    answering(set("WAYLAND_DISPLAY"), set("DISPLAY"))
}

fn answering(wayland: Option<String>, x11: Option<String>) -> Result<String, String> {
    if let Some(name) = wayland {
        return Ok(name);
    }
    let name = x11.ok_or("neither DISPLAY nor WAYLAND_DISPLAY is set")?;
    // `:1` and `:1.0` are on this machine; what else there is, SDL may know.
    let number = name.strip_prefix(':').map(|number| number.split('.').next().unwrap_or_default());
    let silent = number.is_some_and(|number| UnixStream::connect(format!("/tmp/.X11-unix/X{number}")).is_err());
    // In a container the address may be there, and the file not.
    #[cfg(target_os = "linux")]
    let silent = silent && {
        use std::os::linux::net::SocketAddrExt;
        let address = SocketAddr::from_abstract_name(format!("/tmp/.X11-unix/X{}", number.unwrap_or_default()));
        address.and_then(|address| UnixStream::connect_addr(&address)).is_err()
    };
    if silent { Err(format!("DISPLAY is {name}, where nothing answers")) } else { Ok(name) }
}

/// Names a path in an error.
pub(crate) fn at(path: &std::path::Path) -> impl Fn(std::io::Error) -> TargetError + '_ {
    move |error| TargetError::new(path.display(), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_desktop_that_does_not_answer_is_none() {
        let x11 = |name: &str| answering(None, Some(name.into()));
        assert!(answering(None, None).unwrap_err().contains("DISPLAY"));
        for name in [":9977", ":9977.0"] {
            assert!(x11(name).unwrap_err().contains(name));
        }
        assert_eq!(x11("elsewhere:0").as_deref(), Ok("elsewhere:0"));
        assert_eq!(answering(Some("wayland-0".into()), Some(":9977".into())).as_deref(), Ok("wayland-0"));
    }

    #[test]
    fn outlets_are_read() {
        assert_eq!("fb:/dev/fb1".parse(), Ok(Outlet::Framebuffer("/dev/fb1".into())));
        assert_eq!("ssd1306:/dev/i2c-1".parse(), Ok(Outlet::Panel(Chip::Ssd1306, "/dev/i2c-1".into())));
        for wrong in ["", "fb", "png:", "terminal:x", "tv"] {
            wrong.parse::<Outlet>().unwrap_err();
        }
    }
}
