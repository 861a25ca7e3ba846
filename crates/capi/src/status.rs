//! Status codes, the last error of a thread, and the border that no panic crosses.

use gabion_runtime::{BundleError, ClassifyError, DeployedError, GenerationError, PictureError, SignatureError};
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

/// What became of a call. Numbers keep their meaning; new ones may come.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum gabion_status {
    /// It was done.
    GABION_OK = 0,
    /// A NULL where there must be none, a size that is none, text that is not UTF-8, a number out of range.
    GABION_ERROR_ARGUMENT = 1,
    /// The system refused to read or write a file.
    GABION_ERROR_IO = 2,
    /// The folder holds no bundle, a damaged one, one without a classifier, or not the signature that is required.
    GABION_ERROR_BUNDLE = 3,
    /// The picture cannot be decoded or is too large.
    GABION_ERROR_PICTURE = 4,
    /// The caller's buffer is too small; what it takes was written beside it.
    GABION_ERROR_BUFFER = 5,
    /// The memory that was allowed is less than what it takes.
    GABION_ERROR_MEMORY = 6,
    /// The library was built without this, or is too old or too new for it.
    GABION_ERROR_UNSUPPORTED = 7,
    /// The progress function ended the adaptation; the bundle is as it was.
    GABION_ERROR_CANCELLED = 8,
    /// Another thread is adapting or rolling back this session.
    GABION_ERROR_BUSY = 9,
    /// The adaptation failed: a loss or a weight is not finite. The bundle is as it was.
    GABION_ERROR_ADAPT = 10,
    /// An earlier call on this session failed with `GABION_ERROR_INTERNAL`: close it.
    GABION_ERROR_POISONED = 11,
    /// A fault of this library.
    GABION_ERROR_INTERNAL = 12,
}

use gabion_status::*;

/// Why a call was not done.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: gabion_status,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(status: gabion_status, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    pub(crate) fn argument(message: impl Into<String>) -> Self {
        Self::new(GABION_ERROR_ARGUMENT, message)
    }
}

impl From<BundleError> for Failure {
    fn from(error: BundleError) -> Self {
        let status = match error {
            BundleError::Io { .. } => GABION_ERROR_IO,
            BundleError::Memory { .. } => GABION_ERROR_MEMORY,
            _ => GABION_ERROR_BUNDLE,
        };
        Self::new(status, error.to_string())
    }
}

impl From<GenerationError> for Failure {
    fn from(error: GenerationError) -> Self {
        match error {
            GenerationError::Bundle(error) => error.into(),
            GenerationError::Signature(error) if !matches!(error, SignatureError::Io { .. }) => {
                Self::new(GABION_ERROR_BUNDLE, error.to_string())
            }
            GenerationError::Parent { .. } | GenerationError::BaseChanged { .. } | GenerationError::Unsigned => {
                Self::new(GABION_ERROR_ADAPT, error.to_string())
            }
            error => Self::new(GABION_ERROR_IO, error.to_string()),
        }
    }
}

impl From<DeployedError> for Failure {
    fn from(error: DeployedError) -> Self {
        match error {
            DeployedError::Busy => Self::new(GABION_ERROR_BUSY, error.to_string()),
            DeployedError::Generation(error) => error.into(),
            DeployedError::Bundle(error) => error.into(),
            DeployedError::Memory(error) => error.into(),
            #[cfg(feature = "adapt")]
            DeployedError::Adapt(error) => error.into(),
            error => Self::new(GABION_ERROR_INTERNAL, error.to_string()),
        }
    }
}

#[cfg(feature = "adapt")]
impl From<gabion_runtime::AdaptError> for Failure {
    fn from(error: gabion_runtime::AdaptError) -> Self {
        use gabion_runtime::AdaptError as E;
        let status = match error {
            E::Cancelled { .. } => GABION_ERROR_CANCELLED,
            E::Memory { .. } => GABION_ERROR_MEMORY,
            E::Recipe(_) | E::Image { .. } | E::Labels { .. } | E::Label { .. } => GABION_ERROR_ARGUMENT,
            _ => GABION_ERROR_ADAPT,
        };
        Self::new(status, error.to_string())
    }
}

impl From<PictureError> for Failure {
    fn from(error: PictureError) -> Self {
        let status = if matches!(error, PictureError::Io { .. }) { GABION_ERROR_IO } else { GABION_ERROR_PICTURE };
        Self::new(status, error.to_string())
    }
}

impl From<ClassifyError> for Failure {
    fn from(error: ClassifyError) -> Self {
        let status = match error {
            ClassifyError::Views { .. } | ClassifyError::Confidence { .. } | ClassifyError::Pixels { .. } => {
                GABION_ERROR_ARGUMENT
            }
            ClassifyError::Memory { .. } => GABION_ERROR_MEMORY,
            ClassifyError::NotFinite => GABION_ERROR_BUNDLE,
            // Devices are not opened here.
            _ => GABION_ERROR_INTERNAL,
        };
        Self::new(status, error.to_string())
    }
}

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

/// Text for C; a NUL inside becomes U+FFFD.
pub(crate) fn text(of: &str) -> CString {
    CString::new(of.replace('\0', "\u{fffd}")).unwrap_or_default()
}

/// Runs what stands behind a function: a failure becomes a code and the thread's last error, a panic
/// `GABION_ERROR_INTERNAL`, and what it may have left half done refuses further use.
pub(crate) fn guarded(poison: Option<&AtomicBool>, work: impl FnOnce() -> Result<(), Failure>) -> gabion_status {
    let done = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        if let Some(poison) = poison {
            poison.store(true, Ordering::Release);
        }
        let said = panic.downcast_ref::<&str>().map(ToString::to_string);
        let said = said.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        // A payload may panic once more when it is dropped.
        std::mem::forget(panic);
        Err(Failure::new(GABION_ERROR_INTERNAL, format!("a fault of this library, please report it: {said}")))
    });
    match done {
        Ok(()) => GABION_OK,
        Err(Failure { status, message }) => {
            // A thread that is ending has no last error any more.
            let _ = LAST.try_with(|last| *last.borrow_mut() = text(&message));
            status
        }
    }
}

/// Why the last call on this thread that failed did so: one line of UTF-8 that names the file, the tensor or the key and
/// says what to do. Never NULL; empty when nothing has failed. Valid until another call on this thread fails.
#[unsafe(no_mangle)]
pub extern "C" fn gabion_last_error() -> *const c_char {
    LAST.try_with(|last| last.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

/// The name of a status, such as "GABION_ERROR_BUNDLE", for logs. The string lives as long as the library.
///
/// @param status any number
#[unsafe(no_mangle)]
pub extern "C" fn gabion_status_name(status: i32) -> *const c_char {
    const NAMES: [(gabion_status, &CStr); 13] = [
        (GABION_OK, c"GABION_OK"),
        (GABION_ERROR_ARGUMENT, c"GABION_ERROR_ARGUMENT"),
        (GABION_ERROR_IO, c"GABION_ERROR_IO"),
        (GABION_ERROR_BUNDLE, c"GABION_ERROR_BUNDLE"),
        (GABION_ERROR_PICTURE, c"GABION_ERROR_PICTURE"),
        (GABION_ERROR_BUFFER, c"GABION_ERROR_BUFFER"),
        (GABION_ERROR_MEMORY, c"GABION_ERROR_MEMORY"),
        (GABION_ERROR_UNSUPPORTED, c"GABION_ERROR_UNSUPPORTED"),
        (GABION_ERROR_CANCELLED, c"GABION_ERROR_CANCELLED"),
        (GABION_ERROR_BUSY, c"GABION_ERROR_BUSY"),
        (GABION_ERROR_ADAPT, c"GABION_ERROR_ADAPT"),
        (GABION_ERROR_POISONED, c"GABION_ERROR_POISONED"),
        (GABION_ERROR_INTERNAL, c"GABION_ERROR_INTERNAL"),
    ];
    let name = NAMES.iter().find(|(of, _)| *of as i32 == status).map_or(c"unknown status", |(_, name)| name);
    name.as_ptr()
}
