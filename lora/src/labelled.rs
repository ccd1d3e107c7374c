//! Batches of whole sequences with one label each: classes, or scores.

use crate::batch::{BatchSource, HostBatch};
use crate::error::{LoraError, Result};
use crate::sources::Batching;

/// One label for each of some sequences.
#[derive(Clone, Debug, PartialEq)]
pub enum SequenceLabels {
    /// Classes, counted from 0.
    Classes(Vec<i32>),
    /// Numbers to predict.
    Scores(Vec<f32>),
}

impl SequenceLabels {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            SequenceLabels::Classes(classes) => classes.len(),
            SequenceLabels::Scores(scores) => scores.len(),
        }
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Sequences of their own lengths with a label each, padded on the right to the longest of each batch, rounded up so
/// that few different shapes occur.
#[derive(Debug)]
pub struct LabelledSequences {
    sequences: Vec<Vec<u32>>,
    labels: SequenceLabels,
    padding_id: u32,
    longest: usize,
    batching: Batching,
}

/// Sequence lengths are multiples of this, except that none exceeds the longest sequence of all.
const LENGTH_STEP: usize = 8;

impl LabelledSequences {
    /// Batches of `batch` sequences; with a seed in a fresh order every epoch, and without one in their own order. The
    /// last batch may be smaller.
    ///
    /// # Errors
    /// [`LoraError::Setting`] for no sequences, an empty one, another number of labels, or batches of none.
    pub fn new(
        sequences: Vec<Vec<u32>>,
        labels: SequenceLabels,
        batch: usize,
        padding_id: u32,
        seed: Option<u64>,
    ) -> Result<Self> {
        let longest = sequences.iter().map(Vec::len).max().unwrap_or(0);
        if sequences.len() != labels.len() || sequences.iter().any(Vec::is_empty) || longest == 0 {
            let message = format!(
                "{} sequences with {} labels; there must be some, none of them empty, with one label each",
                sequences.len(),
                labels.len()
            );
            return Err(LoraError::Setting { setting: "data", message });
        }
        let batching = Batching::keeping_last(sequences.len(), batch, seed)?;
        Ok(LabelledSequences { sequences, labels, padding_id, longest, batching })
    }

    /// As [`crate::PaddedExamples::grouped_by_length`].
    #[must_use]
    pub fn grouped_by_length(self) -> Self {
        let lengths = self.sequences.iter().map(Vec::len).collect();
        LabelledSequences { batching: self.batching.grouped_by(lengths), ..self }
    }

    /// The labels, in the order of the sequences.
    pub fn labels(&self) -> &SequenceLabels {
        &self.labels
    }

    /// Tokens of all sequences, padding not counted.
    pub fn tokens(&self) -> usize {
        self.sequences.iter().map(Vec::len).sum()
    }
}

impl BatchSource for LabelledSequences {
    fn batches_per_epoch(&self) -> u64 {
        self.batching.batches_per_epoch()
    }

    fn batch(&self, index: u64) -> Result<HostBatch> {
        let items = self.batching.items(index);
        let needed = items.iter().map(|&item| self.sequences[item].len()).max().unwrap_or(0);
        let sequence = needed.next_multiple_of(LENGTH_STEP).min(self.longest);
        let (mut ids, mut mask) = (Vec::new(), Vec::new());
        for &item in &items {
            let tokens = &self.sequences[item];
            let padding = sequence - tokens.len();
            ids.extend_from_slice(tokens);
            ids.extend(std::iter::repeat_n(self.padding_id, padding));
            mask.extend(std::iter::repeat_n(1, tokens.len()));
            mask.extend(std::iter::repeat_n(0, padding));
        }
        match &self.labels {
            SequenceLabels::Classes(classes) => {
                let classes = items.iter().map(|&item| classes[item]).collect();
                HostBatch::classes(items.len(), sequence, ids, classes, Some(mask))
            }
            SequenceLabels::Scores(scores) => {
                let scores = items.iter().map(|&item| scores[item]).collect();
                HostBatch::scores(items.len(), sequence, ids, scores, Some(mask))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequences() -> Vec<Vec<u32>> {
        (1..=12).map(|length| (0..length).collect()).collect()
    }

    #[test]
    fn sequences_are_padded_to_few_lengths_with_their_labels() {
        let classes = SequenceLabels::Classes((0..12).collect());
        let source = LabelledSequences::new(sequences(), classes, 5, 99, None).unwrap();
        assert_eq!((source.batches_per_epoch(), source.tokens()), (3, 78));
        let first = source.batch(0).unwrap();
        assert_eq!((first.batch(), first.sequence(), first.labels()), (5, 8, &[0, 1, 2, 3, 4][..]));
        assert_eq!(&first.ids()[8..16], [0, 1, 99, 99, 99, 99, 99, 99]);
        assert_eq!(&first.key_mask().unwrap()[8..16], [1, 1, 0, 0, 0, 0, 0, 0]);
        let last = source.batch(2).unwrap();
        assert_eq!((last.batch(), last.sequence(), last.labels()), (2, 12, &[10, 11][..]), "never beyond the longest");
    }

    #[test]
    fn shuffled_epochs_hold_every_sequence_once() {
        let scores = SequenceLabels::Scores((0..12).map(|score| score as f32 / 2.0).collect());
        let source = LabelledSequences::new(sequences(), scores, 5, 0, Some(3)).unwrap();
        let epoch = |epoch: u64| -> Vec<f32> {
            (0..3).flat_map(|batch| source.batch(epoch * 3 + batch).unwrap().score_values().to_vec()).collect()
        };
        let mut first = epoch(0);
        assert_ne!(first, epoch(1));
        let scores = SequenceLabels::Scores((0..12).map(|score| score as f32).collect());
        let grouped = LabelledSequences::new(sequences(), scores, 3, 0, Some(3)).unwrap().grouped_by_length();
        for index in 0..4 {
            // Sequence number n has n + 1 tokens, and all fit one stretch: neighbours by length, each with its label.
            let mut scores = grouped.batch(index).unwrap().score_values().to_vec();
            scores.sort_by(f32::total_cmp);
            assert_eq!((scores[0] % 3.0, scores[2] - scores[0]), (0.0, 2.0), "{scores:?}");
        }
        first.sort_by(f32::total_cmp);
        assert_eq!(first, (0..12).map(|score| score as f32 / 2.0).collect::<Vec<_>>());
    }

    #[test]
    fn sequences_that_cannot_be_batches_are_refused() {
        let classes = |count| SequenceLabels::Classes(vec![0; count]);
        assert!(LabelledSequences::new(sequences(), classes(11), 5, 0, None).is_err());
        assert!(LabelledSequences::new(sequences(), classes(12), 0, 0, None).is_err());
        assert!(LabelledSequences::new(vec![vec![]], classes(1), 1, 0, None).is_err());
        assert!(LabelledSequences::new(vec![], classes(0), 1, 0, None).is_err());
    }
}
