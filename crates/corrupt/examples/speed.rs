//! Milliseconds an image takes, for every corruption and severity on one thread and for their mean on all.
//!
//! ```text
//! cargo run -p gabion-corrupt --release --example speed -- [side] [images]
//! ```
//!
//! Each figure is the smallest of [`RUNS`], so that a busy machine does little to it.

use gabion_corrupt::{CorruptError, Corruption, CorruptionSet, Scale, Severity, corrupt, corrupt_batch};
use std::time::Instant;

const RUNS: usize = 5;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let side: usize = arguments.next().as_deref().unwrap_or("32").parse()?;
    let count: usize = arguments.next().as_deref().unwrap_or("200").parse()?;
    let (size, bytes) = ([side, side], side * side * 3);
    // Waves of many lengths: the time of most corruptions does not depend on the picture.
    let wave = |place: usize| 127.5 + 127.5 * (place as f32 * 0.013).sin() * (place as f32 * 0.000_7).cos();
    let images: Vec<u8> = (0..count * bytes).map(|place| wave(place) as u8).collect();
    let mut out = vec![0; images.len()];
    let mut milliseconds = |work: &dyn Fn(&mut [u8]) -> Result<(), CorruptError>| {
        let mut best = f64::INFINITY;
        for _ in 0..RUNS {
            let started = Instant::now();
            work(&mut out)?;
            best = best.min(started.elapsed().as_secs_f64() * 1e3 / count as f64);
        }
        Ok::<_, CorruptError>(best)
    };

    println!("{side}x{side}: ms an image at severities 1 to 5 on one thread, and their mean on all");
    let (mut alone, mut together) = (0.0, 0.0);
    for corruption in Corruption::ALL {
        print!("{corruption:<18}");
        let mut batches = 0.0;
        for severity in Severity::ALL {
            let set = CorruptionSet { corruption, severity, scale: Scale::of(size), seed: 0 };
            let each = milliseconds(&|out| {
                let pairs = images.chunks_exact(bytes).zip(out.chunks_exact_mut(bytes));
                (0..).zip(pairs).try_for_each(|(index, (image, out))| corrupt(&set, image, size, index, out))
            })?;
            print!(" {each:>7.3}");
            alone += each;
            batches += milliseconds(&|out| corrupt_batch(&set, &images, size, 0, out))?;
        }
        println!("  {:>7.3}", batches / 5.0);
        together += batches;
    }
    println!("all 75 sets: {alone:.2} ms an image on one thread, {together:.2} on all");
    Ok(())
}
