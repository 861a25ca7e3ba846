//! What drawing costs: no allocation, and time (said, and bounded far above what was measured).

use crate::states::Stock;
use embedded_graphics::pixelcolor::{BinaryColor, Rgb565};
use firmware_host::canvas::Canvas;
use firmware_host::screen::{MONO, Paint, SQUARE, Screen, WIDE};
use firmware_host::state::ViewState;
use std::time::Instant;

#[test]
fn drawing_allocates_nothing() {
    let stock = Stock::new();
    let states = stock.states();
    let mut colour = (Screen::<Rgb565>::new(SQUARE), Canvas::new(SQUARE, Rgb565::GROUND));
    let mut mono = (Screen::<BinaryColor>::new(MONO), Canvas::new(MONO, BinaryColor::GROUND));
    let counted = allocation_counter::measure(|| {
        for (_, state) in states.iter().chain(&states) {
            colour.0.update(state, &mut colour.1).unwrap();
            mono.0.update(state, &mut mono.1).unwrap();
        }
    });
    assert_eq!(counted.count_total, 0);
}

/// The median of many, in milliseconds.
fn median(mut run: impl FnMut(u32)) -> f64 {
    let mut times: Vec<f64> = (0..201)
        .map(|round| {
            let start = Instant::now();
            run(round);
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

#[test]
fn drawing_is_fast() {
    let stock = Stock::new();
    for size in [SQUARE, WIDE] {
        for (name, state) in stock.states() {
            let mut display = Canvas::new(size, Rgb565::GROUND);
            let mut screen = Screen::new(size);
            let full = median(|_| {
                screen.forget();
                screen.update(&state, &mut display).unwrap();
            });
            let dirty = median(|round| {
                let state = ViewState { milliseconds: Some(10.0 + f64::from(round % 7)), ..state };
                screen.update(&state, &mut display).unwrap();
            });
            println!("{}x{} {name}: full {full:.3} ms, dirty {dirty:.3} ms", size.width, size.height);
            // Loaded machines are slow; a tenth of this is usual.
            assert!(full < 20.0 && dirty < 3.0, "{name}: {full} {dirty}");
        }
    }
}
