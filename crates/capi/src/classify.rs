//! Images in, probabilities out.

use crate::plain::{self, Plain, gabion_pixels};
use crate::session::{gabion_session, with};
use crate::status::gabion_status::GABION_ERROR_BUFFER;
use crate::status::{Failure, gabion_status};
use gabion_runtime::picture::MOST_PIXELS;
use gabion_runtime::{Classify, Prediction, Rgb};
use std::ffi::c_char;
use std::path::Path;

/// How an image is classified. Zeros are the defaults; begin with `gabion_classify_options options = {0}` and set the
/// size.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct gabion_classify_options {
    /// `sizeof(gabion_classify_options)`.
    pub size: usize,
    /// Seeds the crops; equal seeds give equal results on one machine.
    pub seed: u64,
    /// 1 (or 0) for the whole image, up to 4096 for a vote of so many random crops at most.
    pub views: u32,
    /// A vote ends once all views would give the same answer with this probability, above 0.5; 1 (or 0) takes every view.
    pub confidence: f32,
}

// SAFETY: numbers, the first of which is the size.
unsafe impl Plain for gabion_classify_options {
    const NAME: &'static str = "gabion_classify_options";
    const LEAST: usize = size_of::<Self>();
}

/// What a session says of an image. The caller sets the size, and where probabilities of all classes are wanted, a buffer.
/// On failure it stays as it was, but for `classes` with `GABION_ERROR_BUFFER`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct gabion_result {
    /// In: `sizeof(gabion_result)`.
    pub size: usize,
    /// In: receives the probability of every class in the order of their places; NULL if they are not wanted.
    pub probabilities: *mut f32,
    /// In: how many `probabilities` has room for.
    pub capacity: usize,
    /// Classes, which is how many probabilities were written.
    pub classes: usize,
    /// Time from the pixels to the probabilities.
    pub milliseconds: f64,
    /// The place of the most probable class.
    pub label: u32,
    /// Its probability.
    pub probability: f32,
    /// The greatest probability less the next.
    pub margin: f32,
    /// Share of the views whose own first class is the final one; 1 for a single view.
    pub agreement: f32,
    /// Views that it rests on.
    pub views: u32,
    /// 0.
    pub reserved: u32,
}

// SAFETY: numbers and a pointer, the first of which is the size.
unsafe impl Plain for gabion_result {
    const NAME: &'static str = "gabion_result";
    const LEAST: usize = size_of::<Self>();
}

impl gabion_classify_options {
    fn resolved(&self) -> Classify {
        let views = if self.views == 0 { 1 } else { self.views };
        let confidence = if self.confidence == 0.0 { 1.0 } else { self.confidence };
        Classify { views, confidence, seed: self.seed }
    }
}

/// What all three ways of classifying share: `image` is asked for once the rest was found to make sense.
///
/// # Safety
/// As of the functions of the API.
unsafe fn classify(
    session: *const gabion_session,
    options: *const gabion_classify_options,
    result: *mut gabion_result,
    image: impl FnOnce() -> Result<Rgb, Failure>,
) -> gabion_status {
    let work = |session: &gabion_session| {
        // SAFETY: the caller's promise.
        let options = unsafe { plain::read_or_default(options, "options")? };
        // SAFETY: the caller's promise.
        let mut said = unsafe { plain::read(result.cast_const(), "result")? };
        said.classes = session.class_count();
        if said.probabilities.is_null() && said.capacity > 0 {
            let why = format!("`result->probabilities` is NULL with a capacity of {}", said.capacity);
            return Err(Failure::argument(why));
        }
        if !said.probabilities.is_null() {
            plain::check(said.probabilities, "result->probabilities")?;
            if said.capacity < said.classes {
                let why = format!("room for {} probabilities where there are {} classes", said.capacity, said.classes);
                // SAFETY: read above.
                unsafe { plain::write(result, &said) };
                return Err(Failure::new(GABION_ERROR_BUFFER, why));
            }
        }
        let options = options.resolved();
        let image = image()?;
        let serving = session.deployed().serving();
        let prediction = session.pool().install(|| serving.session.classify(&image, &options))?;
        let Prediction { label, probabilities, views, agreement, margin, milliseconds } = prediction;
        assert_eq!(probabilities.len(), said.classes, "adaptation changes weights alone");
        if !said.probabilities.is_null() {
            // SAFETY: not NULL, aligned, room for all classes, and not memory of ours.
            unsafe { probabilities.as_ptr().copy_to_nonoverlapping(said.probabilities, said.classes) };
        }
        said.probability = probabilities[label];
        said.label = u32::try_from(label).expect("classes are at most 65536");
        (said.views, said.agreement, said.margin, said.milliseconds) = (views, agreement, margin, milliseconds);
        // SAFETY: read above.
        unsafe { plain::write(result, &said) };
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { with(session, work) }
}

/// Classifies pixels in memory.
///
/// @param session from `gabion_open`
/// @param pixels  8-bit RGB, copied before this returns
/// @param options how, or NULL for the defaults: one view, the whole image
/// @param result  receives what the session says
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gabion_classify_rgb(
    session: *const gabion_session,
    pixels: *const gabion_pixels,
    options: *const gabion_classify_options,
    result: *mut gabion_result,
) -> gabion_status {
    // SAFETY: the caller's promise.
    let image = || unsafe { plain::image(plain::borrowed(pixels, "pixels")?, "pixels") };
    // SAFETY: the caller's promise.
    unsafe { classify(session, options, result, image) }
}

/// Classifies a picture file's bytes: PNG, JPEG or WebP, of at most 100 million pixels. It is turned as its EXIF says, and
/// what is transparent is laid on white.
///
/// @param session from `gabion_open`
/// @param bytes   the whole file
/// @param length  how many bytes
/// @param options how, or NULL for the defaults: one view, the whole image
/// @param result  receives what the session says
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gabion_classify_encoded(
    session: *const gabion_session,
    bytes: *const u8,
    length: usize,
    options: *const gabion_classify_options,
    result: *mut gabion_result,
) -> gabion_status {
    // SAFETY: the caller's promise.
    let image = || Ok(Rgb::from_bytes(unsafe { plain::array(bytes, length, "bytes")? }, MOST_PIXELS)?);
    // SAFETY: the caller's promise.
    unsafe { classify(session, options, result, image) }
}

/// Classifies a picture file, as `gabion_classify_encoded` its bytes.
///
/// @param session from `gabion_open`
/// @param path    the file's path, UTF-8
/// @param options how, or NULL for the defaults: one view, the whole image
/// @param result  receives what the session says
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gabion_classify_file(
    session: *const gabion_session,
    path: *const c_char,
    options: *const gabion_classify_options,
    result: *mut gabion_result,
) -> gabion_status {
    // SAFETY: the caller's promise.
    let image = || Ok(Rgb::open(Path::new(unsafe { plain::text(path, "path")? }))?);
    // SAFETY: the caller's promise.
    unsafe { classify(session, options, result, image) }
}
