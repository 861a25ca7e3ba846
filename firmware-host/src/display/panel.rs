//! Small displays on a board's buses: ST7789 and ILI9341 over SPI, SSD1306 over I2C.

mod oled;

use super::{Chip, Target, TargetError};
use crate::config::Wiring;
use crate::screen::{MONO, Paint, SQUARE, Screen, WIDE};
use crate::state::ViewState;
use embedded_graphics::pixelcolor::{BinaryColor, Rgb565};
use embedded_hal::delay::DelayNs;
use embedded_hal::digital::OutputPin;
use embedded_hal::i2c::I2c;
use embedded_hal::spi::SpiDevice;
use linux_embedded_hal::gpio_cdev::{Chip as Gpio, LineRequestFlags};
use linux_embedded_hal::spidev::{SpiModeFlags, SpidevOptions};
use linux_embedded_hal::{CdevPin, Delay, I2cdev, SpidevDevice};
use mipidsi::interface::SpiInterface;
use mipidsi::models::{ILI9341Rgb565, Model, ST7789};
use mipidsi::options::{ColorInversion, ColorOrder, Orientation, Rotation};
use mipidsi::{Builder, Display, NoResetPin};
use oled::Oled;
use std::path::Path;
use std::time::Duration;

/// Bytes that go over SPI at once; `spidev` takes 4096 by default.
const BUFFER: usize = 4096;

/// What takes the pixels of a screen.
trait Sink<C> {
    fn update(&mut self, screen: &mut Screen<C>, state: &ViewState<'_>) -> Result<(), String>;
}

/// A display with its screen.
pub struct Panel<C, S> {
    name: String,
    screen: Screen<C>,
    sink: S,
}

impl<C: Paint, S: Sink<C>> Target for Panel<C, S> {
    fn show(&mut self, state: &ViewState<'_>, _: Duration) -> Result<(), TargetError> {
        self.sink.update(&mut self.screen, state).map_err(|why| TargetError::new(&self.name, why))
    }
}

impl<SPI, DC, MODEL, RST> Sink<Rgb565> for Display<SpiInterface<'static, SPI, DC>, MODEL, RST>
where
    SPI: SpiDevice,
    DC: OutputPin,
    MODEL: Model<ColorFormat = Rgb565>,
    RST: OutputPin,
{
    fn update(&mut self, screen: &mut Screen<Rgb565>, state: &ViewState<'_>) -> Result<(), String> {
        screen.update(state, self).map(|_| ()).map_err(|error| format!("{error:?}"))
    }
}

impl<I2C: I2c> Sink<BinaryColor> for Oled<I2C> {
    fn update(&mut self, screen: &mut Screen<BinaryColor>, state: &ViewState<'_>) -> Result<(), String> {
        screen.update(state, self).map(|_| ()).map_err(|error| format!("{error:?}"))
    }
}

fn rotation(degrees: u32) -> Result<Rotation, String> {
    i32::try_from(degrees)
        .ok()
        .and_then(|degrees| Rotation::try_from_degree(degrees).ok())
        .ok_or_else(|| format!("a rotation of {degrees} degrees: use 0, 90, 180 or 270"))
}

/// A display that is reset before.
type Mipi<SPI, DC, MODEL> = Display<SpiInterface<'static, SPI, DC>, MODEL, NoResetPin>;

/// An ST7789 of 240x240 on any bus.
fn st7789<SPI: SpiDevice, DC: OutputPin>(
    spi: SPI,
    dc: DC,
    wiring: &Wiring,
    delay: &mut impl DelayNs,
) -> Result<Panel<Rgb565, Mipi<SPI, DC, ST7789>>, String> {
    // A display lives as long as the program.
    let interface = SpiInterface::new(spi, dc, Box::leak(Box::new([0; BUFFER])));
    let inversion = if wiring.inverted { ColorInversion::Inverted } else { ColorInversion::Normal };
    let sink = Builder::new(ST7789, interface)
        .display_size(240, 240)
        .invert_colors(inversion)
        .orientation(Orientation::new().rotate(rotation(wiring.rotation)?))
        .init(delay)
        .map_err(|error| format!("{error:?}"))?;
    Ok(Panel { name: "ST7789".into(), screen: Screen::new(SQUARE), sink })
}

/// An ILI9341 of 240x320, lying on its side.
fn ili9341<SPI: SpiDevice, DC: OutputPin>(
    spi: SPI,
    dc: DC,
    wiring: &Wiring,
    delay: &mut impl DelayNs,
) -> Result<Panel<Rgb565, Mipi<SPI, DC, ILI9341Rgb565>>, String> {
    let interface = SpiInterface::new(spi, dc, Box::leak(Box::new([0; BUFFER])));
    let sink = Builder::new(ILI9341Rgb565, interface)
        .color_order(ColorOrder::Bgr)
        .orientation(Orientation::new().rotate(rotation((wiring.rotation + 90) % 360)?))
        .init(delay)
        .map_err(|error| format!("{error:?}"))?;
    Ok(Panel { name: "ILI9341".into(), screen: Screen::new(WIDE), sink })
}

/// An SSD1306 of 128x64.
fn ssd1306<I2C: I2c>(i2c: I2C) -> Result<Panel<BinaryColor, Oled<I2C>>, String> {
    let sink = Oled::new(i2c).map_err(|error| format!("{error:?}"))?;
    Ok(Panel { name: "SSD1306".into(), screen: Screen::new(MONO), sink })
}

fn pin(wiring: &Wiring, line: u32, value: u8) -> Result<CdevPin, TargetError> {
    let failed = |why: String| TargetError::new(format!("{} line {line}", wiring.gpio.display()), why);
    let mut chip = Gpio::new(&wiring.gpio).map_err(|error| failed(error.to_string()))?;
    let line = chip.get_line(line).map_err(|error| failed(error.to_string()))?;
    let handle =
        line.request(LineRequestFlags::OUTPUT, value, "firmware-host").map_err(|error| failed(error.to_string()))?;
    CdevPin::new(handle).map_err(|error| failed(error.to_string()))
}

/// Opens a display on this board.
///
/// # Errors
/// When a device file or line cannot be had, or the display does not answer.
pub fn open(chip: Chip, bus: &Path, wiring: &Wiring) -> Result<Box<dyn Target>, TargetError> {
    let failed = |why: String| TargetError::new(bus.display(), why);
    if chip == Chip::Ssd1306 {
        let i2c = I2cdev::new(bus).map_err(|error| failed(error.to_string()))?;
        return Ok(Box::new(ssd1306(i2c).map_err(failed)?));
    }
    let mut spi = SpidevDevice::open(bus).map_err(|error| failed(error.to_string()))?;
    let options =
        SpidevOptions::new().bits_per_word(8).max_speed_hz(wiring.hertz).mode(SpiModeFlags::SPI_MODE_0).build();
    spi.0.configure(&options).map_err(|error| failed(error.to_string()))?;
    let dc = pin(wiring, wiring.dc, 0)?;
    let mut delay = Delay;
    if let Some(line) = wiring.reset {
        let mut reset = pin(wiring, line, 1)?;
        let pulse = reset.set_low().map(|()| delay.delay_ms(10)).and_then(|()| reset.set_high());
        pulse.map_err(|error| failed(format!("{error:?}")))?;
        delay.delay_ms(120);
        // The line keeps its level while the program holds it.
        std::mem::forget(reset);
    }
    let panel: Box<dyn Target> = match chip {
        Chip::Ili9341 => Box::new(ili9341(spi, dc, wiring, &mut delay).map_err(failed)?),
        _ => Box::new(st7789(spi, dc, wiring, &mut delay).map_err(failed)?),
    };
    if let Some(line) = wiring.backlight {
        std::mem::forget(pin(wiring, line, 1)?);
    }
    Ok(panel)
}

#[cfg(test)]
mod tests;
