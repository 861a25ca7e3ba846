//! What a program in C cannot bring about: adaptation that is there, and panics. The rest is in tests/.

use crate::adapt::*;
use crate::adapter::{Adapter, Budget, Outcome, Progress, Request};
use crate::classify::{gabion_classify_rgb, gabion_result};
use crate::plain::gabion_pixels;
use crate::session::{gabion_close, gabion_open, gabion_options, gabion_session};
use crate::status::gabion_status::*;
use crate::status::{Failure, gabion_last_error};
use gabion_runtime::{Deployed, Origin, Stored, Trust, generations};
use gabion_spec::Precision;
use std::ffi::{CStr, CString, c_int, c_void};
use std::ops::ControlFlow;
use std::path::Path;
use std::ptr::{null, null_mut};
use std::thread;
use tempfile::TempDir;

/// Promotes the same weights after two steps, unless the recipe says otherwise.
#[derive(Debug)]
struct Fake;

impl Adapter for Fake {
    fn adapt(
        &self,
        deployed: &Deployed,
        request: &Request<'_>,
        observer: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Outcome, Failure> {
        deployed.changed(|serving| adapted(deployed.path(), &serving.origin, request, observer))
    }
}

fn adapted(
    bundle: &Path,
    parent: &Origin,
    request: &Request<'_>,
    observer: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Outcome, Failure> {
    let mut steps = 0;
    for event in [
        Progress::Guard { after: false, done: 1, total: 1 },
        Progress::Step { done: 1, loss: 2.5, seconds: 0.5, share: 0.25 },
        Progress::Step { done: 2, loss: 1.5, seconds: 1.0, share: 0.5 },
        Progress::Guard { after: true, done: 1, total: 1 },
    ] {
        steps += u64::from(matches!(event, Progress::Step { .. }));
        if observer(event).is_break() {
            return Err(Failure::new(GABION_ERROR_CANCELLED, format!("cancelled after {steps} steps")));
        }
    }
    let outcome = |promoted, reason: &str| Outcome {
        promoted,
        reason: reason.into(),
        steps,
        seconds: 1.0,
        images: request.samples.images.len() as u64,
        clean: [50.0, 60.0],
        robust: [30.0, 40.0],
    };
    match request.recipe {
        Some("panic") => panic!("{}", "as asked"),
        Some(recipe) => Ok(outcome(None, recipe)),
        None => {
            assert_eq!(request.budget, Some(Budget::Steps(2)));
            assert_eq!(request.samples.labels.as_deref(), Some(&[3, 4][..]));
            let stored = Stored::read(bundle)?;
            let written = generations::write(bundle, &Trust::Any, parent, |dir| stored.write(dir, Precision::F16))?;
            Ok(outcome(Some(written.number), ""))
        }
    }
}

/// One thread, so that whatever waits for another would wait for ever.
fn plain_options() -> gabion_options {
    let size = size_of::<gabion_options>();
    gabion_options { size, memory: 0, threads: 1, local_generations: 0, public_key: null() }
}

/// A session of a copy of the model, which lies in the folder.
fn opened() -> (*mut gabion_session, TempDir) {
    let folder = TempDir::new().unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/cifar10-small");
    let bundle = folder.path().join("bundle");
    Stored::read(&model).unwrap().write(&bundle, Precision::F16).unwrap();
    let session = gabion_session::open(&bundle, &plain_options(), Trust::Any, &Fake)
        .unwrap_or_else(|failure| panic!("{failure:?}"));
    (Box::into_raw(Box::new(session)), folder)
}

fn samples() -> [gabion_sample; 2] {
    static PIXELS: [u8; 3 * 32 * 32] = [7; 3 * 32 * 32];
    [3, 4].map(|label| gabion_sample {
        pixels: gabion_pixels { data: PIXELS.as_ptr(), width: 32, height: 32, stride: 0 },
        label,
        reserved: 0,
    })
}

fn options() -> gabion_adapt_options {
    gabion_adapt_options {
        size: size_of::<gabion_adapt_options>(),
        recipe: null(),
        seconds: 0.0,
        steps: 2,
        memory: 0,
        guard: null(),
        guard_count: 0,
        observer: None,
        user: null_mut(),
    }
}

fn verdict() -> gabion_verdict {
    // SAFETY: numbers.
    gabion_verdict { size: size_of::<gabion_verdict>(), ..unsafe { std::mem::zeroed() } }
}

fn said() -> String {
    // SAFETY: never NULL.
    unsafe { CStr::from_ptr(gabion_last_error()) }.to_str().unwrap().into()
}

fn serving(session: *const gabion_session) -> u64 {
    let mut generation = u64::MAX;
    // SAFETY: an opened session.
    assert_eq!(unsafe { gabion_generation(session, &raw mut generation) }, GABION_OK);
    generation
}

/// What an observer saw.
#[derive(Default)]
struct Seen {
    phases: Vec<(u32, u64)>,
    threads: Vec<thread::ThreadId>,
    cancel_at: Option<usize>,
    session: usize,
}

unsafe extern "C" fn observe(progress: *const gabion_progress, user: *mut c_void) -> c_int {
    // SAFETY: a test's own.
    let (progress, seen) = unsafe { (&*progress, &mut *user.cast::<Seen>()) };
    assert_eq!(progress.size, size_of::<gabion_progress>());
    seen.phases.push((progress.phase, progress.done));
    seen.threads.push(thread::current().id());
    if seen.session != 0 {
        let [sample, _] = samples();
        // SAFETY: numbers and a pointer.
        let mut said = gabion_result { size: size_of::<gabion_result>(), ..unsafe { std::mem::zeroed() } };
        let session = seen.session as *const gabion_session;
        // SAFETY: an opened session, and pixels of a static.
        let classified = unsafe { gabion_classify_rgb(session, &raw const sample.pixels, null(), &raw mut said) };
        assert_eq!((classified, said.views), (GABION_OK, 1));
        // SAFETY: an opened session.
        let second = unsafe { gabion_rollback(session, null_mut()) };
        assert_eq!(second, GABION_ERROR_BUSY);
    }
    c_int::from(seen.cancel_at == Some(seen.phases.len()))
}

#[test]
fn what_is_promoted_serves_and_is_taken_back() {
    let (session, _folder) = opened();
    let mut seen = Seen { session: session as usize, ..Seen::default() };
    let options = gabion_adapt_options { observer: Some(observe), user: (&raw mut seen).cast(), ..options() };
    let mut said = verdict();
    // SAFETY: everything lives here.
    let status = unsafe { gabion_adapt(session, samples().as_ptr(), 2, &raw const options, &raw mut said) };
    assert_eq!(status, GABION_OK);
    assert_eq!((said.promoted, said.generation, said.steps, said.images), (1, 1, 2, 2));
    assert_eq!((said.clean_before, said.clean_after, said.robust_before, said.robust_after), (50.0, 60.0, 30.0, 40.0));
    assert_eq!(said.reason[0], 0);
    let phases = [GABION_PHASE_GUARD_BEFORE, GABION_PHASE_STEP, GABION_PHASE_STEP, GABION_PHASE_GUARD_AFTER];
    assert_eq!(
        seen.phases,
        [1, 1, 2, 1].into_iter().zip(phases).map(|(done, phase)| (phase, done)).collect::<Vec<_>>()
    );
    assert!(seen.threads.iter().all(|&thread| thread == thread::current().id()), "told on the caller's thread");
    assert_eq!(serving(session), 1);
    let mut generation = 9;
    // SAFETY: an opened session.
    assert_eq!(unsafe { gabion_rollback(session, &raw mut generation) }, GABION_OK);
    assert_eq!((generation, serving(session)), (0, 0));
    // SAFETY: an opened session.
    unsafe { gabion_close(session) };
}

#[test]
fn what_is_refused_or_cancelled_changes_nothing() {
    let (session, _folder) = opened();
    let reason = c"robust accuracy fell \xC3\xA4";
    let long = std::ffi::CString::new("ä".repeat(200)).unwrap();
    for recipe in [reason, long.as_c_str()] {
        let mut said = verdict();
        let options = gabion_adapt_options { recipe: recipe.as_ptr(), ..options() };
        // SAFETY: everything lives here.
        let status = unsafe { gabion_adapt(session, samples().as_ptr(), 2, &raw const options, &raw mut said) };
        assert_eq!((status, said.promoted, said.generation), (GABION_OK, 0, 0));
        // SAFETY: it ends with a NUL.
        let given = unsafe { CStr::from_ptr(said.reason.as_ptr()) }.to_str().expect("whole characters");
        assert!(recipe.to_str().unwrap().starts_with(given) && given.len() >= 20, "{given}");
    }
    for cancel_at in [1, 3] {
        let mut seen = Seen { cancel_at: Some(cancel_at), ..Seen::default() };
        let options = gabion_adapt_options { observer: Some(observe), user: (&raw mut seen).cast(), ..options() };
        // SAFETY: everything lives here.
        let status = unsafe { gabion_adapt(session, samples().as_ptr(), 2, &raw const options, &mut verdict()) };
        assert_eq!((status, seen.phases.len()), (GABION_ERROR_CANCELLED, cancel_at));
        assert!(said().starts_with("cancelled after"), "{}", said());
    }
    assert_eq!(serving(session), 0);
    // SAFETY: an opened session.
    unsafe { gabion_close(session) };
}

#[test]
fn a_panic_stays_inside_and_poisons_the_session() {
    let (session, _folder) = opened();
    let options = gabion_adapt_options { recipe: c"panic".as_ptr(), ..options() };
    // SAFETY: everything lives here.
    let status = unsafe { gabion_adapt(session, samples().as_ptr(), 2, &raw const options, &mut verdict()) };
    assert_eq!(status, GABION_ERROR_INTERNAL);
    assert!(said().ends_with("as asked"), "{}", said());
    // SAFETY: an opened session.
    assert_eq!(unsafe { gabion_generation(session, &mut 0) }, GABION_ERROR_POISONED);
    // SAFETY: an opened session.
    assert_eq!(unsafe { gabion_adapt(session, null(), 0, null(), null_mut()) }, GABION_ERROR_POISONED);
    // SAFETY: an opened session.
    unsafe { gabion_close(session) };
}

#[test]
fn samples_that_make_no_sense_are_named() {
    let (session, _folder) = opened();
    let refused = |samples: &[gabion_sample], options: gabion_adapt_options| {
        // SAFETY: everything lives here.
        let status =
            unsafe { gabion_adapt(session, samples.as_ptr(), samples.len(), &raw const options, &mut verdict()) };
        assert_eq!(status, GABION_ERROR_ARGUMENT, "{}", said());
        said()
    };
    let [first, second] = samples();
    let with = |label| [first, gabion_sample { label, ..second }];
    assert!(refused(&with(-1), options()).contains("`samples[1]` differs"));
    assert!(refused(&with(10), options()).contains("use -1, or 0 to 9"));
    assert!(refused(&with(-2), options()).contains("`samples[1].label` is -2"));
    let thin = gabion_pixels { stride: 95, ..first.pixels };
    assert!(refused(&[gabion_sample { pixels: thin, ..first }], options()).contains("a stride of 95"));
    let both = gabion_adapt_options { seconds: 1.0, ..options() };
    assert!(refused(&samples(), both).contains("both seconds and steps"));
    for seconds in [-1.0, f64::NAN, f64::INFINITY] {
        let options = gabion_adapt_options { seconds, steps: 0, ..options() };
        assert!(refused(&samples(), options).contains("options->seconds"));
    }
    assert!(
        refused(&samples(), gabion_adapt_options { guard_count: 3, ..options() }).contains("`options->guard` is NULL")
    );
    let guard = [gabion_sample { label: 77, ..first }];
    let guarded = gabion_adapt_options { guard: guard.as_ptr(), guard_count: 1, ..options() };
    assert!(refused(&samples(), guarded).contains("`options->guard[0].label` is 77"));
    assert!(refused(&[], options()).contains("`samples`"));
    // SAFETY: an opened session.
    unsafe { gabion_close(session) };
}

#[test]
fn a_session_that_requires_a_signature() {
    let folder = TempDir::new().unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/cifar10-small");
    let bundle = folder.path().join("bundle");
    Stored::read(&model).unwrap().write(&bundle, Precision::F16).unwrap();
    let keys = [(); 2].map(|()| gabion_runtime::signature::keygen().unwrap());
    gabion_runtime::signature::sign(&bundle, &keys[0]).unwrap();
    let path = CString::new(bundle.to_str().unwrap()).unwrap();
    let open = |key: String, local_generations| {
        let key = CString::new(key).unwrap();
        let options = gabion_options { public_key: key.as_ptr(), local_generations, ..plain_options() };
        let mut session = null_mut();
        // SAFETY: everything lives here.
        let status = unsafe { gabion_open(path.as_ptr(), &raw const options, &raw mut session) };
        // SAFETY: it was opened, or is NULL.
        unsafe { gabion_close(session) };
        status
    };
    for key in [keys[0].public().to_string(), keys[0].public().to_text()] {
        assert_eq!(open(key.clone(), 0), GABION_OK);
        assert_eq!(open(key, 1), GABION_OK);
    }
    assert_eq!(open(keys[1].public().to_string(), 1), GABION_ERROR_BUNDLE);
    assert!(said().contains("was made with the key"), "{}", said());
}
