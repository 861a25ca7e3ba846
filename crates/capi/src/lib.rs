//! Gabion for C, and for whatever calls C: a bundle opened, images classified, adapted to local images, rolled back.
//!
//! | module | what it is |
//! |---|---|
//! | [`status`] | status codes, the last error of a thread, and the border that no panic crosses |
//! | [`version`] | of the library and of its interface |
//! | [`plain`] | pointers and structs of C, checked before they are believed |
//! | [`session`] | the handle: opened, closed, asked what it is |
//! | [`classify`] | images in, probabilities out |
//! | [`adapt`] | adaptation and rollback |
//! | `adapter` | what stands behind adaptation, the one seam to it |
//! | `pool` | threads of a handle, which end with it |
//!
//! `include/gabion.h` is made from these sources by `cargo run -p xtask --release -- header`, comments included, so what
//! is said here in `@param` is said to those who read the header. A contract of C is not a `# Safety` section: what each
//! pointer must be stands at its parameter, and what can be checked of it is.

// A C interface is pointers; each is checked as far as it can be where it comes in.
#![allow(unsafe_code)]
// The names of C.
#![allow(non_camel_case_types)]
// See above: contracts stand in the header's words.
#![allow(clippy::missing_safety_doc)]

pub mod adapt;
mod adapter;
pub mod classify;
pub mod plain;
mod pool;
pub mod session;
pub mod status;
pub mod version;

pub use status::gabion_status;

#[cfg(test)]
mod tests;
