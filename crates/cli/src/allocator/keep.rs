//! mimalloc, told to keep what it has.

use libmimalloc_sys::{mi_option_set, mi_option_t, mi_option_use_numa_nodes, mi_option_verbose};

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
