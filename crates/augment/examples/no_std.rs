//! Views without an operating system: `cargo build -p gabion-augment --no-default-features --features libm --example no_std`
//! compiles this as a library that knows core and alloc alone.
#![no_std]
extern crate alloc;

use alloc::{vec, vec::Vec};
use gabion_augment::{Augment, ViewId, cpu, sample};

/// So many views of an image, `[views, 3, 32, 32]`.
pub fn views(image: &[u8], size: [u32; 2], seed: u64, count: u32) -> Vec<f32> {
    let augment = Augment::default();
    let draw = |view| sample(&augment, ViewId { seed, epoch: 0, image: 0, view }, size);
    let draws: Vec<_> = (0..count).map(draw).collect();
    let [height, width] = augment.size;
    let mut views = vec![0.0; draws.len() * 3 * height as usize * width as usize];
    cpu::apply_batch(&[cpu::Source::bytes(image, size)], &draws, augment.size, &mut views);
    views
}
