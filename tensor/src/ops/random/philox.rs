//! Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers, as easy as 1, 2, 3; 2011): a keyed mixing of a
//! 128-bit counter into 128 random bits. A random number is a pure function of its key and index, so results depend
//! on neither the device nor the number of threads. `philox.wgsl` is the same function for kernels.

use super::RandomKey;

/// Blocks computed side by side, so that the compiler can use vector registers.
const LANES: usize = 16;

/// Words that [`words`] makes at a time.
pub(crate) const SPAN: usize = 4 * LANES;

const ROUNDS: usize = 10;
const MULTIPLIERS: [u32; 2] = [0xd251_1f53, 0xcd9e_8d57];
const KEY_INCREMENTS: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];

/// A [`RandomKey`] in the words that the generator works on. The counter of block `b` is
/// `[b, step, stream (low), stream (high)]`, its key `[seed (low), seed (high)]`; block `b` yields the words of
/// elements `4b..4b + 4`. The two halves of a step are folded by exclusive or, so steps below 2³² never coincide.
#[repr(C)]
#[derive(Clone, Copy, Debug, bytemuck::NoUninit)]
pub(crate) struct PhiloxKey {
    pub seed: [u32; 2],
    pub stream: [u32; 2],
    pub step: u32,
}

impl From<&RandomKey> for PhiloxKey {
    fn from(key: &RandomKey) -> Self {
        let halves = |value: u64| [value as u32, (value >> 32) as u32];
        let [low, high] = halves(key.step);
        PhiloxKey { seed: halves(key.seed), stream: halves(key.stream), step: low ^ high }
    }
}

/// The words of the `SPAN` elements from element `4·block` on, in their order.
pub(crate) fn words(key: &PhiloxKey, block: u32) -> [u32; SPAN] {
    let counter = [0, key.step, key.stream[0], key.stream[1]];
    let mut lanes = counter.map(|word| [word; LANES]);
    for (lane, word) in lanes[0].iter_mut().enumerate() {
        *word = block.wrapping_add(lane as u32);
    }
    mix(&mut lanes, key.seed);
    std::array::from_fn(|i| lanes[i % 4][i / 4])
}

/// The ten rounds, on many counters at once.
fn mix<const N: usize>(counters: &mut [[u32; N]; 4], mut key: [u32; 2]) {
    for _ in 0..ROUNDS {
        let [first, second, third, fourth] = counters;
        for lane in 0..N {
            let left = u64::from(MULTIPLIERS[0]) * u64::from(first[lane]);
            let right = u64::from(MULTIPLIERS[1]) * u64::from(third[lane]);
            first[lane] = (right >> 32) as u32 ^ second[lane] ^ key[0];
            second[lane] = right as u32;
            third[lane] = (left >> 32) as u32 ^ fourth[lane] ^ key[1];
            fourth[lane] = left as u32;
        }
        for (word, increment) in key.iter_mut().zip(KEY_INCREMENTS) {
            *word = word.wrapping_add(increment);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_published_known_answers() {
        let cases = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, want) in cases {
            let mut lanes = counter.map(|word: u32| [word]);
            mix(&mut lanes, key);
            assert_eq!(lanes.map(|[word]| word), want);
        }
    }

    #[test]
    fn words_are_the_blocks_in_order() {
        let key = PhiloxKey { seed: [1, 2], stream: [3, 4], step: 5 };
        let far = words(&key, 7);
        let near = words(&key, 6);
        assert_eq!(far[..SPAN - 4], near[4..]);
        let mut one = [[7], [5], [3], [4]];
        mix(&mut one, [1, 2]);
        assert_eq!(one.map(|[word]| word), far[..4]);
    }
}
