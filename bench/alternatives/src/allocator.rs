//! The allocator of every side in Rust: mimalloc, told to keep what it has. With the system's a backend that allocates every
//! result anew would spend much of its time in having pages cleared.

#[allow(unsafe_code)] // mimalloc's options, which have no safe binding
#[path = "../../../crates/cli/src/allocator/keep.rs"]
mod keep;

use mimalloc::MiMalloc;

pub use keep::keep_memory;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;
