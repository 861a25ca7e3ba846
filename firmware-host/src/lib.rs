//! The classifier on a small display.

pub mod app;
pub mod canvas;
pub mod command;
pub mod engine;
pub mod frame;
pub mod latest;
pub mod lettering;
pub mod random;
pub mod screen;
pub mod source;
pub mod state;
