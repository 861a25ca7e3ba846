//! Views per second of the paper's crop-based recipe on images of 32x32, drawing included, with one thread and with
//! two. Prints one JSON object for each.
//!
//! `cargo run --release -p gabion-augment --example views_per_second -- --images 100 --views 16 --seconds 2`

use gabion_augment::cpu::{Source, apply_batch};
use gabion_augment::{Augment, Draw, ViewId, sample};
use rayon::prelude::*;
use std::time::{Duration, Instant};

const SIDE: u32 = 32;

fn main() {
    let [images, views, seconds] = arguments();
    let augment = Augment::default();
    let side = SIDE as usize;
    // Smooth colours with a little noise, so that no operation meets only flat or only saturated pixels.
    let pixels: Vec<u8> = (0..images as usize * side * side * 3)
        .map(|n| ((n / 3 % side * 5 + n / (3 * side) * 3 + n % 3 * 70 + n * n % 23) % 256) as u8)
        .collect();
    let sources: Vec<Source> =
        pixels.chunks_exact(side * side * 3).map(|pixels| Source::bytes(pixels, [SIDE, SIDE])).collect();
    let mut out = vec![0.0; (images * views) as usize * 3 * side * side];
    let mut draws = vec![Draw::default(); (images * views) as usize];
    for threads in [1, 2] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool of threads");
        let mut pass = |epoch: u32| {
            pool.install(|| {
                draws.par_iter_mut().enumerate().with_min_len(64).for_each(|(n, draw)| {
                    let (image, view) = (n as u32 % images, n as u32 / images);
                    let id = ViewId { seed: 0, epoch, image, view };
                    *draw = Draw { image, ..sample(&augment, id, [SIDE, SIDE]) };
                });
                apply_batch(&sources, &draws, augment.size, &mut out);
            })
        };
        pass(0);
        let start = Instant::now();
        let mut passes = 0;
        while start.elapsed() < Duration::from_secs(seconds.into()) {
            passes += 1;
            pass(passes);
        }
        let elapsed = start.elapsed().as_secs_f64();
        let done = u64::from(passes) * u64::from(images) * u64::from(views);
        println!(
            "{}",
            serde_json::json!({
                "threads": threads,
                "views_per_second": (done as f64 / elapsed).round(),
                "views": done,
                "seconds": elapsed,
                "batch": [views, images],
                "size": [SIDE, SIDE],
            })
        );
    }
}

/// `--images`, `--views`, `--seconds`, each at least 1.
fn arguments() -> [u32; 3] {
    let mut values = [("--images", 100), ("--views", 16), ("--seconds", 2)];
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().and_then(|text| text.parse().ok()).filter(|&value: &u32| value > 0);
        match (values.iter_mut().find(|(known, _)| *known == name), value) {
            (Some(place), Some(value)) => place.1 = value,
            _ => {
                eprintln!("usage: views_per_second [--images N] [--views N] [--seconds N]");
                std::process::exit(2);
            }
        }
    }
    values.map(|(_, value)| value)
}
