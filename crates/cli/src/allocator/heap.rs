//! Which part of a region is whose: the smallest free part that is large enough, neighbours joined when they are free.
//!
//! A training step's few dozen buffers come in a handful of sizes and go in another order than they came. Sorted into
//! classes by size, as general allocators do, each class keeps what it once had; here what one size leaves the next one
//! takes, and the region is touched no further than what is alive at once, give or take.

use std::ops::Range;

/// Parts that are lent at once, at most. The lists never grow: they would ask the allocator that holds this heap's lock.
const MOST: usize = 4096;

/// Free parts of a region and the sizes of those that are lent, both by offset.
#[derive(Debug)]
pub struct Heap {
    /// Sorted, and no two touch.
    free: Vec<Range<usize>>,
    /// Sorted by offset: offset and length.
    lent: Vec<(usize, usize)>,
}

impl Heap {
    /// Nothing at all.
    pub const fn empty() -> Self {
        Self { free: Vec::new(), lent: Vec::new() }
    }

    /// Makes a region of so many bytes free.
    pub fn add(&mut self, bytes: usize) {
        self.lent.reserve_exact(MOST);
        // Between parts that are lent lies at most one that is free.
        self.free.reserve_exact(MOST + 1);
        self.free.push(0..bytes);
    }

    /// The offset of so many bytes, or none where no free part is large enough or too many are lent.
    pub fn take(&mut self, bytes: usize) -> Option<usize> {
        if self.lent.len() == MOST {
            return None;
        }
        // Of equals the first. Where the first fit is taken instead, small buffers break up what large ones leave.
        let large_enough = self.free.iter().enumerate().filter(|(_, part)| part.len() >= bytes);
        let (at, _) = large_enough.min_by_key(|(_, part)| part.len())?;
        let start = self.free[at].start;
        self.free[at].start += bytes;
        if self.free[at].is_empty() {
            self.free.remove(at);
        }
        let place = self.lent.partition_point(|(other, _)| *other < start);
        self.lent.insert(place, (start, bytes));
        Some(start)
    }

    /// Takes back what was lent at `start`; nothing happens when nothing was.
    pub fn give(&mut self, start: usize) {
        let Ok(place) = self.lent.binary_search_by_key(&start, |(start, _)| *start) else { return };
        let (_, bytes) = self.lent.remove(place);
        let mut part = start..start + bytes;
        let after = self.free.partition_point(|other| other.start < start);
        if self.free.get(after).is_some_and(|next| next.start == part.end) {
            part.end = self.free.remove(after).end;
        }
        match after.checked_sub(1).map(|before| &mut self.free[before]) {
            Some(before) if before.end == part.start => before.end = part.end,
            _ => self.free.insert(after, part),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_is_joined_and_lent_again() {
        let mut heap = Heap::empty();
        assert_eq!(heap.take(1), None);
        heap.add(100);
        let [a, b, c] = [30, 30, 30].map(|bytes| heap.take(bytes).unwrap());
        assert_eq!((a, b, c, heap.take(11)), (0, 30, 60, None));
        heap.give(a);
        assert_eq!(heap.take(31), None);
        heap.give(b);
        assert_eq!(heap.take(60), Some(0));
        heap.give(c);
        heap.give(0);
        assert_eq!((heap.take(100), &heap.free[..]), (Some(0), &[][..]));
        heap.give(7);
        assert_eq!(heap.lent, [(0, 100)]);
    }

    #[test]
    fn lists_never_grow() {
        let mut heap = Heap::empty();
        heap.add(1 << 20);
        let capacities = |heap: &Heap| (heap.free.capacity(), heap.lent.capacity());
        let before = capacities(&heap);
        let lent: Vec<usize> = std::iter::from_fn(|| heap.take(64)).collect();
        assert_eq!(lent.len(), MOST);
        lent.iter().step_by(2).for_each(|&start| heap.give(start));
        assert_eq!(capacities(&heap), before);
        lent.iter().skip(1).step_by(2).for_each(|&start| heap.give(start));
        assert_eq!(heap.free, vec![0..1 << 20; 1]);
    }

    #[test]
    fn parts_never_overlap() {
        let mut heap = Heap::empty();
        heap.add(1 << 16);
        let (mut state, mut mine) = (7u64, Vec::<Range<usize>>::new());
        for _ in 0..5000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let number = usize::try_from(state >> 40).unwrap();
            if number % 3 == 0 && !mine.is_empty() {
                heap.give(mine.swap_remove(number % mine.len()).start);
            } else if let Some(start) = heap.take(1 + number % 4000) {
                let part = start..start + 1 + number % 4000;
                assert!(part.end <= 1 << 16 && mine.iter().all(|o| o.end <= part.start || part.end <= o.start));
                mine.push(part);
            }
        }
        mine.into_iter().for_each(|part| heap.give(part.start));
        assert_eq!((heap.free, heap.lent.len()), (vec![0..1 << 16; 1], 0));
    }
}
