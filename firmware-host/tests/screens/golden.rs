//! Golden pictures of every screen in every state. `GABION_BLESS=1` writes them; look at each before it is committed.

use crate::states::Stock;
use embedded_graphics::pixelcolor::{BinaryColor, Rgb565};
use embedded_graphics::prelude::*;
use firmware_host::canvas::{Canvas, Visible};
use firmware_host::screen::{MONO, Paint, SQUARE, Screen, WIDE};
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use std::fs::File;
use std::path::PathBuf;

fn folder() -> PathBuf {
    let here = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo says where the package lies");
    PathBuf::from(here).join("tests/golden")
}

fn looks_as_it_did<C: Paint + Visible>(size: Size) {
    let stock = Stock::new();
    let mut differ = Vec::new();
    for (name, state) in stock.states() {
        let mut display = Canvas::new(size, C::GROUND);
        Screen::new(size).update(&state, &mut display).unwrap();
        let drawn = display.to_image();
        let path = folder().join(format!("{}x{}-{name}.png", size.width, size.height));
        if std::env::var_os("GABION_BLESS").is_some() {
            let file = File::create(&path).unwrap();
            let encoder = PngEncoder::new_with_quality(file, CompressionType::Best, FilterType::Adaptive);
            drawn.write_with_encoder(encoder).unwrap();
        }
        let golden = image::open(&path).expect("GABION_BLESS=1 writes it").into_rgb8();
        if golden != drawn {
            differ.push(name);
        }
    }
    assert!(differ.is_empty(), "{}x{} differs from its golden picture in: {differ:?}", size.width, size.height);
}

#[test]
fn square() {
    looks_as_it_did::<Rgb565>(SQUARE);
}

#[test]
fn wide() {
    looks_as_it_did::<Rgb565>(WIDE);
}

#[test]
fn mono() {
    looks_as_it_did::<BinaryColor>(MONO);
}
