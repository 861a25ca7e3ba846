//! A bundle adapted to local images, and taken back.

use crate::adapter::{Budget, Outcome, Progress, Request, Samples};
use crate::plain::{self, Plain, gabion_pixels};
use crate::session::{gabion_session, with};
use crate::status::gabion_status::GABION_ERROR_INTERNAL;
use crate::status::{Failure, gabion_status};
use std::ffi::{c_char, c_int, c_void};
use std::ops::ControlFlow;
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::thread::sleep;
use std::time::Duration;

/// Held-out images are measured before training.
pub const GABION_PHASE_GUARD_BEFORE: u32 = 0;
/// Training.
pub const GABION_PHASE_STEP: u32 = 1;
/// Held-out images are measured after training.
pub const GABION_PHASE_GUARD_AFTER: u32 = 2;

/// A local image. This struct does not grow.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct gabion_sample {
    /// Of any size.
    pub pixels: gabion_pixels,
    /// The place of its class, or -1 where nobody knows; of some images' only is refused.
    pub label: i32,
    /// 0.
    pub reserved: u32,
}

/// How far an adaptation is.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct gabion_progress {
    /// `sizeof(gabion_progress)` as the library was compiled; with an older one than the header's, later fields are not
    /// there.
    pub size: usize,
    /// Images measured, or steps done.
    pub done: u64,
    /// Images in all; 0 while training.
    pub total: u64,
    /// Seconds of training so far.
    pub seconds: f64,
    /// Share of the budget that is used up.
    pub share: f64,
    /// Loss before the step.
    pub loss: f32,
    /// One of `GABION_PHASE_...`.
    pub phase: u32,
}

/// Told how far an adaptation is, on the thread that called `gabion_adapt`.
///
/// It may classify with the session, and must not close it, throw or jump out.
///
/// @param progress valid during the call
/// @param user     from the options
/// @return 0 to go on; anything else ends the adaptation with `GABION_ERROR_CANCELLED`
pub type gabion_observer = Option<unsafe extern "C" fn(progress: *const gabion_progress, user: *mut c_void) -> c_int>;

/// How a bundle is adapted. Zeros are the defaults; begin with `gabion_adapt_options options = {0}` and set the size.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct gabion_adapt_options {
    /// `sizeof(gabion_adapt_options)`.
    pub size: usize,
    /// An adaptation recipe as JSON, in UTF-8; keys that are left out have their defaults. NULL for the default recipe.
    pub recipe: *const c_char,
    /// Seconds of training in the place of the recipe's budget, held-out images not counted; 0 for the recipe's.
    pub seconds: f64,
    /// Optimizer steps in the place of the recipe's budget; 0 for the recipe's. Not with `seconds`.
    pub steps: u64,
    /// Most bytes by which resident memory may grow; 0 for no limit.
    pub memory: u64,
    /// Labelled images that nothing is trained on, to judge by; NULL to hold back a share of the samples.
    pub guard: *const gabion_sample,
    /// How many.
    pub guard_count: usize,
    /// Told how far it is; NULL for nobody.
    pub observer: gabion_observer,
    /// Given to `observer`.
    pub user: *mut c_void,
}

// SAFETY: numbers, pointers and an optional function, the first of which is the size.
unsafe impl Plain for gabion_adapt_options {
    const NAME: &'static str = "gabion_adapt_options";
    const LEAST: usize = size_of::<Self>();
}

/// What came of an adaptation. The caller sets the size; on failure it stays as it was.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct gabion_verdict {
    /// In: `sizeof(gabion_verdict)`.
    pub size: usize,
    /// Number of the weights that classify from now on; 0 for the bundle's own.
    pub generation: u64,
    /// Optimizer steps.
    pub steps: u64,
    /// Seconds of training.
    pub seconds: f64,
    /// Held-out images.
    pub images: u64,
    /// Accuracy on them before, in points of 100.
    pub clean_before: f64,
    /// And after.
    pub clean_after: f64,
    /// Accuracy under attack before, in points of 100.
    pub robust_before: f64,
    /// And after.
    pub robust_after: f64,
    /// 1 if the adapted weights took the place of those before, 0 if they were refused.
    pub promoted: u32,
    /// 0.
    pub reserved: u32,
    /// Why they were refused: UTF-8, cut to fit, ends with a NUL; empty when they were not.
    pub reason: [c_char; 256],
}

// SAFETY: numbers, the first of which is the size.
unsafe impl Plain for gabion_verdict {
    const NAME: &'static str = "gabion_verdict";
    const LEAST: usize = size_of::<Self>();
}

/// Copies samples, of which all have a label or none.
///
/// # Safety
/// As [`plain::array`] and, for each, [`plain::image`].
unsafe fn samples(from: *const gabion_sample, count: usize, classes: usize, what: &str) -> Result<Samples, Failure> {
    // SAFETY: the caller's promise.
    let from = unsafe { plain::array(from, count, what)? };
    let labelled = from[0].label != -1;
    let (mut images, mut labels) = (Vec::with_capacity(count), Vec::new());
    for (place, sample) in from.iter().enumerate() {
        let what = format!("{what}[{place}]");
        if sample.reserved != 0 {
            return Err(Failure::argument(format!("`{what}.reserved` must be 0")));
        }
        if labelled != (sample.label != -1) {
            return Err(Failure::argument(format!(
                "`{what}` differs from the first in having a label: label all or none"
            )));
        }
        if labelled {
            let label = u16::try_from(sample.label).ok().filter(|&label| usize::from(label) < classes);
            labels.push(label.ok_or_else(|| {
                Failure::argument(format!("`{what}.label` is {}: use -1, or 0 to {}", sample.label, classes - 1))
            })?);
        }
        // SAFETY: the caller's promise.
        images.push(unsafe { plain::image(&sample.pixels, &what)? });
    }
    Ok(Samples { images, labels: labelled.then_some(labels) })
}

impl Progress {
    fn plain(self) -> gabion_progress {
        let none = gabion_progress {
            size: size_of::<gabion_progress>(),
            done: 0,
            total: 0,
            seconds: 0.0,
            share: 0.0,
            loss: 0.0,
            phase: GABION_PHASE_STEP,
        };
        match self {
            Self::Step { done, loss, seconds, share } => gabion_progress { done, loss, seconds, share, ..none },
            Self::Guard { after, done, total } => {
                let phase = if after { GABION_PHASE_GUARD_AFTER } else { GABION_PHASE_GUARD_BEFORE };
                gabion_progress { done, total, phase, ..none }
            }
        }
    }
}

/// Adapts on the session's threads, and asks the observer on this one.
fn adapt(
    session: &gabion_session,
    request: &Request<'_>,
    mut observer: impl FnMut(Progress) -> ControlFlow<()>,
) -> Result<Outcome, Failure> {
    let (tell, told) = mpsc::channel();
    let (answer, answered) = mpsc::channel();
    let mut outcome = None;
    session.pool().in_place_scope(|scope| {
        let (outcome, adapter) = (&mut outcome, session.adapter());
        scope.spawn(move |_| {
            let mut asking = |progress| match tell.send(progress) {
                Ok(()) => heard(&answered),
                Err(_) => ControlFlow::Break(()),
            };
            *outcome = Some(adapter.adapt(session.deployed(), request, &mut asking));
        });
        // Ends once `tell` is gone, with the adaptation or with a panic of it, which the scope passes on.
        for progress in told {
            let _ = answer.send(observer(progress));
        }
    });
    outcome.unwrap_or_else(|| Err(Failure::new(GABION_ERROR_INTERNAL, "an adaptation that never was")))
}

/// Waits for the observer's word, and computes meanwhile: what it classifies may need this very thread.
fn heard(answered: &Receiver<ControlFlow<()>>) -> ControlFlow<()> {
    loop {
        match answered.try_recv() {
            Ok(word) => return word,
            Err(TryRecvError::Disconnected) => return ControlFlow::Break(()),
            Err(TryRecvError::Empty) => {}
        }
        if rayon::yield_now() != Some(rayon::Yield::Executed) {
            sleep(Duration::from_micros(200));
        }
    }
}

/// As much of a text as fits, whole characters, with a NUL at its end.
fn cut(text: &str) -> [c_char; 256] {
    let mut out = [0; 256];
    let text = text.replace('\0', "\u{fffd}");
    let end = (0..=text.len().min(out.len() - 1)).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    out.iter_mut().zip(text[..end].bytes()).for_each(|(to, byte)| *to = c_char::from_ne_bytes([byte]));
    out
}

/// Adapts a session's bundle to local images by short adversarial training, and judges the result on images that were held
/// back. If it has lost no more than the recipe allows, it is written beside the bundle, which itself never changes, and
/// classifies from now on; else everything stays as it was.
///
/// Returns when it is done. Other threads may classify meanwhile. Pixels are copied before training begins.
///
/// @param session from `gabion_open`
/// @param samples what is trained on
/// @param count   how many
/// @param options how, or NULL for the defaults
/// @param verdict receives what came of it
/// @return `GABION_ERROR_UNSUPPORTED` from a library that was built without adaptation
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gabion_adapt(
    session: *const gabion_session,
    samples: *const gabion_sample,
    count: usize,
    options: *const gabion_adapt_options,
    verdict: *mut gabion_verdict,
) -> gabion_status {
    let work = |session: &gabion_session| {
        // SAFETY: the caller's promise.
        let (options, mut said) =
            unsafe { (plain::read_or_default(options, "options")?, plain::read(verdict.cast_const(), "verdict")?) };
        let budget = match (options.seconds, options.steps) {
            (0.0, 0) => None,
            (0.0, steps) => Some(Budget::Steps(steps)),
            (seconds, 0) if seconds > 0.0 && seconds.is_finite() => Some(Budget::Seconds(seconds)),
            (seconds, 0) => {
                return Err(Failure::argument(format!("`options->seconds` is {seconds}: use more than 0")));
            }
            _ => return Err(Failure::argument("`options` has both seconds and steps: set one of them")),
        };
        // SAFETY: the caller's promise.
        let recipe = unsafe { option(options.recipe, |recipe| plain::text(recipe, "options->recipe"))? };
        let classes = session.class_count();
        if options.guard.is_null() && options.guard_count > 0 {
            return Err(Failure::argument(format!("`options->guard` is NULL for {} images", options.guard_count)));
        }
        let request = Request {
            // SAFETY: the caller's promise.
            samples: unsafe { self::samples(samples, count, classes, "samples")? },
            // SAFETY: the caller's promise.
            guard: option(options.guard, |guard| unsafe {
                self::samples(guard, options.guard_count, classes, "options->guard")
            })?,
            recipe,
            budget,
            memory: (options.memory > 0).then_some(options.memory),
        };
        let outcome = adapt(session, &request, |progress| {
            let Some(observer) = options.observer else { return ControlFlow::Continue(()) };
            let progress = progress.plain();
            // SAFETY: the caller's function, with the caller's pointer, on the caller's thread.
            let answer = unsafe { observer(&raw const progress, options.user) };
            if answer == 0 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        said.promoted = u32::from(outcome.promoted.is_some());
        said.generation = outcome.promoted.unwrap_or_else(|| session.deployed().serving().origin.source.number());
        (said.steps, said.seconds, said.images) = (outcome.steps, outcome.seconds, outcome.images);
        [said.clean_before, said.clean_after] = outcome.clean;
        [said.robust_before, said.robust_after] = outcome.robust;
        said.reason = cut(&outcome.reason);
        // SAFETY: read above.
        unsafe { plain::write(verdict, &said) };
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { with(session, work) }
}

/// What is made of a pointer that is not NULL.
fn option<T, U>(pointer: *const T, make: impl FnOnce(*const T) -> Result<U, Failure>) -> Result<Option<U>, Failure> {
    if pointer.is_null() { Ok(None) } else { make(pointer).map(Some) }
}

/// Withdraws the newest adapted weights for good; those before them, in the end the bundle's own, classify from now on.
///
/// @param session    from `gabion_open`
/// @param generation receives the number of the weights that classify then, 0 for the bundle's own; may be NULL
/// @return `GABION_ERROR_UNSUPPORTED` from a library that was built without adaptation
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gabion_rollback(session: *const gabion_session, generation: *mut u64) -> gabion_status {
    let work = |session: &gabion_session| {
        option(generation.cast_const(), |generation| plain::check(generation, "generation"))?;
        let number = session.pool().install(|| session.deployed().rollback(None))?.to.number();
        if !generation.is_null() {
            // SAFETY: neither NULL nor misaligned; that it may be written is the caller's promise.
            unsafe { generation.write(number) };
        }
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { with(session, work) }
}

/// Which weights classify.
///
/// @param session    from `gabion_open`
/// @param generation receives the number of the adapted weights, 0 for the bundle's own
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gabion_generation(session: *const gabion_session, generation: *mut u64) -> gabion_status {
    let work = |session: &gabion_session| {
        plain::check(generation.cast_const(), "generation")?;
        // SAFETY: neither NULL nor misaligned; that it may be written is the caller's promise.
        unsafe { generation.write(session.deployed().serving().origin.source.number()) };
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { with(session, work) }
}
