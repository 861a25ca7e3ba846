//! The classifier on a small display.

pub mod canvas;
pub mod lettering;
pub mod screen;
pub mod state;
