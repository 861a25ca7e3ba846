//! Draws against torchvision's distributions, pixels against PIL and torchvision, gradients against autograd.
//!
//! `tests/golden/augment.py` and `augment_gradients.py` of the workspace write the files.

mod distributions;
mod gradients;
mod pixels;

use gabion_augment::Draw;
use serde_json::Value;
use std::path::PathBuf;

fn read(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What a JSON file of the folder holds.
fn json(name: &str) -> Value {
    serde_json::from_slice(&read(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is not a number"))
}

fn integer(value: &Value) -> u32 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is not a whole number")) as u32
}

fn list(value: &Value) -> &Vec<Value> {
    value.as_array().unwrap_or_else(|| panic!("{value} is not a list"))
}

fn pair(value: &Value) -> [f64; 2] {
    [number(&value[0]), number(&value[1])]
}

fn size(value: &Value) -> [u32; 2] {
    [integer(&value["height"]), integer(&value["width"])]
}

/// A draw of no colour operation; its crop is to be filled in.
const WHOLE: Draw = Draw {
    image: 0,
    top: 0,
    left: 0,
    height: 0,
    width: 0,
    flip: 0,
    jitter: 0,
    order: 0x0302_0100,
    brightness: 1.0,
    contrast: 1.0,
    saturation: 1.0,
    hue: 0.0,
    grayscale: 0,
    blur_sigma: 0.0,
    blur_filter: 1,
    solarize: Draw::NO_SOLARIZE,
};
