//! Displays on recorded buses: what a chip would make of the bytes is compared with the screen.

use super::*;
use crate::canvas::Canvas;
use crate::state::{Badge, Feed, Scene};
use embedded_graphics::prelude::*;
use embedded_hal::spi::{ErrorType, Operation};
use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;

fn state(status: &str, milliseconds: f64) -> ViewState<'_> {
    ViewState { milliseconds: Some(milliseconds), ..ViewState::saying(status) }
}

/// A MIPI display: commands set a window, data fill it.
struct Mipi {
    data: bool,
    command: u8,
    arguments: Vec<u8>,
    columns: (u16, u16),
    rows: (u16, u16),
    at: usize,
    high: Option<u8>,
    width: usize,
    memory: Vec<u16>,
    bytes: usize,
    inverted: bool,
}

impl Mipi {
    fn new(width: usize, height: usize) -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self {
            data: false,
            command: 0,
            arguments: Vec::new(),
            columns: (0, 0),
            rows: (0, 0),
            at: 0,
            high: None,
            width,
            memory: vec![0; width * height],
            bytes: 0,
            inverted: false,
        }))
    }

    fn byte(&mut self, byte: u8) {
        self.bytes += 1;
        if !self.data {
            (self.command, self.at, self.high) = (byte, 0, None);
            self.arguments.clear();
            self.inverted |= byte == 0x21;
            return;
        }
        match self.command {
            0x2A | 0x2B => {
                self.arguments.push(byte);
                if let [a, b, c, d] = self.arguments[..] {
                    let span = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
                    *(if self.command == 0x2A { &mut self.columns } else { &mut self.rows }) = span;
                }
            }
            0x2C => match self.high.take() {
                None => self.high = Some(byte),
                Some(high) => {
                    let wide = usize::from(self.columns.1 - self.columns.0) + 1;
                    let (x, y) =
                        (usize::from(self.columns.0) + self.at % wide, usize::from(self.rows.0) + self.at / wide);
                    assert!(y <= usize::from(self.rows.1), "more pixels than the window has");
                    self.memory[y * self.width + x] = u16::from_be_bytes([high, byte]);
                    self.at += 1;
                }
            },
            _ => {}
        }
    }
}

struct Bus(Rc<RefCell<Mipi>>);

impl ErrorType for Bus {
    type Error = Infallible;
}

impl SpiDevice for Bus {
    fn transaction(&mut self, operations: &mut [Operation<'_, u8>]) -> Result<(), Infallible> {
        for operation in operations {
            if let Operation::Write(bytes) = operation {
                bytes.iter().for_each(|&byte| self.0.borrow_mut().byte(byte));
            }
        }
        Ok(())
    }
}

struct Dc(Rc<RefCell<Mipi>>);

impl embedded_hal::digital::ErrorType for Dc {
    type Error = Infallible;
}

impl OutputPin for Dc {
    fn set_low(&mut self) -> Result<(), Infallible> {
        self.0.borrow_mut().data = false;
        Ok(())
    }

    fn set_high(&mut self) -> Result<(), Infallible> {
        self.0.borrow_mut().data = true;
        Ok(())
    }
}

struct Now;

impl DelayNs for Now {
    fn delay_ns(&mut self, _: u32) {}
}

fn shows_the_screen<S: Sink<Rgb565>>(mut panel: Panel<Rgb565, S>, chip: &Rc<RefCell<Mipi>>) {
    let word = |colour: &Rgb565| u16::from(colour.r()) << 11 | u16::from(colour.g()) << 5 | u16::from(colour.b());
    let same = |canvas: &Canvas<Rgb565>| canvas.pixels().iter().map(word).eq(chip.borrow().memory.iter().copied());
    panel.show(&state("one", 1.0), Duration::ZERO).unwrap();
    assert!(same(panel.screen.canvas()));
    let before = chip.borrow().bytes;
    panel.show(&state("one", 2.0), Duration::ZERO).unwrap();
    let sent = chip.borrow().bytes - before;
    assert!(same(panel.screen.canvas()));
    // 8 rows of a few tiles, two bytes a pixel, and 11 bytes a window.
    assert!(sent < 4096, "{sent} bytes for a changed time");
}

#[test]
fn an_st7789_shows_the_screen() {
    let chip = Mipi::new(240, 240);
    let panel = st7789(Bus(Rc::clone(&chip)), Dc(Rc::clone(&chip)), &Wiring::default(), &mut Now).unwrap();
    shows_the_screen(panel, &chip);
    assert!(chip.borrow().inverted);
}

#[test]
fn an_ili9341_shows_the_screen() {
    let chip = Mipi::new(320, 240);
    let panel = ili9341(Bus(Rc::clone(&chip)), Dc(Rc::clone(&chip)), &Wiring::default(), &mut Now).unwrap();
    shows_the_screen(panel, &chip);
}

#[test]
fn a_strange_rotation_is_refused() {
    let chip = Mipi::new(240, 240);
    let wiring = Wiring { rotation: 45, ..Wiring::default() };
    assert!(st7789(Bus(Rc::clone(&chip)), Dc(chip), &wiring, &mut Now).err().unwrap().contains("45"));
}

/// An SSD1306: pages of eight rows, a byte a column, the lowest bit on top.
#[derive(Default)]
struct Glass {
    columns: (u8, u8),
    pages: (u8, u8),
    at: (u8, u8),
    memory: Vec<u8>,
    waiting: Vec<u8>,
    bytes: usize,
    broken: bool,
}

struct Wire(Rc<RefCell<Glass>>);

#[derive(Debug)]
struct Unplugged;

impl embedded_hal::i2c::Error for Unplugged {
    fn kind(&self) -> embedded_hal::i2c::ErrorKind {
        embedded_hal::i2c::ErrorKind::Other
    }
}

impl embedded_hal::i2c::ErrorType for Wire {
    type Error = Unplugged;
}

impl I2c for Wire {
    fn transaction(
        &mut self,
        address: u8,
        operations: &mut [embedded_hal::i2c::Operation<'_>],
    ) -> Result<(), Unplugged> {
        assert_eq!(address, 0x3C);
        let mut oled = self.0.borrow_mut();
        if oled.broken {
            return Err(Unplugged);
        }
        for operation in operations {
            let embedded_hal::i2c::Operation::Write(bytes) = operation else { continue };
            oled.bytes += bytes.len();
            match bytes.split_first() {
                Some((0x40, data)) => data.iter().for_each(|&byte| oled.data(byte)),
                Some((_, commands)) => commands.iter().for_each(|&byte| oled.command(byte)),
                None => {}
            }
        }
        Ok(())
    }
}

impl Glass {
    fn command(&mut self, byte: u8) {
        self.waiting.push(byte);
        match self.waiting[..] {
            [0x21, from, to] => (self.columns, self.at.0) = ((from, to), from),
            [0x22, from, to] => (self.pages, self.at.1) = ((from, to), from),
            [0x21 | 0x22] | [0x21 | 0x22, _] => return,
            // Commands with an argument that might look like the two above.
            [0x20 | 0x81 | 0x8D | 0xA8 | 0xD3 | 0xD5 | 0xD9 | 0xDA | 0xDB] => return,
            _ => {}
        }
        self.waiting.clear();
    }

    fn data(&mut self, byte: u8) {
        let (column, page) = self.at;
        self.memory[usize::from(page) * 128 + usize::from(column)] = byte;
        self.at = if column < self.columns.1 { (column + 1, page) } else { (self.columns.0, page + 1) };
        if self.at.1 > self.pages.1 {
            self.at.1 = self.pages.0;
        }
    }
}

#[test]
fn an_ssd1306_shows_the_screen_and_recovers() {
    let oled = Rc::new(RefCell::new(Glass { memory: vec![0; 1024], ..Glass::default() }));
    let mut panel = ssd1306(Wire(Rc::clone(&oled))).unwrap();
    let same = |canvas: &Canvas<BinaryColor>| {
        canvas.pixels().iter().enumerate().all(|(at, pixel)| {
            let (x, y) = (at % 128, at / 128);
            pixel.is_on() == (oled.borrow().memory[y / 8 * 128 + x] >> (y % 8) & 1 == 1)
        })
    };
    panel.show(&state("one", 1.0), Duration::ZERO).unwrap();
    assert!(same(panel.screen.canvas()));
    let before = oled.borrow().bytes;
    panel.show(&state("one", 2.0), Duration::ZERO).unwrap();
    assert!(same(panel.screen.canvas()));
    let sent = oled.borrow().bytes - before;
    assert!(sent < 300, "{sent} bytes for a changed time");
    oled.borrow_mut().broken = true;
    panel.show(&state("one", 3.0), Duration::ZERO).unwrap_err();
    oled.borrow_mut().broken = false;
    panel.show(&state("one", 4.0), Duration::ZERO).unwrap();
    assert!(same(panel.screen.canvas()));
}
