//! Channels two by two as bf16 in one 32-bit word, for products that the machine sums in f32.
//!
//! Of 32 channels the first sixteen are the low halves of sixteen words and the others the high ones, so that vectors
//! become words without crossing lanes. A plane of words is then as a plane of numbers with half the blocks, and the tiles
//! walk both alike.

use crate::vector::Vector;
use ::half::bf16;

/// Words of a block.
const BLOCK: usize = 16;

/// Whether so many channels make words: whole blocks, and more than one.
pub(crate) fn pairs(channels: usize) -> bool {
    channels > BLOCK && channels.is_multiple_of(BLOCK)
}

/// Words of so many channels.
pub(super) fn words(channels: usize) -> usize {
    channels.div_ceil(2 * BLOCK) * BLOCK
}

/// The channels of a word; the second may lie behind the last.
pub(super) fn channels_of(word: usize) -> [usize; 2] {
    let low = word / BLOCK * 2 * BLOCK + word % BLOCK;
    [low, low + BLOCK]
}

/// The word of a channel, and whether it is the high half.
pub(super) fn word_of(channel: usize) -> (usize, bool) {
    (channel / (2 * BLOCK) * BLOCK + channel % BLOCK, channel / BLOCK % 2 == 1)
}

/// Two numbers in one word.
pub(super) fn word([low, high]: [f32; 2]) -> f32 {
    let [low, high] = [low, high].map(|half| u32::from(bf16::from_f32(half).to_bits()));
    f32::from_bits(high << 16 | low)
}

/// Blocks of channels, each `pitch` values, to half as many blocks of words.
#[inline(always)]
pub(crate) fn join<V: Vector>(from: &[f32], pitch: usize, to: &mut [f32]) {
    assert!(pitch.is_multiple_of(BLOCK) && to.len() == from.len().div_ceil(2 * pitch) * pitch);
    for (from, to) in from.chunks(2 * pitch).zip(to.chunks_exact_mut(pitch)) {
        let (low, high) = from.split_at(pitch);
        assert!(high.is_empty() || high.len() == pitch);
        for at in (0..pitch).step_by(V::LANES) {
            // SAFETY: vectors are no longer than a block, and `pitch` values are whole blocks.
            unsafe {
                let mut words = V::load(low.as_ptr().add(at)).low_half();
                if !high.is_empty() {
                    words = V::load(high.as_ptr().add(at)).above(words);
                }
                words.store(to.as_mut_ptr().add(at));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Level;
    use crate::level::Kernel;

    struct Check<'a>(&'a [f32]);

    impl Kernel for Check<'_> {
        #[inline(always)]
        fn run<V: Vector>(self) {
            let mut words = vec![0.0; 16];
            join::<V>(self.0, 16, &mut words);
            for (at, found) in words.iter().enumerate() {
                assert_eq!(found.to_bits(), word([self.0[at], self.0[16 + at]]).to_bits(), "word {at}");
            }
            let mut sums = vec![1.0; V::LANES];
            // SAFETY: both hold a vector.
            unsafe {
                let x = V::load(words.as_ptr());
                x.dot(x, V::load(sums.as_ptr())).store(sums.as_mut_ptr());
            }
            for (at, found) in sums.iter().enumerate() {
                let [a, b] = [self.0[at], self.0[16 + at]].map(|x| bf16::from_f32(x).to_f32());
                let exact = 1.0 + a * a + b * b;
                let close = (found - exact).abs() <= 1e-6 * exact || (found.is_nan() && exact.is_nan());
                assert!(close, "{found}, {exact}");
            }
        }
    }

    #[test]
    fn words_are_rounded_to_nearest_on_every_level() {
        let mut x = crate::conv::tests::noise(32, 3);
        x[3] = f32::from_bits(0x3f80_8000); // a tie, to even
        x[4] = f32::from_bits(0x3f81_8000);
        for special in [0.0, f32::from_bits(0x7fff_ffff)] {
            x[20] = special;
            for level in Level::available() {
                level.run(Check(&x));
                level.run_products(true, Check(&x));
            }
        }
        assert_eq!([x[3], x[4]].map(|x| bf16::from_f32(x).to_bits()), [0x3f80, 0x3f82]);
    }

    #[test]
    fn every_channel_has_its_half() {
        for channel in 0..200 {
            let (word, high) = word_of(channel);
            assert_eq!(channels_of(word)[usize::from(high)], channel);
            assert!(word < words(channel + 1));
        }
        assert!(!pairs(16) && pairs(32) && pairs(48) && !pairs(40));
    }
}
