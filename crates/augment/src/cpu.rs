//! Views on the CPU: the reference for every other implementation.
//!
//! A view is a `[3, height, width]` slice of f32 in `[0, 1]`, red plane first. Each operation is one function that
//! changes a view in place; [`apply`] runs those that a [`Draw`] asks for and [`apply_batch`] does so for many views
//! in parallel.
//!
//! Results depend neither on the number of threads nor on the width of the machine's vectors: sums are made in a
//! fixed number of lanes and no multiply-add is contracted. Each operation is compiled for several instruction sets
//! and the machine's is chosen when it runs.

mod backward;
mod blur;
mod colour;
mod resize;

pub use backward::{
    backward_batch, brightness_backward, colour_backward, contrast_backward, grayscale_backward, hue_backward,
    resized_crop_backward, saturation_backward, solarize_backward,
};
pub use blur::{gaussian_blur, pil_box_blur};
pub use colour::{brightness, contrast, grayscale, hue, saturation, solarize};
pub use resize::resized_crop;

use alloc::vec::Vec;
use gabion_spec::{Draw, JitterOp};
#[cfg(feature = "std")]
use rayon::prelude::*;
use resize::Axes;
#[cfg(feature = "std")]
use std::cell::RefCell;

/// The values of an RGB image.
#[derive(Clone, Copy, Debug)]
pub enum Values<'a> {
    /// `[height, width, 3]`, 255 is white.
    Bytes(&'a [u8]),
    /// `[3, height, width]` in `[0, 1]`: an image that is not one of a file, such as an attacked one.
    Floats(&'a [f32]),
}

impl Values<'_> {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Bytes(values) => values.len(),
            Self::Floats(values) => values.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// An RGB image.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// What it shows.
    pub values: Values<'a>,
    /// Height and width in pixels.
    pub size: [u32; 2],
}

impl<'a> Source<'a> {
    /// Of `[height, width, 3]` bytes.
    pub fn bytes(pixels: &'a [u8], size: [u32; 2]) -> Self {
        Self { values: Values::Bytes(pixels), size }
    }

    /// Of `[3, height, width]` values in `[0, 1]`.
    pub fn floats(values: &'a [f32], size: [u32; 2]) -> Self {
        Self { values: Values::Floats(values), size }
    }
}

/// Memory that operations reuse from one view to the next. After the first views of a size nothing is allocated.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Resampling weights of columns, and of rows.
    horizontal: Axes,
    vertical: Axes,
    /// One line of pixels.
    line: Vec<f32>,
    /// A crop of the right width, or a plane before a vertical blur.
    plane: Vec<f32>,
    /// The weights of a blur.
    kernel: Vec<f32>,
}

/// Computes one view of `size` = `[height, width]` pixels.
///
/// # Shapes
/// `source` `[h, w, 3]` bytes or `[3, h, w]` floats, `view` `[3, height, width]`.
///
/// # Panics
/// When a slice does not have its shape's length, or the crop is not inside the source.
pub fn apply(source: Source, draw: &Draw, size: [u32; 2], view: &mut [f32], scratch: &mut Scratch) {
    resized_crop(source, draw, size, view, scratch);
    if draw.jitter != 0 {
        for op in draw.jitter_order() {
            match op {
                JitterOp::Brightness => brightness(view, draw.brightness),
                JitterOp::Contrast => contrast(view, draw.contrast),
                JitterOp::Saturation => saturation(view, draw.saturation),
                JitterOp::Hue => hue(view, draw.hue),
            }
        }
    }
    if draw.grayscale != 0 {
        grayscale(view);
    }
    if draw.blur_sigma > 0.0 {
        blur::blur(view, size, draw, scratch);
    }
    if draw.solarize < Draw::NO_SOLARIZE {
        solarize(view, draw.solarize);
    }
}

/// Fewest views of one task: some 30 microseconds of work at 32x32, against less than one to hand it out.
#[cfg(feature = "std")]
const VIEWS_PER_TASK: usize = 8;

#[cfg(feature = "std")]
thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Computes one view for each draw, in parallel on rayon's current pool; without `std` one after another.
///
/// # Shapes
/// `sources` are what [`Draw::image`] indexes; `views` `[draws, 3, height, width]`. No draws are no work.
///
/// # Panics
/// When a slice does not have its shape's length, a draw's image is not among the sources, or its crop is not inside
/// its source.
pub fn apply_batch(sources: &[Source], draws: &[Draw], size: [u32; 2], views: &mut [f32]) {
    let view_len = view_len(size);
    assert!(
        views.len() == draws.len() * view_len,
        "{} draws of [3, {}, {}] need {} values, got {}",
        draws.len(),
        size[0],
        size[1],
        draws.len() * view_len,
        views.len()
    );
    let one = |view: &mut [f32], draw: &Draw, scratch: &mut Scratch| {
        let source = *sources
            .get(draw.image as usize)
            .unwrap_or_else(|| panic!("a draw is of image {}, the batch has {}", draw.image, sources.len()));
        apply(source, draw, size, view, scratch);
    };
    #[cfg(feature = "std")]
    views
        .par_chunks_exact_mut(view_len)
        .zip(draws)
        .with_min_len(VIEWS_PER_TASK)
        .for_each(|(view, draw)| SCRATCH.with_borrow_mut(|scratch| one(view, draw, scratch)));
    #[cfg(not(feature = "std"))]
    {
        let mut scratch = Scratch::default();
        views.chunks_exact_mut(view_len).zip(draws).for_each(|(view, draw)| one(view, draw, &mut scratch));
    }
}

/// Values of a view of `size`.
fn view_len([height, width]: [u32; 2]) -> usize {
    assert!(height > 0 && width > 0, "a view has pixels, got {height}x{width}");
    3 * height as usize * width as usize
}

/// Asserts that a view has its size.
fn assert_view(view: &[f32], size: [u32; 2]) {
    let [height, width] = size;
    assert!(
        view.len() == view_len(size),
        "a view of [3, {height}, {width}] has {} values, got {}",
        view_len(size),
        view.len()
    );
}

#[cfg(test)]
mod tests;
