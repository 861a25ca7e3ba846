//! The classifier's screen, 240x240 pixels of 16-bit colour, on any [`DrawTarget`].
//!
//! [`screen::draw`] takes what is to be seen as plain data and knows no device: the same call fills [`Frame`] here and
//! a display over SPI on a board.
//!
//! [`DrawTarget`]: embedded_graphics::draw_target::DrawTarget

mod frame;
pub mod screen;

pub use frame::Frame;
pub use screen::{Picture, SIDE, ViewState, draw};
