//! The handle: opened, closed, asked what it is.

use crate::adapter::{ADAPTER, Adapter};
use crate::plain::{self, Plain};
use crate::pool::{MOST_THREADS, Pool};
use crate::status::gabion_status::{GABION_ERROR_BUNDLE, GABION_ERROR_MEMORY, GABION_ERROR_POISONED};
use crate::status::{self, Failure, gabion_status, guarded};
use gabion_runtime::{Deployed, PublicKey, Trust};
use std::ffi::{CString, c_char};
use std::mem::offset_of;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// An opened bundle with a classifier.
///
/// Any number of threads may use one session at once, for everything but `gabion_close`. While one adapts or rolls back,
/// others classify with the weights from before.
#[derive(Debug)]
pub struct gabion_session {
    name: CString,
    classes: Vec<CString>,
    deployed: Deployed,
    pool: Pool,
    adapter: &'static dyn Adapter,
    poisoned: AtomicBool,
}

/// How a bundle is opened. Zeros are the defaults; begin with `gabion_options options = {0}` and set the size.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct gabion_options {
    /// `sizeof(gabion_options)`.
    pub size: usize,
    /// Most bytes of weights and activations; 0 for no limit. With less than it likes, fewer views are computed at once.
    pub memory: u64,
    /// Threads that compute, at most 1024; 0 for one a core. They end with the session.
    pub threads: u32,
    /// With `public_key`, 1 to let what was adapted here classify too, though nobody signed it; else 0.
    pub local_generations: u32,
    /// Refuse a bundle that is not signed with this key: its 64 digits, or the text of its file, in UTF-8. NULL for any
    /// bundle. Without `local_generations` there is no adaptation then.
    pub public_key: *const c_char,
}

// SAFETY: numbers and a pointer, the first of which is the size.
unsafe impl Plain for gabion_options {
    const NAME: &'static str = "gabion_options";
    const LEAST: usize = offset_of!(Self, public_key);
}

impl gabion_options {
    /// Which bundles are served.
    ///
    /// # Safety
    /// As [`plain::text`] of the key.
    unsafe fn trust(&self) -> Result<Trust, Failure> {
        let local = match self.local_generations {
            0 => false,
            1 => true,
            other => return Err(Failure::argument(format!("`options->local_generations` is {other}: use 0 or 1"))),
        };
        if self.public_key.is_null() {
            let why = "`options->local_generations` without `public_key`: name the key, or use 0";
            return if local { Err(Failure::argument(why)) } else { Ok(Trust::Any) };
        }
        // SAFETY: the caller's promise.
        let text = unsafe { plain::text(self.public_key, "options->public_key")? };
        let key: PublicKey =
            text.parse().map_err(|error| Failure::argument(format!("`options->public_key`: {error}")))?;
        Ok(if local { Trust::SignedWithLocalGenerations(key) } else { Trust::Signed(key) })
    }
}

impl gabion_session {
    pub(crate) fn open(
        bundle: &Path,
        options: &gabion_options,
        trust: Trust,
        adapter: &'static dyn Adapter,
    ) -> Result<Self, Failure> {
        if options.threads > MOST_THREADS {
            return Err(Failure::argument(format!("{} threads: {MOST_THREADS} are the most", options.threads)));
        }
        let memory = (options.memory > 0).then_some(options.memory);
        let pool = Pool::new(options.threads)
            .map_err(|error| Failure::new(GABION_ERROR_MEMORY, format!("cannot start threads: {error}")))?;
        // Outside of it rayon would start a pool of its own.
        let deployed = pool.rayon().install(|| Deployed::open(bundle, trust, memory))?;
        let serving = deployed.serving();
        let manifest = serving.session.manifest();
        let mut classes = Vec::with_capacity(manifest.classes.len());
        for (place, class) in manifest.classes.iter().enumerate() {
            let name = CString::new(class.as_str()).map_err(|_| {
                let why = format!("class {place} has a NUL in its name, which C cannot hold: correct the manifest");
                Failure::new(GABION_ERROR_BUNDLE, why)
            })?;
            classes.push(name);
        }
        let name = status::text(&manifest.name);
        Ok(Self { name, classes, deployed, pool, adapter, poisoned: AtomicBool::new(false) })
    }

    /// The bundle, of which other weights may serve later.
    pub(crate) fn deployed(&self) -> &Deployed {
        &self.deployed
    }

    pub(crate) fn class_count(&self) -> usize {
        self.classes.len()
    }

    pub(crate) fn pool(&self) -> &rayon::ThreadPool {
        self.pool.rayon()
    }

    pub(crate) fn adapter(&self) -> &'static dyn Adapter {
        self.adapter
    }
}

/// Runs a function of the API on a session.
///
/// # Safety
/// The pointer is NULL or came from `gabion_open` and was not closed.
pub(crate) unsafe fn with<'a>(
    session: *const gabion_session,
    work: impl FnOnce(&'a gabion_session) -> Result<(), Failure>,
) -> gabion_status {
    // SAFETY: the caller's promise.
    let session: Result<&'a gabion_session, _> = unsafe { plain::borrowed(session, "session") };
    let poison = session.as_ref().ok().map(|session| &session.poisoned);
    guarded(poison, || {
        let session = session?;
        if session.poisoned.load(Ordering::Acquire) {
            let why = "an earlier call on this session met a fault of the library: close it and open another";
            return Err(Failure::new(GABION_ERROR_POISONED, why));
        }
        work(session)
    })
}

/// Opens a bundle on the CPU: a folder with `manifest.json` and weights, of which everything is checked.
///
/// @param bundle  the folder's path, UTF-8
/// @param options how, or NULL for the defaults
/// @param session receives the session, or NULL on failure; to be closed with `gabion_close`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gabion_open(
    bundle: *const c_char,
    options: *const gabion_options,
    session: *mut *mut gabion_session,
) -> gabion_status {
    guarded(None, || {
        plain::check(session, "session")?;
        // SAFETY: neither NULL nor misaligned; that it may be written is the caller's promise.
        unsafe { session.write(std::ptr::null_mut()) };
        // SAFETY: the caller's promise.
        let (bundle, options) =
            unsafe { (plain::text(bundle, "bundle")?, plain::read_or_default(options, "options")?) };
        // SAFETY: the caller's promise.
        let trust = unsafe { options.trust()? };
        let opened = gabion_session::open(bundle.as_ref(), &options, trust, ADAPTER)?;
        // SAFETY: as above.
        unsafe { session.write(Box::into_raw(Box::new(opened))) };
        Ok(())
    })
}

/// Closes a session and waits for its threads to end. No other call may be using it, and none may use it afterwards.
///
/// @param session from `gabion_open`, or NULL, which does nothing
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gabion_close(session: *mut gabion_session) {
    if session.is_null() {
        return;
    }
    // Nobody is told of a failure; it only must not leave.
    guarded(None, || {
        // SAFETY: it came out of a box in `gabion_open`, and the caller gives it back.
        drop(unsafe { Box::from_raw(session) });
        Ok(())
    });
}

/// The bundle's name, UTF-8; NULL on failure. The string lives as long as the session.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gabion_name(session: *const gabion_session) -> *const c_char {
    let mut name = std::ptr::null();
    // SAFETY: the caller's promise.
    unsafe {
        with(session, |session| {
            name = session.name.as_ptr();
            Ok(())
        })
    };
    name
}

/// How many classes the classifier tells apart; 0 on failure.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gabion_class_count(session: *const gabion_session) -> usize {
    let mut count = 0;
    // SAFETY: the caller's promise.
    unsafe {
        with(session, |session| {
            count = session.classes.len();
            Ok(())
        })
    };
    count
}

/// The name of a class, UTF-8; NULL on failure. The string lives as long as the session.
///
/// @param session from `gabion_open`
/// @param label   its place, below `gabion_class_count`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gabion_class_name(session: *const gabion_session, label: usize) -> *const c_char {
    let mut name = std::ptr::null();
    // SAFETY: the caller's promise.
    unsafe {
        with(session, |session| {
            let Some(class) = session.classes.get(label) else {
                return Err(Failure::argument(format!(
                    "class {label} of {}: the first is class 0",
                    session.classes.len()
                )));
            };
            name = class.as_ptr();
            Ok(())
        })
    };
    name
}
