//! Working memory that a thread keeps between calls, so that a training step allocates nothing.

use std::cell::Cell;

/// One cache line; aligns the memory so that vectors do not straddle lines.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([f32; 16]);

thread_local! {
    static KEPT: Cell<Vec<Vec<Line>>> = const { Cell::new(Vec::new()) };
}

/// A buffer lent by the current thread; it goes back when dropped. Its contents are whatever the last user left.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    lines: Vec<Line>,
    length: usize,
}

impl Scratch {
    /// `length` values with unspecified (but initialised) contents.
    pub fn of(length: usize) -> Self {
        let mut kept = KEPT.take();
        let needed = length.div_ceil(16);
        // The smallest that is large enough; where none is, the largest grows, so that the pool does not grow one buffer
        // per shape.
        let fits = kept.partition_point(|lines| lines.len() < needed).min(kept.len().saturating_sub(1));
        let mut lines = if kept.is_empty() { Vec::new() } else { kept.remove(fits) };
        KEPT.set(kept);
        if lines.len() < needed {
            // Not `resize`, which would hold both and copy what nobody reads.
            drop(std::mem::take(&mut lines));
            lines = vec![Line([0.0; 16]); needed];
        }
        Self { lines, length }
    }

    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        // SAFETY: a Line is 16 f32 without padding, and there are enough of them for `length` (see `of`).
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.length) }
    }

    pub fn as_slice(&self) -> &[f32] {
        // SAFETY: as in `as_mut_slice`.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.length) }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.lines.is_empty() {
            return;
        }
        let mut kept = KEPT.take();
        kept.push(std::mem::take(&mut self.lines));
        kept.sort_by_key(Vec::len);
        // Few are alive at once; an unbounded pool would only hold memory.
        if kept.len() > 16 {
            kept.remove(0);
        }
        KEPT.set(kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_distinct_and_reused() {
        let mut a = Scratch::of(100);
        let mut b = Scratch::of(50);
        a.as_mut_slice().fill(1.0);
        b.as_mut_slice().fill(2.0);
        assert_eq!((a.as_slice().len(), b.as_slice().len()), (100, 50));
        assert!(a.as_slice().iter().all(|v| *v == 1.0));
        assert_eq!(a.as_slice().as_ptr().addr() % 64, 0);
        let kept = a.as_slice().as_ptr();
        drop(b);
        drop(a);
        assert_eq!(Scratch::of(100).as_slice().as_ptr(), kept);
    }
}
