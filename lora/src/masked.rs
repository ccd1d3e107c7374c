//! Batches for masked language modelling.

use std::sync::Arc;

use crate::batch::{BatchSource, HostBatch, IGNORED};
use crate::error::{LoraError, Result};
use crate::sources::{Batching, label, mix, padded_length};

/// Share of tokens that are to be told.
const TOLD: f64 = 0.15;
/// Of these, the share that the mask takes the place of; as many of the rest become a random token as stay as they are.
const MASKED: f64 = 0.8;
const RANDOM: f64 = 0.1;

/// The tokens that masking needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaskingTokens {
    /// Stands in the place of a token that is to be told.
    pub mask: u32,
    /// Fills up short sequences.
    pub padding: u32,
    /// Tokens that are never to be told: the mask, padding, and those that begin and end sequences.
    pub special: Vec<u32>,
    /// Size of the vocabulary that random tokens are drawn from.
    pub vocabulary: u32,
}

/// Sequences in which 15 % of the tokens are to be told (BERT's task): 80 % of these are replaced by the mask, 10 % by a
/// random token, and 10 % stay. Labels are the tokens themselves, at their own positions.
///
/// Which tokens, is a function of the seed, the sequence's number and the epoch, so that every epoch asks for others.
/// Sequences are padded on the right to the longest of each batch, rounded up.
#[derive(Debug)]
pub struct MaskedSequences {
    sequences: Arc<[Vec<u32>]>,
    tokens: MaskingTokens,
    seed: u64,
    changing: bool,
    batching: Batching,
}

impl MaskedSequences {
    /// Batches in a fresh order every epoch, each with other masks, decided by `seed`. Sequences include the tokens that
    /// begin and end them, and are as long as they may be.
    ///
    /// # Errors
    /// [`LoraError::Setting`] for no sequences, an empty one, or a batch of 0.
    pub fn shuffled(sequences: Vec<Vec<u32>>, tokens: MaskingTokens, batch: usize, seed: u64) -> Result<Self> {
        Self::new(sequences, tokens, batch, seed, true)
    }

    /// Batches in their own order with masks that stay, decided by `seed`: for validation.
    ///
    /// # Errors
    /// As [`MaskedSequences::shuffled`].
    pub fn in_order(sequences: Vec<Vec<u32>>, tokens: MaskingTokens, batch: usize, seed: u64) -> Result<Self> {
        Self::new(sequences, tokens, batch, seed, false)
    }

    fn new(sequences: Vec<Vec<u32>>, tokens: MaskingTokens, batch: usize, seed: u64, changing: bool) -> Result<Self> {
        if sequences.is_empty() || sequences.iter().any(Vec::is_empty) {
            let message = "there are no sequences, or one has no tokens".into();
            return Err(LoraError::Setting { setting: "data", message });
        }
        let batching = Batching::keeping_last(sequences.len(), batch, changing.then_some(seed))?;
        Ok(MaskedSequences { sequences: sequences.into(), tokens, seed, changing, batching })
    }

    /// What the model sees and what it has to tell, for one sequence in one epoch.
    fn masked(&self, row: usize, epoch: u64) -> Result<(Vec<u32>, Vec<i32>)> {
        let key = mix(self.seed ^ mix(row as u64 ^ mix(epoch ^ MASKS)));
        let random = |place: usize, number: u64| {
            mix(key.wrapping_add((3 * place as u64 + number).wrapping_mul(0x9e37_79b9_7f4a_7c15)))
        };
        let uniform = |bits: u64| (bits >> 11) as f64 / (1u64 << 53) as f64;
        let (mut seen, mut labels) = (Vec::new(), Vec::new());
        for (place, &token) in self.sequences[row].iter().enumerate() {
            if self.tokens.special.contains(&token) || uniform(random(place, 0)) >= TOLD {
                seen.push(token);
                labels.push(IGNORED);
                continue;
            }
            let kind = uniform(random(place, 1));
            seen.push(if kind < MASKED {
                self.tokens.mask
            } else if kind < MASKED + RANDOM {
                // The high half of a product maps 64 random bits onto the vocabulary.
                ((u128::from(random(place, 2)) * u128::from(self.tokens.vocabulary)) >> 64) as u32
            } else {
                token
            });
            labels.push(label(token)?);
        }
        Ok((seen, labels))
    }
}

/// Keeps masks apart from the order of the sequences, which follows from the same seed.
const MASKS: u64 = 0x6d61_736b_6564;

impl BatchSource for MaskedSequences {
    fn batches_per_epoch(&self) -> u64 {
        self.batching.batches_per_epoch()
    }

    fn batch(&self, index: u64) -> Result<HostBatch> {
        let epoch = if self.changing { index / self.batches_per_epoch() } else { 0 };
        let rows = self.batching.items(index);
        let longest = rows.iter().map(|&row| self.sequences[row].len()).max().unwrap_or(1);
        let length = padded_length(longest);
        let (mut ids, mut labels, mut mask) = (Vec::new(), Vec::new(), Vec::new());
        for &row in &rows {
            let (seen, told) = self.masked(row, epoch)?;
            let padding = length - seen.len();
            mask.extend(std::iter::repeat_n(1, seen.len()).chain(std::iter::repeat_n(0, padding)));
            ids.extend(seen.into_iter().chain(std::iter::repeat_n(self.tokens.padding, padding)));
            labels.extend(told.into_iter().chain(std::iter::repeat_n(IGNORED, padding)));
        }
        HostBatch::new(rows.len(), length, ids, labels, Some(mask))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens() -> MaskingTokens {
        MaskingTokens { mask: 4, padding: 0, special: vec![0, 1, 2, 3, 4], vocabulary: 1000 }
    }

    /// Sequences between the tokens 1 and 2, of several lengths.
    fn sequences(count: usize) -> Vec<Vec<u32>> {
        let inside = |row: usize| (0..100 + row % 7).map(move |place| 5 + ((row * 31 + place * 17) % 995) as u32);
        (0..count).map(|row| [1].into_iter().chain(inside(row)).chain([2]).collect()).collect()
    }

    #[test]
    fn the_shares_are_berts() {
        let source = MaskedSequences::shuffled(sequences(400), tokens(), 400, 7).unwrap();
        let batch = source.batch(0).unwrap();
        let (mut candidates, mut counts) = (0, [0usize; 3]);
        let mask = batch.key_mask().unwrap();
        for ((&id, &label), &inside) in batch.ids().iter().zip(batch.labels()).zip(mask) {
            if label == IGNORED {
                candidates += usize::from(inside == 1 && id > 4);
                continue;
            }
            assert!(inside == 1 && label > 4, "special tokens and padding are never to be told");
            candidates += 1;
            counts[if id == 4 {
                0
            } else if id as i32 == label {
                2
            } else {
                1
            }] += 1;
        }
        let told = counts.iter().sum::<usize>();
        assert!((candidates as f64 * 0.15 - told as f64).abs() < 300.0, "{told} of {candidates}");
        for (count, share) in counts.into_iter().zip([0.8, 0.1, 0.1]) {
            assert!((count as f64 / told as f64 - share).abs() < 0.015, "{count} of {told}");
        }
    }

    #[test]
    fn every_epoch_asks_for_others_and_validation_for_the_same() {
        let told = |source: &MaskedSequences, epoch: u64| {
            let batches = source.batches_per_epoch();
            let all = (0..batches).map(|index| source.batch(epoch * batches + index).unwrap());
            all.collect::<Vec<_>>()
        };
        let training = MaskedSequences::shuffled(sequences(10), tokens(), 4, 7).unwrap();
        assert_eq!(training.batches_per_epoch(), 3);
        assert_eq!(told(&training, 1), told(&training, 1));
        assert_ne!(told(&training, 0), told(&training, 1));
        let one = MaskedSequences::shuffled(sequences(1), tokens(), 1, 7).unwrap();
        assert_ne!(one.batch(0).unwrap().labels(), one.batch(1).unwrap().labels());
        let other = MaskedSequences::shuffled(sequences(1), tokens(), 1, 8).unwrap();
        assert_ne!(one.batch(0).unwrap().labels(), other.batch(0).unwrap().labels());
        let validation = MaskedSequences::in_order(sequences(10), tokens(), 4, 7).unwrap();
        assert_eq!(told(&validation, 0), told(&validation, 5));
        assert_eq!(validation.batch(2).unwrap().batch(), 2);
        assert_eq!(validation.batch(0).unwrap().sequence() % 16, 0);
        assert!(MaskedSequences::in_order(Vec::new(), tokens(), 4, 7).is_err());
        assert!(MaskedSequences::in_order(vec![Vec::new()], tokens(), 4, 7).is_err());
    }
}
