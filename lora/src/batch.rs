//! Batches of token sequences: on the host, where data sources make them, and on the device, where models read them.

use std::ops::Range;

use tensor::{Device, Tensor};

use crate::error::{LoraError, Result};

/// The label of positions and sequences that do not count.
pub const IGNORED: i32 = -100;

/// What a batch's labels are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LabelKind {
    /// A token id for each position, i32 `[batch, sequence]`.
    Tokens,
    /// A class for each sequence, i32 `[batch]`.
    Classes,
    /// A number to predict for each sequence, f32 `[batch]`.
    Scores,
}

impl std::fmt::Display for LabelKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            LabelKind::Tokens => "a token for each position",
            LabelKind::Classes => "a class for each sequence",
            LabelKind::Scores => "a score for each sequence",
        })
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Labels {
    Tokens(Vec<i32>),
    Classes(Vec<i32>),
    Scores(Vec<f32>),
}

/// A batch on the host, row-major `[batch, sequence]`.
#[derive(Clone, Debug, PartialEq)]
pub struct HostBatch {
    batch: usize,
    sequence: usize,
    ids: Vec<u32>,
    labels: Labels,
    key_mask: Option<Vec<u32>>,
}

impl HostBatch {
    /// A batch of `batch` sequences of `sequence` tokens, with a label for each position.
    ///
    /// `labels[i]` is the target of position `i`, already shifted for causal models; [`IGNORED`] where there is none.
    /// `key_mask` is 1 for tokens and 0 for padding; without it every position is a token.
    ///
    /// # Errors
    /// [`LoraError::Setting`] when a length is not `batch · sequence`.
    pub fn new(
        batch: usize,
        sequence: usize,
        ids: Vec<u32>,
        labels: Vec<i32>,
        key_mask: Option<Vec<u32>>,
    ) -> Result<Self> {
        HostBatch { batch, sequence, ids, labels: Labels::Tokens(labels), key_mask }.checked()
    }

    /// A batch of `batch` sequences of `sequence` tokens, with a class `[batch]` for each sequence, counted from 0;
    /// [`IGNORED`] where there is none.
    ///
    /// # Errors
    /// As [`HostBatch::new`], with `batch` labels; also for other negative classes.
    pub fn classes(
        batch: usize,
        sequence: usize,
        ids: Vec<u32>,
        labels: Vec<i32>,
        key_mask: Option<Vec<u32>>,
    ) -> Result<Self> {
        if let Some(label) = labels.iter().find(|&&label| label < 0 && label != IGNORED) {
            return Err(setting(format!("{label} is no class; classes count from 0, and {IGNORED} stands for none")));
        }
        HostBatch { batch, sequence, ids, labels: Labels::Classes(labels), key_mask }.checked()
    }

    /// A batch of `batch` sequences of `sequence` tokens, with a number `[batch]` to predict for each sequence.
    ///
    /// # Errors
    /// As [`HostBatch::new`], with `batch` scores; also for scores that are not finite.
    pub fn scores(
        batch: usize,
        sequence: usize,
        ids: Vec<u32>,
        scores: Vec<f32>,
        key_mask: Option<Vec<u32>>,
    ) -> Result<Self> {
        if let Some(score) = scores.iter().find(|score| !score.is_finite()) {
            return Err(setting(format!("{score} is no score; scores are finite numbers")));
        }
        HostBatch { batch, sequence, ids, labels: Labels::Scores(scores), key_mask }.checked()
    }

    fn checked(self) -> Result<Self> {
        let positions = self.batch * self.sequence;
        let (kind, labels, wanted) = match &self.labels {
            Labels::Tokens(labels) => ("labels", labels.len(), positions),
            Labels::Classes(labels) => ("classes", labels.len(), self.batch),
            Labels::Scores(scores) => ("scores", scores.len(), self.batch),
        };
        let mask = self.key_mask.as_ref().map_or(positions, Vec::len);
        if [self.ids.len(), labels, mask] == [positions, wanted, positions] {
            return Ok(self);
        }
        Err(setting(format!(
            "{} sequences of {} tokens need {positions} ids and mask values and {wanted} {kind}; found {}, {mask} and \
             {labels}",
            self.batch,
            self.sequence,
            self.ids.len()
        )))
    }

    /// Number of sequences.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Length of each sequence.
    pub fn sequence(&self) -> usize {
        self.sequence
    }

    /// Token ids, `[batch, sequence]`.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// What the labels are.
    pub fn kind(&self) -> LabelKind {
        match self.labels {
            Labels::Tokens(_) => LabelKind::Tokens,
            Labels::Classes(_) => LabelKind::Classes,
            Labels::Scores(_) => LabelKind::Scores,
        }
    }

    /// The labels that are integers: tokens `[batch, sequence]` or classes `[batch]`; empty for scores.
    pub fn labels(&self) -> &[i32] {
        match &self.labels {
            Labels::Tokens(labels) | Labels::Classes(labels) => labels,
            Labels::Scores(_) => &[],
        }
    }

    /// The scores, `[batch]`; empty for other kinds of labels.
    pub fn score_values(&self) -> &[f32] {
        match &self.labels {
            Labels::Scores(scores) => scores,
            Labels::Tokens(_) | Labels::Classes(_) => &[],
        }
    }

    /// The padding mask, `[batch, sequence]`, where there is one.
    pub fn key_mask(&self) -> Option<&[u32]> {
        self.key_mask.as_deref()
    }

    /// How many labels count: positions of tokens, sequences of classes and scores.
    pub fn valid(&self) -> usize {
        match &self.labels {
            Labels::Tokens(labels) | Labels::Classes(labels) => {
                labels.iter().filter(|&&label| label != IGNORED).count()
            }
            Labels::Scores(scores) => scores.len(),
        }
    }

    /// Some of the sequences.
    ///
    /// # Panics
    /// If the range goes beyond [`HostBatch::batch`].
    #[must_use]
    pub fn sequences(&self, range: Range<usize>) -> Self {
        let positions = range.start * self.sequence..range.end * self.sequence;
        HostBatch {
            batch: range.len(),
            sequence: self.sequence,
            ids: self.ids[positions.clone()].to_vec(),
            labels: match &self.labels {
                Labels::Tokens(labels) => Labels::Tokens(labels[positions.clone()].to_vec()),
                Labels::Classes(labels) => Labels::Classes(labels[range].to_vec()),
                Labels::Scores(scores) => Labels::Scores(scores[range].to_vec()),
            },
            key_mask: self.key_mask.as_ref().map(|mask| mask[positions].to_vec()),
        }
    }

    /// The same sequences `times` times, one whole batch after another.
    #[must_use]
    pub fn repeated(&self, times: usize) -> Self {
        HostBatch {
            batch: self.batch * times,
            sequence: self.sequence,
            ids: self.ids.repeat(times),
            labels: match &self.labels {
                Labels::Tokens(labels) => Labels::Tokens(labels.repeat(times)),
                Labels::Classes(labels) => Labels::Classes(labels.repeat(times)),
                Labels::Scores(scores) => Labels::Scores(scores.repeat(times)),
            },
            key_mask: self.key_mask.as_ref().map(|mask| mask.repeat(times)),
        }
    }

    /// The positions whose tokens count, where these are at most half of all.
    fn labelled(&self, device: &Device) -> Result<Option<Labelled>> {
        /// Numbers of positions are rounded up to multiples of this, so that there are few different ones.
        const STEP: usize = 32;
        let Labels::Tokens(labels) = &self.labels else { return Ok(None) };
        let mut positions: Vec<u32> =
            (0u32..).zip(labels).filter(|(_, label)| **label != IGNORED).map(|(position, _)| position).collect();
        let count = positions.len();
        let padded = count.next_multiple_of(STEP);
        if count == 0 || padded > labels.len() / 2 {
            return Ok(None);
        }
        let mut chosen: Vec<i32> = positions.iter().map(|&position| labels[position as usize]).collect();
        positions.resize(padded, 0);
        chosen.resize(padded, IGNORED);
        let shape = [padded];
        Ok(Some(Labelled {
            positions: Tensor::from_vec(device, &shape, positions)?,
            labels: Tensor::from_vec(device, &shape, chosen)?,
        }))
    }

    /// Copies the batch to a device.
    ///
    /// # Errors
    /// The device's own errors.
    pub fn to_device(&self, device: &Device) -> Result<Batch> {
        let shape = [self.batch, self.sequence];
        Ok(Batch {
            ids: Tensor::from_slice(device, &shape, &self.ids)?,
            labels: match &self.labels {
                Labels::Tokens(labels) => Tensor::from_slice(device, &shape, labels)?,
                Labels::Classes(labels) => Tensor::from_slice(device, &shape[..1], labels)?,
                Labels::Scores(scores) => Tensor::from_slice(device, &shape[..1], scores)?,
            },
            kind: self.kind(),
            key_mask: match &self.key_mask {
                Some(mask) => Some(Tensor::from_slice(device, &shape, mask)?),
                None => None,
            },
            labelled: self.labelled(device)?,
            valid: self.valid(),
            largest_id: self.ids.iter().copied().max(),
            largest_label: self.labels().iter().copied().max(),
        })
    }
}

/// The positions of a batch that have a label, in their order, and at the end positions that do not count.
#[derive(Clone, Debug)]
pub struct Labelled {
    /// Positions counted over the whole batch, u32 `[count]`.
    pub positions: Tensor,
    /// Their labels, i32 `[count]`; [`IGNORED`] for those that do not count.
    pub labels: Tensor,
}

/// A batch on a device.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Token ids, u32 `[batch, sequence]`.
    pub ids: Tensor,
    /// Labels, of the type and shape that [`LabelKind`] says; [`IGNORED`] where a token or class is not given.
    pub labels: Tensor,
    /// What the labels are.
    pub kind: LabelKind,
    /// 1 for tokens and 0 for padding, u32 `[batch, sequence]`; `None` when every position is a token.
    pub key_mask: Option<Tensor>,
    /// The positions whose tokens count, where these are few: a head needs to be computed there only.
    pub labelled: Option<Labelled>,
    /// How many labels count.
    pub valid: usize,
    largest_id: Option<u32>,
    largest_label: Option<i32>,
}

impl Batch {
    /// Checks the ids, and labels that are tokens, against a vocabulary, on the host and without reading the device: a
    /// kernel that looks up a row cannot report that it does not exist.
    ///
    /// # Errors
    /// [`LoraError::Setting`] with the first id or label that is too large.
    pub fn check_vocabulary(&self, vocabulary: usize) -> Result<()> {
        let label = self.largest_label.filter(|_| self.kind == LabelKind::Tokens);
        let largest = self.largest_id.map(u64::from).max(label.and_then(|label| u64::try_from(label).ok()));
        match largest {
            Some(id) if id >= vocabulary as u64 => Err(setting(format!(
                "token id {id} is not in the model's vocabulary of {vocabulary}; the data was tokenised for another \
                 model"
            ))),
            _ => Ok(()),
        }
    }

    /// Checks labels that are classes against the number of classes a model tells apart, as
    /// [`Batch::check_vocabulary`] does for tokens.
    ///
    /// # Errors
    /// [`LoraError::Setting`] with the largest class when it is too large.
    pub fn check_classes(&self, classes: usize) -> Result<()> {
        match self.largest_label.filter(|_| self.kind == LabelKind::Classes) {
            Some(class) if i64::from(class) >= classes as i64 => {
                Err(setting(format!("class {class} is none of the {classes} that the model's head tells apart")))
            }
            _ => Ok(()),
        }
    }

    /// Checks that the labels are of a kind that a model takes. `model` names it in the message.
    ///
    /// # Errors
    /// [`LoraError::Setting`] with the kind found and those taken.
    pub fn check_kind(&self, model: &str, taken: &[LabelKind]) -> Result<()> {
        if taken.contains(&self.kind) {
            return Ok(());
        }
        let taken = taken.iter().map(LabelKind::to_string).collect::<Vec<_>>().join(" or ");
        Err(setting(format!("{model} learns {taken}; the data has {}", self.kind)))
    }
}

fn setting(message: String) -> LoraError {
    LoraError::Setting { setting: "batch", message }
}

/// Where batches come from. Any batch can be asked for at any time, so that a run resumes by asking for the next one.
pub trait BatchSource {
    /// Batches in one pass over the data.
    fn batches_per_epoch(&self) -> u64;

    /// Batch number `index`, counted from the beginning of training across epochs. The same index always gives the
    /// same batch; how epochs are ordered is the source's own matter.
    ///
    /// # Errors
    /// What keeps the data from being read.
    fn batch(&self, index: u64) -> Result<HostBatch>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_checked_and_labels_counted() {
        assert!(HostBatch::new(2, 2, vec![0; 4], vec![0; 3], None).is_err());
        assert!(HostBatch::new(2, 2, vec![0; 4], vec![0; 4], Some(vec![1; 5])).is_err());
        let batch = HostBatch::new(1, 3, vec![5, 6, 7], vec![6, IGNORED, 9], Some(vec![1, 1, 0])).unwrap();
        assert_eq!((batch.valid(), batch.kind()), (2, LabelKind::Tokens));
        let uploaded = batch.to_device(&Device::cpu()).unwrap();
        assert_eq!(uploaded.ids.to_vec::<u32>().unwrap(), [5, 6, 7]);
        assert_eq!(uploaded.labels.to_vec::<i32>().unwrap(), [6, IGNORED, 9]);
        assert_eq!(uploaded.key_mask.as_ref().unwrap().to_vec::<u32>().unwrap(), [1, 1, 0]);
        assert!(uploaded.check_vocabulary(10).is_ok());
        assert!(uploaded.check_vocabulary(9).unwrap_err().to_string().contains("token id 9"));
    }

    #[test]
    fn positions_that_count_are_listed_where_they_are_few() {
        let mut labels = vec![IGNORED; 96];
        labels[7] = 3;
        labels[90] = 5;
        let batch = HostBatch::new(2, 48, vec![0; 96], labels, None).unwrap();
        let uploaded = batch.to_device(&Device::cpu()).unwrap();
        let labelled = uploaded.labelled.unwrap();
        let (positions, labels) =
            (labelled.positions.to_vec::<u32>().unwrap(), labelled.labels.to_vec::<i32>().unwrap());
        assert_eq!((positions.len(), &positions[..2], &labels[..2]), (32, &[7, 90][..], &[3, 5][..]));
        assert!(labels[2..].iter().all(|&label| label == IGNORED));
        assert_eq!((batch.repeated(3).valid(), batch.repeated(3).batch()), (6, 6));
        let second = batch.sequences(1..2);
        assert_eq!((second.batch(), second.labels()[42], second.valid()), (1, 5, 1));
        let full = HostBatch::new(2, 48, vec![0; 96], vec![1; 96], None).unwrap();
        assert!(full.to_device(&Device::cpu()).unwrap().labelled.is_none());
        let empty = HostBatch::new(2, 48, vec![0; 96], vec![IGNORED; 96], None).unwrap();
        assert!(empty.to_device(&Device::cpu()).unwrap().labelled.is_none());
    }

    #[test]
    fn classes_and_scores_are_one_for_each_sequence() {
        let error = HostBatch::classes(2, 2, vec![0; 4], vec![0; 4], None).unwrap_err().to_string();
        assert!(error.contains("2 classes") && error.contains("found 4, 4 and 4"), "{error}");
        assert!(HostBatch::classes(1, 1, vec![0], vec![-1], None).unwrap_err().to_string().contains("-1 is no class"));
        let classes = HostBatch::classes(3, 2, vec![4; 6], vec![7, IGNORED, 0], None).unwrap();
        assert_eq!((classes.valid(), classes.kind()), (2, LabelKind::Classes));
        let uploaded = classes.to_device(&Device::cpu()).unwrap();
        assert_eq!(uploaded.labels.shape()[..], [3]);
        assert_eq!(uploaded.labels.to_vec::<i32>().unwrap(), [7, IGNORED, 0]);
        assert!(uploaded.check_vocabulary(5).is_ok(), "a class is no token");
        assert!(uploaded.check_classes(8).is_ok());
        assert!(uploaded.check_classes(7).unwrap_err().to_string().contains("class 7"));

        assert!(HostBatch::scores(2, 1, vec![0; 2], vec![0.5], None).is_err());
        assert!(HostBatch::scores(1, 1, vec![0], vec![f32::NAN], None).is_err());
        let scores = HostBatch::scores(2, 1, vec![0; 2], vec![0.5, -3.0], None).unwrap();
        assert_eq!((scores.valid(), scores.labels(), scores.score_values()), (2, &[][..], &[0.5, -3.0][..]));
        let uploaded = scores.to_device(&Device::cpu()).unwrap();
        assert_eq!(uploaded.labels.to_vec::<f32>().unwrap(), [0.5, -3.0]);
        let error = uploaded.check_kind("a", &[LabelKind::Tokens, LabelKind::Classes]).unwrap_err().to_string();
        assert!(error.contains("a learns a token for each position or a class for each sequence"), "{error}");
    }
}
