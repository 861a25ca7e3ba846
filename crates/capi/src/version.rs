//! Of the library and of its interface.

use crate::status::{Failure, gabion_status, guarded};
use std::ffi::{CStr, c_char};

/// The version of this interface. It grows when a function or a struct changes so that older programs would break;
/// new functions, and new fields at the end of a struct that begins with its size, leave it as it is.
pub const GABION_ABI_VERSION: u32 = 1;

/// The interface that the library speaks; compare with `GABION_ABI_VERSION`, which is the header's.
#[unsafe(no_mangle)]
pub extern "C" fn gabion_abi_version() -> u32 {
    GABION_ABI_VERSION
}

/// Says whether a program that was compiled with a header can use this library. Call it first.
///
/// @param header `GABION_ABI_VERSION`
/// @return `GABION_OK`, or `GABION_ERROR_UNSUPPORTED` where the two do not fit
#[unsafe(no_mangle)]
pub extern "C" fn gabion_check_abi(header: u32) -> gabion_status {
    guarded(None, || {
        if header == GABION_ABI_VERSION {
            return Ok(());
        }
        let why = format!("the header has ABI {header}, the library {GABION_ABI_VERSION}: compile with its own header");
        Err(Failure::new(gabion_status::GABION_ERROR_UNSUPPORTED, why))
    })
}

/// The library's version, such as "0.1.0". The string lives as long as the library.
#[unsafe(no_mangle)]
pub extern "C" fn gabion_version() -> *const c_char {
    const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
        Ok(version) => version,
        Err(_) => panic!("a version has no NUL"),
    };
    VERSION.as_ptr()
}
