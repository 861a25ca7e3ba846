//! The classifier on a small display.

pub mod app;
#[cfg(feature = "gpio")]
pub mod buttons;
pub mod canvas;
pub mod capture;
pub mod check;
pub mod command;
pub mod config;
pub mod demo;
pub mod display;
pub mod engine;
pub mod frame;
pub mod input;
pub mod latest;
pub mod lettering;
pub mod random;
pub mod run;
pub mod screen;
pub mod service;
pub mod soak;
pub mod source;
pub mod state;
pub mod work;
