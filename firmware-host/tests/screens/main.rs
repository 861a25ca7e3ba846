//! Screens against golden pictures, redraws against each other, and what drawing costs.

mod cost;
mod golden;
mod redraw;
mod states;
