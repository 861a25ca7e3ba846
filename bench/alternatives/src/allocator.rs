//! The allocator of every side in Rust: mimalloc, told to keep what it has. With the system's a backend that allocates every
//! result anew would spend much of its time in having pages cleared.
#![allow(unsafe_code)] // mimalloc's options, which have no safe binding

use libmimalloc_sys::{mi_option_set, mi_option_t, mi_option_use_numa_nodes, mi_option_verbose};
use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

// Not in the bindings; mimalloc.h lists them beside these two.
const PURGE_DELAY: mi_option_t = mi_option_use_numa_nodes - 1;
const ARENA_EAGER_COMMIT: mi_option_t = mi_option_verbose + 2;

/// Never gives memory back to the system. To be called first in `main`.
pub fn keep_memory() {
    // SAFETY: no other thread runs yet, and both are options of the mimalloc that is linked.
    unsafe {
        mi_option_set(PURGE_DELAY, -1);
        mi_option_set(ARENA_EAGER_COMMIT, 1);
    }
}
