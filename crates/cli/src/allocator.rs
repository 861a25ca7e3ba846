//! The allocator: mimalloc, told to keep what it has, and for large buffers one region where they lie side by side.
//!
//! Training frees and allocates the same hundreds of megabytes in every step. An allocator that gives them back has the
//! system clear the pages anew each time, and one that sorts them by size keeps twice what is ever alive at once.
#![allow(unsafe_code)] // the interface of allocators, and mimalloc's options, which have no safe binding

mod heap;
mod keep;

use mimalloc::MiMalloc;
use std::alloc::{GlobalAlloc, Layout};

#[global_allocator]
static ALLOCATOR: Sorted = Sorted;

/// Never gives memory back to the system. To be called first in `main`.
pub fn keep_memory() {
    keep::keep_memory();
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
    use std::sync::{Mutex, MutexGuard, PoisonError};

    /// Bytes of a buffer that is large. The lists of the heaps stay some hundred entries long.
    pub const LEAST: usize = 128 << 10;
    /// Bytes of a buffer that goes into the second half of the region, where no smaller one gets in the way of those
    /// that come in powers of two, as activations do.
    const LARGER: usize = 1 << 20;
    /// Addresses, not memory: pages become memory when they are touched.
    const REGION: usize = 2 * HALF;
    const HALF: usize = 32 << 30;
    /// Buffers begin at a cache line. Nothing lies between them, so that two of one size leave room for one of twice it,
    /// and the other way round.
    const LINE: usize = 64;

    static HALVES: [Mutex<Heap>; 2] = [const { Mutex::new(Heap::empty()) }; 2];
    /// Where the region begins; 0 before there is one.
    static START: AtomicUsize = AtomicUsize::new(0);

    fn half(index: usize) -> MutexGuard<'static, Heap> {
        HALVES[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

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
        (0..HALVES.len()).for_each(|index| half(index).add(HALF));
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
        let bytes = layout.size().next_multiple_of(LINE);
        let index = usize::from(bytes >= LARGER);
        let offset = half(index).take(bytes)?;
        Some(std::ptr::with_exposed_provenance_mut(start + index * HALF + offset))
    }

    /// Whether the buffer was one of the region's.
    pub fn dealloc(at: *mut u8) -> bool {
        let start = START.load(Ordering::Acquire);
        if start == 0 || !(start..start + REGION).contains(&at.addr()) {
            return false;
        }
        let offset = at.addr() - start;
        half(offset / HALF).give(offset % HALF);
        true
    }
}
