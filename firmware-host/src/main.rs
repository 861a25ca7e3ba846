//! `firmware-host BUNDLE IMAGE --out frame.png`: what a board with a small display would show, drawn on this machine.

use anyhow::{Context, Result};
use clap::Parser;
use firmware_host::{Frame, Picture, ViewState, draw};
use gabion_runtime::{Bundle, Choice, Classify, Rgb, Session, choose};
use std::path::PathBuf;

/// Classifies an image and draws the 240x240 screen of it.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// A folder with manifest.json and model.safetensors
    bundle: PathBuf,
    /// PNG, JPEG or WebP
    image: PathBuf,
    /// Where the screen is written
    #[arg(long, default_value = "frame.png")]
    out: PathBuf,
    /// 1 for the whole image, more for the mean over random crops
    #[arg(long, default_value_t = 1)]
    views: u32,
    /// Seeds the crops
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// auto, cpu, wgpu or cuda
    #[arg(long, default_value = "auto")]
    device: Choice,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let (device, _) = choose(arguments.device)?;
    let session = Session::new(Bundle::open(&arguments.bundle, &device)?)?;
    let picture = Rgb::open(&arguments.image)?;
    let options = Classify { views: arguments.views, seed: arguments.seed, ..Classify::default() };
    // The first call on a device also prepares it; a display shows the pictures after it.
    session.classify(&picture, &options)?;
    let prediction = session.classify(&picture, &options)?;

    let side = |side: usize| u32::try_from(side).context("a picture has less than 2^32 rows and columns");
    let shown = Picture { height: side(picture.height)?, width: side(picture.width)?, pixels: &picture.pixels };
    let ranked = prediction.ranked(session.classes());
    let classes: Vec<(String, f32)> = ranked.into_iter().map(|(class, p)| (class.to_string(), p)).collect();
    let state = ViewState {
        picture: shown,
        classes: &classes,
        views: prediction.views,
        agreement: prediction.agreement,
        milliseconds: prediction.milliseconds,
    };
    let mut frame = Frame::default();
    draw(&state, &mut frame)?;
    frame.to_image().save(&arguments.out).with_context(|| format!("cannot write {}", arguments.out.display()))?;
    println!("{}", arguments.out.display());
    Ok(())
}
