//! The allocator: mimalloc, told to keep what it has, and for large buffers one region where they lie side by side.
//!
//! Training frees and allocates the same hundreds of megabytes in every step. An allocator that gives them back has the
//! system clear the pages anew each time, and one that sorts them by size keeps twice what is ever alive at once.
#![allow(unsafe_code)] // the interface of allocators, and mimalloc's options, which have no safe binding

mod heap;

use libmimalloc_sys::{mi_option_set, mi_option_t, mi_option_use_numa_nodes, mi_option_verbose};
use mimalloc::MiMalloc;
use std::alloc::{GlobalAlloc, Layout};

#[global_allocator]
static ALLOCATOR: Sorted = Sorted;

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
    #[cfg(target_os = "linux")]
    large::reserve();
}

/// Large buffers to the region, all else to mimalloc, and large ones too where there is no room or no region.
struct Sorted;

// SAFETY: each half keeps the contract, and an address tells whose it is.
unsafe impl GlobalAlloc for Sorted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        #[cfg(target_os = "linux")]
        if let Some(at) = large::alloc(layout) {
            return at;
        }
        // SAFETY: the caller's.
        unsafe { MiMalloc.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        #[cfg(target_os = "linux")]
        if let Some(at) = large::alloc(layout) {
            // SAFETY: so many bytes were just lent.
            unsafe { at.write_bytes(0, layout.size()) }
            return at;
        }
        // SAFETY: the caller's.
        unsafe { MiMalloc.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        #[cfg(target_os = "linux")]
        if large::dealloc(at) {
            return;
        }
        // SAFETY: the caller's, and what is not in the region came from mimalloc.
        unsafe { MiMalloc.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        #[cfg(target_os = "linux")]
        if layout.size().max(size) >= large::LEAST {
            // SAFETY: the caller's; a valid size for this alignment is part of it.
            unsafe {
                let moved = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
                if !moved.is_null() {
                    at.copy_to_nonoverlapping(moved, layout.size().min(size));
                    self.dealloc(at, layout);
                }
                return moved;
            }
        }
        // SAFETY: the caller's, and what is small came from mimalloc.
        unsafe { MiMalloc.realloc(at, layout, size) }
    }
}

/// The region of large buffers.
#[cfg(target_os = "linux")]
mod large {
    use super::heap::Heap;
    use std::alloc::Layout;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Mutex, PoisonError};

    /// Bytes of a buffer that is large. The lists of the heap stay far below.
    pub const LEAST: usize = 1 << 20;
    /// Addresses, not memory: pages become memory when they are touched.
    const REGION: usize = 64 << 30;
    /// Buffers begin at a cache line, and a few lines past where the last one ended, so that buffers of one size do not
    /// all begin in the same set of a cache.
    const LINE: usize = 64;
    const GAP: usize = 5 * LINE;

    static HEAP: Mutex<Heap> = Mutex::new(Heap::empty());
    /// Where the region begins; 0 before there is one.
    static START: AtomicUsize = AtomicUsize::new(0);

    /// Asks the system for the region; without it large buffers are mimalloc's.
    pub fn reserve() {
        let (protection, kind) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE);
        // SAFETY: a new mapping at a place of the system's choice; the advice concerns that mapping alone.
        let start = unsafe {
            let start = libc::mmap(std::ptr::null_mut(), REGION, protection, kind, -1, 0);
            if start == libc::MAP_FAILED {
                return;
            }
            libc::madvise(start, REGION, libc::MADV_HUGEPAGE);
            start
        };
        HEAP.lock().unwrap_or_else(PoisonError::into_inner).add(REGION);
        START.store(start.expose_provenance(), Ordering::Release);
    }

    pub fn alloc(layout: Layout) -> Option<*mut u8> {
        if layout.size() < LEAST || layout.align() > LINE {
            return None;
        }
        let start = START.load(Ordering::Acquire);
        if start == 0 {
            return None;
        }
        let bytes = layout.size().next_multiple_of(LINE) + GAP;
        let offset = HEAP.lock().unwrap_or_else(PoisonError::into_inner).take(bytes)?;
        Some(std::ptr::with_exposed_provenance_mut(start + offset))
    }

    /// Whether the buffer was one of the region's.
    pub fn dealloc(at: *mut u8) -> bool {
        let start = START.load(Ordering::Acquire);
        let inside = start != 0 && (start..start + REGION).contains(&at.addr());
        if inside {
            HEAP.lock().unwrap_or_else(PoisonError::into_inner).give(at.addr() - start);
        }
        inside
    }
}
