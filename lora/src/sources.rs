//! Batch sources over tokens in memory: packed text, and padded examples.

use std::sync::{Arc, Mutex, PoisonError};

use crate::batch::{BatchSource, HostBatch, IGNORED};
use crate::error::{LoraError, Result};

/// Text for language modelling: one long run of tokens, cut into blocks of `sequence` tokens, each position labelled
/// with the token after it. A block's last label is the first token of the next block, so that every token but the
/// first is predicted once in an epoch.
#[derive(Debug)]
pub struct PackedTokens {
    tokens: Arc<[u32]>,
    sequence: usize,
    batching: Batching,
}

impl PackedTokens {
    /// Blocks in a fresh order every epoch, decided by `seed`. Blocks that do not fill a batch are left out of that
    /// epoch.
    ///
    /// # Errors
    /// [`LoraError::Setting`] when the tokens do not fill one batch.
    pub fn shuffled(tokens: impl Into<Arc<[u32]>>, sequence: usize, batch: usize, seed: u64) -> Result<Self> {
        Self::new(tokens.into(), sequence, batch, Some(seed))
    }

    /// Blocks in their own order, the last batch possibly smaller: for validation.
    ///
    /// # Errors
    /// [`LoraError::Setting`] when the tokens do not fill one block.
    pub fn in_order(tokens: impl Into<Arc<[u32]>>, sequence: usize, batch: usize) -> Result<Self> {
        Self::new(tokens.into(), sequence, batch, None)
    }

    fn new(tokens: Arc<[u32]>, sequence: usize, batch: usize, seed: Option<u64>) -> Result<Self> {
        let blocks = tokens.len().saturating_sub(1).checked_div(sequence).unwrap_or(0);
        let needed = if seed.is_some() { batch } else { 1 };
        if sequence == 0 || blocks < needed {
            let message = format!(
                "{} tokens make {blocks} blocks of {sequence}, and {needed} are needed; give more text, or a smaller \
                 batch or sequence",
                tokens.len()
            );
            return Err(LoraError::Setting { setting: "data", message });
        }
        Ok(PackedTokens { tokens, sequence, batching: Batching::new(blocks, batch, seed)? })
    }
}

impl BatchSource for PackedTokens {
    fn batches_per_epoch(&self) -> u64 {
        self.batching.batches_per_epoch()
    }

    fn batch(&self, index: u64) -> Result<HostBatch> {
        let blocks = self.batching.items(index);
        let (mut ids, mut labels) = (Vec::new(), Vec::new());
        for &block in &blocks {
            let start = block * self.sequence;
            ids.extend_from_slice(&self.tokens[start..start + self.sequence]);
            for &token in &self.tokens[start + 1..=start + self.sequence] {
                labels.push(label(token)?);
            }
        }
        HostBatch::new(blocks.len(), self.sequence, ids, labels, None)
    }
}

/// One example: tokens, and for each whether the model should learn to produce it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Same length: true where the token is to be predicted from those before it.
    pub learned: Vec<bool>,
}

/// The end at which short sequences are filled up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PaddingSide {
    /// After the last token.
    #[default]
    Right,
    /// Before the first token. Models count positions from the padding on, as the reference implementations do.
    Left,
}

/// Examples of their own lengths, padded to the longest of each batch, rounded up so that few different shapes occur.
#[derive(Debug)]
pub struct PaddedExamples {
    examples: Vec<Example>,
    longest: usize,
    padding_id: u32,
    side: PaddingSide,
    batching: Batching,
}

/// Sequence lengths are multiples of this: kernels like it, and the device's buffers repeat.
const LENGTH_STEP: usize = 16;

/// The length of a batch's sequences of which the longest has `longest` tokens.
pub(crate) fn padded_length(longest: usize) -> usize {
    longest.next_multiple_of(LENGTH_STEP)
}

impl PaddedExamples {
    /// Batches of `batch` examples; with a seed in a fresh order every epoch, and without one in their own order. The
    /// last batch may be smaller. Examples are cut to `longest` tokens.
    ///
    /// # Errors
    /// [`LoraError::Setting`] for no examples, or one whose two lengths differ.
    pub fn new(
        examples: Vec<Example>,
        batch: usize,
        longest: usize,
        padding_id: u32,
        seed: Option<u64>,
    ) -> Result<Self> {
        if examples.is_empty() || longest == 0 {
            let message = "there are no examples, or they may have no tokens".to_string();
            return Err(LoraError::Setting { setting: "data", message });
        }
        let differs = |example: &Example| example.ids.len() != example.learned.len();
        if let Some((index, example)) = examples.iter().enumerate().find(|(_, example)| differs(example)) {
            let (ids, learned) = (example.ids.len(), example.learned.len());
            let message = format!("example {index} has {ids} tokens but says of {learned} whether they are learned");
            return Err(LoraError::Setting { setting: "data", message });
        }
        let batching = Batching::keeping_last(examples.len(), batch, seed)?;
        Ok(PaddedExamples { examples, longest, padding_id, side: PaddingSide::Right, batching })
    }

    /// Fills short examples up at another end than the right one.
    #[must_use]
    pub fn padded_on(self, side: PaddingSide) -> Self {
        PaddedExamples { side, ..self }
    }

    /// Puts examples of similar length into the same batch, so that there is less padding. Batches still come in a random
    /// order, and which examples meet differs from epoch to epoch. Without a seed the order stays as it is.
    #[must_use]
    pub fn grouped_by_length(self) -> Self {
        let lengths = self.examples.iter().map(|example| example.ids.len().min(self.longest)).collect();
        PaddedExamples { batching: self.batching.grouped_by(lengths), ..self }
    }
}

impl BatchSource for PaddedExamples {
    fn batches_per_epoch(&self) -> u64 {
        self.batching.batches_per_epoch()
    }

    fn batch(&self, index: u64) -> Result<HostBatch> {
        let chosen: Vec<&Example> = self.batching.items(index).into_iter().map(|item| &self.examples[item]).collect();
        let length = |example: &&Example| example.ids.len().min(self.longest);
        let needed = chosen.iter().map(length).max().unwrap_or(0).max(1);
        let sequence = padded_length(needed).min(self.longest);
        let (mut ids, mut labels, mut mask) = (Vec::new(), Vec::new(), Vec::new());
        for example in &chosen {
            let length = length(example);
            let before = if self.side == PaddingSide::Left { sequence - length } else { 0 };
            for position in 0..sequence {
                // The token here, if it is one.
                let here = position.checked_sub(before).filter(|&here| here < length);
                ids.push(here.map_or(self.padding_id, |here| example.ids[here]));
                mask.push(u32::from(here.is_some()));
                let next = here.map(|here| here + 1).filter(|&next| next < length && example.learned[next]);
                labels.push(next.map_or(Ok(IGNORED), |next| label(example.ids[next]))?);
            }
        }
        HostBatch::new(chosen.len(), sequence, ids, labels, Some(mask))
    }
}

/// The label that a token is.
pub(crate) fn label(token: u32) -> Result<i32> {
    i32::try_from(token)
        .map_err(|_| LoraError::Setting { setting: "data", message: format!("token id {token} is no label") })
}

/// Which items make up which batch.
#[derive(Debug)]
pub(crate) struct Batching {
    items: usize,
    batch: usize,
    seed: Option<u64>,
    drop_last: bool,
    /// Lengths of the items, where those of similar length belong together.
    lengths: Option<Vec<usize>>,
    /// The order of the epoch asked for last, since batches are mostly asked for in turn.
    order: Mutex<Option<(u64, Arc<[usize]>)>>,
}

impl Batching {
    fn new(items: usize, batch: usize, seed: Option<u64>) -> Result<Self> {
        if batch == 0 {
            return Err(LoraError::Setting { setting: "batch", message: "must be at least 1".into() });
        }
        Ok(Batching { items, batch, seed, drop_last: seed.is_some(), lengths: None, order: Mutex::new(None) })
    }

    /// Batches of which the last may be smaller.
    pub fn keeping_last(items: usize, batch: usize, seed: Option<u64>) -> Result<Self> {
        Ok(Batching { drop_last: false, ..Self::new(items, batch, seed)? })
    }

    /// Batches of items of similar length.
    pub fn grouped_by(self, lengths: Vec<usize>) -> Self {
        Batching { lengths: Some(lengths), ..self }
    }

    pub fn batches_per_epoch(&self) -> u64 {
        (if self.drop_last { self.items / self.batch } else { self.items.div_ceil(self.batch) }) as u64
    }

    pub fn items(&self, index: u64) -> Vec<usize> {
        let (epoch, within) = (index / self.batches_per_epoch(), (index % self.batches_per_epoch()) as usize);
        let range = within * self.batch..((within + 1) * self.batch).min(self.items);
        match self.seed {
            None => range.collect(),
            Some(seed) => self.epoch_order(seed, epoch)[range].to_vec(),
        }
    }

    fn epoch_order(&self, seed: u64, epoch: u64) -> Arc<[usize]> {
        // The cache is only ever replaced as a whole, so that a panic elsewhere cannot leave it half-written.
        let mut cached = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        match &*cached {
            Some((of, order)) if *of == epoch => order.clone(),
            _ => {
                let mut order = permutation(self.items, seed, epoch);
                if let Some(lengths) = &self.lengths {
                    order = grouped(order, lengths, self.batch, seed, epoch);
                }
                let order: Arc<[usize]> = order.into();
                *cached = Some((epoch, order.clone()));
                order
            }
        }
    }
}

/// A random order of `0..count`, decided by seed and epoch: Fisher–Yates with a counter-based generator.
fn permutation(count: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    let key = mix(seed ^ mix(epoch));
    for last in (1..count).rev() {
        let random = mix(key.wrapping_add((last as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        // The high half of a product maps 64 random bits onto 0..=last; the bias is below 2⁻³² for any real data.
        let chosen = (u128::from(random) * (last as u128 + 1)) >> 64;
        order.swap(last, chosen as usize);
    }
    order
}

/// Batches within which items are sorted by length. More would save hardly any padding and make neighbours of the same items
/// in every epoch.
const STRETCH: usize = 50;

/// A random order, sorted by length within stretches of some batches, whose batches are then put in a random order. A last
/// batch that is not full stays the last.
fn grouped(mut order: Vec<usize>, lengths: &[usize], batch: usize, seed: u64, epoch: u64) -> Vec<usize> {
    for stretch in order.chunks_mut(STRETCH * batch) {
        stretch.sort_by_key(|&item| std::cmp::Reverse(lengths[item]));
    }
    let whole = order.len() / batch;
    let batches = permutation(whole, mix(seed), epoch);
    let rest = order[whole * batch..].iter();
    batches.iter().flat_map(|&number| &order[number * batch..(number + 1) * batch]).chain(rest).copied().collect()
}

/// The finaliser of SplitMix64: a bijection in which every input bit changes about half of the output bits.
pub(crate) fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_block_comes_once_an_epoch_in_an_order_of_its_own() {
        let tokens: Vec<u32> = (0..1001).collect();
        let source = PackedTokens::shuffled(tokens, 10, 8, 7).unwrap();
        assert_eq!(source.batches_per_epoch(), 12);
        let epoch = |epoch: u64| {
            let firsts = (0..12).flat_map(|i| {
                let batch = source.batch(epoch * 12 + i).unwrap();
                assert_eq!((batch.batch(), batch.sequence(), batch.valid()), (8, 10, 80));
                assert!(batch.ids().iter().zip(batch.labels()).all(|(&id, &label)| label == id as i32 + 1));
                batch.ids().iter().step_by(10).copied().collect::<Vec<_>>()
            });
            firsts.collect::<Vec<u32>>()
        };
        let (first, second) = (epoch(0), epoch(1));
        assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), 96);
        assert!(first.iter().all(|start| start % 10 == 0));
        assert_ne!(first, second);
        assert_eq!(first, epoch(0), "asking again gives the same batches");
    }

    #[test]
    fn in_order_covers_the_rest_and_short_data_is_refused() {
        let source = PackedTokens::in_order((0..32u32).collect::<Vec<_>>(), 10, 2).unwrap();
        assert_eq!(source.batches_per_epoch(), 2);
        assert_eq!(source.batch(1).unwrap().batch(), 1);
        assert_eq!(source.batch(1).unwrap().ids()[0], 20);
        assert_eq!(source.batch(2).unwrap(), source.batch(0).unwrap());
        assert!(PackedTokens::in_order(vec![1, 2, 3], 3, 1).is_err());
        assert!(PackedTokens::shuffled(vec![1, 2, 3, 4], 3, 2, 0).is_err());
        assert!(PackedTokens::in_order(vec![1, 2, 3], 0, 1).is_err());
        assert!(PackedTokens::in_order(vec![1, 2, 3], 1, 0).is_err());
    }

    #[test]
    fn permutations_are_uniform_enough() {
        let mut counts = [[0u32; 5]; 5];
        for epoch in 0..5000 {
            for (position, item) in permutation(5, 3, epoch).into_iter().enumerate() {
                counts[position][item] += 1;
            }
        }
        // 1000 expected in each cell, standard deviation 28.
        assert!(counts.iter().flatten().all(|&count| (850..1150).contains(&count)), "{counts:?}");
    }

    #[test]
    fn examples_are_shifted_masked_and_padded() {
        let example = |ids: &[u32], prompt: usize| Example {
            ids: ids.to_vec(),
            learned: (0..ids.len()).map(|i| i >= prompt).collect(),
        };
        let examples = vec![example(&[1, 2, 3], 1), example(&[4, 5, 6, 7, 8], 3)];
        let source = PaddedExamples::new(examples.clone(), 2, 4, 9, None).unwrap();
        let batch = source.batch(0).unwrap();
        assert_eq!(batch.ids(), [1, 2, 3, 9, 4, 5, 6, 7]);
        assert_eq!(batch.labels(), [2, 3, IGNORED, IGNORED, IGNORED, IGNORED, 7, IGNORED]);
        assert_eq!(batch.key_mask().unwrap(), [1, 1, 1, 0, 1, 1, 1, 1]);
        let source = PaddedExamples::new(examples, 1, 100, 9, Some(1)).unwrap();
        assert_eq!((source.batches_per_epoch(), source.batch(0).unwrap().sequence()), (2, 16));
    }

    #[test]
    fn padding_stands_on_the_side_that_is_asked_for() {
        let learned = |learned: [bool; 3]| Example { ids: vec![1, 2, 3], learned: learned.to_vec() };
        let long = Example { ids: (10..26).collect(), learned: vec![true; 16] };
        let source = PaddedExamples::new(vec![learned([true; 3]), learned([false, false, true]), long], 3, 99, 9, None);
        let batch = source.unwrap().padded_on(PaddingSide::Left).batch(0).unwrap();
        let row = |row: usize| row * 16 + 12..row * 16 + 16;
        assert_eq!(&batch.ids()[row(0)], [9, 1, 2, 3]);
        assert_eq!(&batch.key_mask().unwrap()[row(0)], [0, 1, 1, 1]);
        assert_eq!(&batch.labels()[row(0)], [IGNORED, 2, 3, IGNORED], "nothing predicts the first token");
        assert_eq!(&batch.labels()[row(1)], [IGNORED, IGNORED, 3, IGNORED]);
        assert_eq!((&batch.ids()[32..], batch.valid()), (&(10..26).collect::<Vec<u32>>()[..], 2 + 1 + 15));
    }

    #[test]
    fn grouping_by_length_saves_padding_and_keeps_every_example() {
        let example = |index: usize| {
            let length = 1 + (index * 37) % 101;
            Example { ids: vec![index as u32; length], learned: vec![true; length] }
        };
        let source = |seed| PaddedExamples::new((0..503).map(example).collect(), 8, 90, 9999, Some(seed)).unwrap();
        let epoch = |source: &PaddedExamples, epoch: u64| {
            let batches: Vec<HostBatch> = (0..63).map(|index| source.batch(epoch * 63 + index).unwrap()).collect();
            let mut seen: Vec<u32> = batches
                .iter()
                .flat_map(|batch| batch.ids().chunks(batch.sequence()).map(|row| row[0]).collect::<Vec<_>>())
                .collect();
            let positions: usize = batches.iter().map(|batch| batch.ids().len()).sum();
            let order = seen.clone();
            seen.sort_unstable();
            assert_eq!(seen, (0..503).collect::<Vec<u32>>());
            (order, positions)
        };
        let (plain, grouped) = (source(1), source(1).grouped_by_length());
        let ((_, all), (first, fewer)) = (epoch(&plain, 0), epoch(&grouped, 0));
        assert!(fewer * 10 < all * 8, "{fewer} of {all} positions");
        assert_eq!(first, epoch(&source(1).grouped_by_length(), 0).0, "the same seed gives the same order");
        assert_ne!(first, epoch(&grouped, 1).0);
        assert_ne!(first, epoch(&source(2).grouped_by_length(), 0).0);
        let lengths: Vec<usize> = (0..63).map(|index| grouped.batch(index).unwrap().sequence()).collect();
        assert!(lengths.windows(2).any(|pair| pair[0] < pair[1]), "batches do not come by length: {lengths:?}");
    }
}
