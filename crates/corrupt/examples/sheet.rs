//! A contact sheet of all corruptions: a row for each, and in it the picture clean and at severities 1 to 5.
//!
//! ```text
//! cargo run -p gabion-corrupt --release --example sheet -- sheet.png [side] [seed]
//! ```
//!
//! Pictures of up to 64 pixels a side get CIFAR's constants and are enlarged on the sheet.

use gabion_corrupt::{Corruption, CorruptionSet, Scale, Severity, corrupt};
use image::imageops::{self, FilterType};
use image::{ImageError, RgbImage};

/// Side of a picture on the sheet, pixels, and the space between two.
const CELL: u32 = 160;
const GAP: u32 = 4;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: sheet PATH.png [SIDE] [SEED]")?;
    let side: usize = arguments.next().as_deref().unwrap_or("32").parse()?;
    let seed = arguments.next().as_deref().unwrap_or("0").parse()?;
    let clean = picture(side);
    let scale = Scale::of([side, side]);

    let [columns, rows] = [Severity::ALL.len() as u32 + 1, Corruption::ALL.len() as u32];
    let mut sheet = RgbImage::new(columns * (CELL + GAP) + GAP, rows * (CELL + GAP) + GAP);
    let mut corrupted = vec![0; clean.len()];
    for (row, corruption) in Corruption::ALL.into_iter().enumerate() {
        paste(&mut sheet, &clean, side, [row, 0])?;
        for (column, severity) in Severity::ALL.into_iter().enumerate() {
            let set = CorruptionSet { corruption, severity, scale, seed };
            corrupt(&set, &clean, [side, side], row as u64, &mut corrupted)?;
            paste(&mut sheet, &corrupted, side, [row, column + 1])?;
        }
    }
    sheet.save(path)?;
    Ok(())
}

/// Puts pixels of `side` x `side` at a place of the sheet.
fn paste(sheet: &mut RgbImage, pixels: &[u8], side: usize, place: [usize; 2]) -> Result<(), ImageError> {
    let side = side as u32;
    let picture = RgbImage::from_raw(side, side, pixels.to_vec()).unwrap_or_default();
    let filter = if side <= CELL { FilterType::Nearest } else { FilterType::Triangle };
    let [y, x] = place.map(|place| i64::from(GAP + place as u32 * (CELL + GAP)));
    imageops::replace(sheet, &imageops::resize(&picture, CELL, CELL, filter), x, y);
    Ok(())
}

/// A house on a hill under a sun, with a fence, all edges smoothed over a pixel.
fn picture(side: usize) -> Vec<u8> {
    let pixel = 1.0 / side as f32;
    let mut pixels = Vec::with_capacity(side * side * 3);
    for y in 0..side {
        for x in 0..side {
            let (v, u) = ((y as f32 + 0.5) * pixel, (x as f32 + 0.5) * pixel);
            // Depth inside a shape, 0 to 1 over a pixel.
            let inside = |depth: f32| (depth / pixel + 0.5).clamp(0.0, 1.0);
            let rectangle = |left: f32, right: f32, top: f32, bottom: f32| {
                inside((u - left).min(right - u).min(v - top).min(bottom - v))
            };
            let mut colour = [90.0 + 90.0 * v, 150.0 + 60.0 * v, 235.0];
            let mut paint = |[r, g, b]: [f32; 3], share: f32| {
                for (colour, paint) in colour.iter_mut().zip([r, g, b]) {
                    *colour += (paint - *colour) * share;
                }
            };
            paint([255.0, 220.0, 80.0], inside(0.1 - (u - 0.8).hypot(v - 0.18)));
            let hill = 0.62 + 0.05 * (5.0 * u).sin();
            let grass = 0.5 + 0.5 * (90.0 * u).sin() * (70.0 * v + 20.0 * u).sin();
            paint([60.0 + 30.0 * grass, 130.0 + 40.0 * grass, 60.0], inside(v - hill));
            paint([200.0, 180.0, 150.0], rectangle(0.25, 0.6, 0.4, 0.75));
            paint([165.0, 50.0, 45.0], inside((v - 0.22 - 0.8 * (u - 0.425).abs()).min(0.41 - v)));
            paint([60.0, 80.0, 120.0], rectangle(0.31, 0.4, 0.47, 0.58));
            paint([90.0, 60.0, 40.0], rectangle(0.47, 0.55, 0.52, 0.75));
            if (u * 16.0).fract() < 0.4 {
                paint([240.0, 240.0, 235.0], rectangle(0.0, 1.0, 0.8, 0.95));
            }
            paint([240.0, 240.0, 235.0], rectangle(0.0, 1.0, 0.84, 0.87));
            pixels.extend(colour.map(|level| level.round() as u8));
        }
    }
    pixels
}
