//! Pointers and structs of C, checked before they are believed.
//!
//! A struct that may grow begins with its size as the caller compiled it. Of a smaller, older one the missing fields are
//! zero, which always means the default; of a larger, newer one what is not known here must be zero.

use crate::status::Failure;
use crate::status::gabion_status::GABION_ERROR_UNSUPPORTED;
use gabion_runtime::Rgb;
use gabion_runtime::picture::MOST_PIXELS;
use std::ffi::{CStr, c_char};
use std::mem::MaybeUninit;

/// Pixels of 8-bit RGB in the caller's memory: red, green and blue of the first pixel of the first row, then the next to
/// the right. This struct does not grow.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct gabion_pixels {
    /// The first row's first byte; not NULL.
    pub data: *const u8,
    /// Columns, 1 or more.
    pub width: u32,
    /// Rows, 1 or more.
    pub height: u32,
    /// Bytes from a row's first to the next one's; 0 stands for `3 * width`.
    pub stride: usize,
}

/// A struct that begins with its size.
///
/// # Safety
/// It is `repr(C)`, its first field is a `usize`, and all bits zero make a value of every field.
pub(crate) unsafe trait Plain: Copy {
    /// Its name in C.
    const NAME: &'static str;
    /// The size of its first version: once fields were added, the offset of the first of those.
    const LEAST: usize;
}

/// What a pointer points at.
///
/// # Safety
/// A pointer that is neither NULL nor misaligned points at a `T` that stays as it is for `'a`.
pub(crate) unsafe fn borrowed<'a, T>(pointer: *const T, what: &str) -> Result<&'a T, Failure> {
    check(pointer, what)?;
    // SAFETY: it is not NULL and aligned; the rest is the caller's promise.
    Ok(unsafe { &*pointer })
}

/// Refuses pointers that cannot be right.
pub(crate) fn check<T>(pointer: *const T, what: &str) -> Result<(), Failure> {
    if pointer.is_null() {
        return Err(Failure::argument(format!("`{what}` is NULL")));
    }
    if !pointer.is_aligned() {
        return Err(Failure::argument(format!("`{what}` is not aligned to {} bytes", align_of::<T>())));
    }
    Ok(())
}

/// A struct of the caller's, of whatever version.
///
/// # Safety
/// A pointer that is neither NULL nor misaligned points at as many bytes as their first field says.
pub(crate) unsafe fn read<T: Plain>(from: *const T, what: &str) -> Result<T, Failure> {
    check(from, what)?;
    // SAFETY: the first field of a `Plain` is its size.
    let size = unsafe { from.cast::<usize>().read() };
    if !(T::LEAST..=1 << 16).contains(&size) {
        let name = T::NAME;
        return Err(Failure::argument(format!(
            "`{what}->size` is {size}: set it to sizeof({name}), which is {} here",
            size_of::<T>()
        )));
    }
    let known = size.min(size_of::<T>());
    for at in known..size {
        // SAFETY: the caller's struct has `size` bytes.
        if unsafe { from.cast::<u8>().add(at).read() } != 0 {
            let why = format!("`{what}` asks for something newer than this library, in byte {at} of {}", T::NAME);
            return Err(Failure::new(GABION_ERROR_UNSUPPORTED, why));
        }
    }
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: both have `known` bytes, and the copy is on the stack.
    unsafe { from.cast::<u8>().copy_to_nonoverlapping(value.as_mut_ptr().cast(), known) };
    // SAFETY: zeros are a value of a `Plain`, and what was copied over them are the caller's.
    Ok(unsafe { value.assume_init() })
}

/// A struct of the caller's, or the default.
///
/// # Safety
/// As [`read`]; NULL is the default.
pub(crate) unsafe fn read_or_default<T: Plain>(from: *const T, what: &str) -> Result<T, Failure> {
    if from.is_null() {
        // SAFETY: all bits zero make a `Plain`.
        return Ok(unsafe { MaybeUninit::<T>::zeroed().assume_init() });
    }
    // SAFETY: the caller's promise.
    unsafe { read(from, what) }
}

/// Writes the fields that the caller's version of a struct has.
///
/// # Safety
/// `to` was read by [`read`], may be written, and nothing else uses it.
pub(crate) unsafe fn write<T: Plain>(to: *mut T, value: &T) {
    // SAFETY: `read` has found the size to be the caller's.
    let size = unsafe { to.cast::<usize>().read() }.min(size_of::<T>());
    let from = std::ptr::from_ref(value).cast::<u8>();
    // SAFETY: both have `size` bytes, and `value` is not the caller's.
    unsafe { from.copy_to_nonoverlapping(to.cast(), size) };
}

/// A string of the caller's.
///
/// # Safety
/// A pointer that is not NULL points at a string that ends with a NUL and stays as it is for `'a`.
pub(crate) unsafe fn text<'a>(pointer: *const c_char, what: &str) -> Result<&'a str, Failure> {
    check(pointer, what)?;
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(pointer) };
    text.to_str().map_err(|error| Failure::argument(format!("`{what}` is not UTF-8: {error}")))
}

/// An array of the caller's.
///
/// # Safety
/// A pointer that is neither NULL nor misaligned points at so many values that stay as they are for `'a`.
pub(crate) unsafe fn array<'a, T>(pointer: *const T, count: usize, what: &str) -> Result<&'a [T], Failure> {
    check(pointer, what)?;
    if count == 0 || count.checked_mul(size_of::<T>()).is_none_or(|bytes| isize::try_from(bytes).is_err()) {
        return Err(Failure::argument(format!("`{what}` has {count} values: give 1 or more, as many as there are")));
    }
    // SAFETY: neither NULL nor misaligned nor larger than memory can be; the rest is the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(pointer, count) })
}

/// A copy of the caller's pixels, rows side by side.
///
/// # Safety
/// `pixels.data` is NULL or points at so many rows, of which the last may end with its last pixel.
pub(crate) unsafe fn image(pixels: &gabion_pixels, what: &str) -> Result<Rgb, Failure> {
    let gabion_pixels { data, width, height, stride } = *pixels;
    let nonsense = |why: &str| Failure::argument(format!("`{what}` of {width}x{height} pixels: {why}"));
    if data.is_null() {
        return Err(nonsense("`data` is NULL"));
    }
    if width == 0 || height == 0 {
        return Err(nonsense("there must be 1 or more"));
    }
    if u64::from(width) * u64::from(height) > MOST_PIXELS {
        return Err(nonsense(&format!("{MOST_PIXELS} are the most")));
    }
    // Below `3 * MOST_PIXELS`, which fits.
    let (width, height) = (width as usize, height as usize);
    let row = 3 * width;
    let stride = if stride == 0 { row } else { stride };
    if stride < row {
        return Err(nonsense(&format!("a stride of {stride} bytes is less than a row's {row}")));
    }
    let bytes = (height - 1).checked_mul(stride).and_then(|bytes| bytes.checked_add(row));
    let Some(bytes) = bytes.filter(|&bytes| isize::try_from(bytes).is_ok()) else {
        return Err(nonsense(&format!("a stride of {stride} bytes reaches beyond memory")));
    };
    // SAFETY: not NULL, no larger than memory can be, bytes need no alignment; the rest is the caller's promise.
    let bytes = unsafe { std::slice::from_raw_parts(data, bytes) };
    let mut copied = Vec::with_capacity(row * height);
    bytes.chunks(stride).for_each(|line| copied.extend_from_slice(&line[..row]));
    Ok(Rgb { height, width, pixels: copied })
}
