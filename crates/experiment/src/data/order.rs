//! Orders and choices of images that a seed decides: epoch permutations and stratified subsets.
//!
//! The randomness is counter-based (SplitMix64, Steele et al. 2014): a number is a function of the words that name it
//! and of its place in the row, so that nothing depends on threads or on what was drawn before.

/// The odd constant of SplitMix64, 2^64 over the golden ratio.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// The finaliser of SplitMix64.
const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A row of random numbers that is named by words, such as (seed, purpose, image).
pub(crate) struct Random {
    state: u64,
}

impl Random {
    pub(crate) fn named(words: &[u64]) -> Self {
        Self { state: words.iter().fold(0, |key, word| mix(mix(key.wrapping_add(GOLDEN)) ^ word)) }
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN);
        mix(self.state)
    }

    /// Uniform in `[0, 1)`, 24 bits.
    #[allow(clippy::cast_precision_loss)] // 24 bits fit f32 exactly
    pub(crate) fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / 16_777_216.0
    }

    /// Uniform between two bounds.
    pub(crate) fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    /// Uniform below a bound that is not 0; the bias of the multiplication is under `bound / 2^64`.
    #[allow(clippy::cast_possible_truncation)] // the result is below a usize
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.bits()) * bound as u128) >> 64) as usize
    }

    /// True with a probability.
    pub(crate) fn chance(&mut self, probability: f32) -> bool {
        self.unit() < probability
    }

    /// Fisher-Yates.
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

/// What a row of random numbers is for, so that two purposes under one seed share nothing.
pub(crate) mod purpose {
    pub(crate) const EPOCH: u64 = 1;
    pub(crate) const SUBSET: u64 = 2;
    pub(crate) const SYNTH: u64 = 3;
    pub(crate) const PATCH: u64 = 4;
}

/// The order of `n` images in an epoch: a permutation of `0..n` that (seed, epoch, n) decides.
///
/// # Panics
/// When `n` is above `u32::MAX`.
pub fn permutation(seed: u64, epoch: u64, n: usize) -> Vec<u32> {
    let end = u32::try_from(n).expect("at most 2^32 - 1 images have an order");
    let mut order: Vec<u32> = (0..end).collect();
    Random::named(&[purpose::EPOCH, seed, epoch]).shuffle(&mut order);
    order
}

/// Chooses `count` images, the same number of each class as far as that goes; returns their indices, rising.
///
/// A class that runs out leaves its share to the others, and a remainder goes to classes that the seed chooses. All
/// images are returned when there are no more than `count`.
pub fn stratified(labels: &[u16], count: usize, seed: u64) -> Vec<usize> {
    let mut random = Random::named(&[purpose::SUBSET, seed]);
    let classes = labels.iter().max().map_or(0, |&last| usize::from(last) + 1);
    let mut members = vec![Vec::new(); classes];
    for (index, &label) in labels.iter().enumerate() {
        members[usize::from(label)].push(index);
    }
    members.retain(|class| !class.is_empty());
    for class in &mut members {
        random.shuffle(class);
    }
    random.shuffle(&mut members);

    let mut chosen = Vec::with_capacity(count.min(labels.len()));
    let deepest = members.iter().map(Vec::len).max().unwrap_or(0);
    for depth in 0..deepest {
        for class in &members {
            if chosen.len() < count
                && let Some(&index) = class.get(depth)
            {
                chosen.push(index);
            }
        }
    }
    chosen.sort_unstable();
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_numbers_are_splitmix64() {
        // The first outputs for state 0 in the reference code.
        let mut random = Random { state: 0 };
        assert_eq!(random.bits(), 0xE220_A839_7B1D_CDAF);
        assert_eq!(random.bits(), 0x6E78_9E6A_A1B9_65F4);
    }

    #[test]
    fn an_order_is_pinned() {
        assert_eq!(permutation(1, 2, 8), permutation(1, 2, 8));
        assert_ne!(permutation(1, 2, 100), permutation(1, 3, 100));
        assert_ne!(permutation(1, 2, 100), permutation(2, 2, 100));
        assert_ne!(permutation(1, 2, 100), permutation(2, 1, 100));
        assert!(permutation(0, 0, 0).is_empty());
        // A change here changes every published run.
        assert_eq!(permutation(7, 0, 10), PINNED);
    }

    const PINNED: [u32; 10] = [9, 5, 0, 2, 4, 8, 6, 1, 3, 7];

    #[test]
    fn the_first_place_is_uniform() {
        let mut counts = [0u32; 5];
        for epoch in 0..5000 {
            counts[permutation(3, epoch, 5)[0] as usize] += 1;
        }
        assert!(counts.iter().all(|&count| (880..1120).contains(&count)), "{counts:?}");
    }

    proptest! {
        #[test]
        fn a_permutation_holds_each_index_once(seed: u64, epoch: u64, n in 0usize..300) {
            let mut order = permutation(seed, epoch, n);
            order.sort_unstable();
            prop_assert!(order.iter().enumerate().all(|(at, &index)| at == index as usize));
            prop_assert_eq!(order.len(), n);
        }

        #[test]
        fn a_subset_is_even_sorted_and_whole(
            labels in proptest::collection::vec(0u16..7, 0..200), count in 0usize..250, seed: u64,
        ) {
            let chosen = stratified(&labels, count, seed);
            prop_assert_eq!(&chosen, &stratified(&labels, count, seed));
            prop_assert_eq!(chosen.len(), count.min(labels.len()));
            prop_assert!(chosen.windows(2).all(|pair| pair[0] < pair[1]));
            let share = |class: u16, among: &mut dyn Iterator<Item = u16>| among.filter(|&l| l == class).count();
            let taken: Vec<_> = (0..7).map(|c| share(c, &mut chosen.iter().map(|&i| labels[i]))).collect();
            let there: Vec<_> = (0..7).map(|c| share(c, &mut labels.iter().copied())).collect();
            let most = taken.iter().copied().max().unwrap_or(0);
            for (taken, there) in taken.iter().zip(there) {
                prop_assert!(*taken == there || *taken + 1 >= most);
            }
        }
    }
}
