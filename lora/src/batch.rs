//! Batches of token sequences: on the host, where data sources make them, and on the device, where models read them.

use tensor::{Device, Tensor};

use crate::error::{LoraError, Result};

/// The label of positions that do not count.
pub const IGNORED: i32 = -100;

/// A batch on the host, row-major `[batch, sequence]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostBatch {
    batch: usize,
    sequence: usize,
    ids: Vec<u32>,
    labels: Vec<i32>,
    key_mask: Option<Vec<u32>>,
}

impl HostBatch {
    /// A batch of `batch` sequences of `sequence` tokens.
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
        let mask_length = key_mask.as_ref().map_or(batch * sequence, Vec::len);
        if [ids.len(), labels.len(), mask_length] != [batch * sequence; 3] {
            return Err(LoraError::Setting {
                setting: "batch",
                message: format!(
                    "{batch} sequences of {sequence} tokens need as many ids, labels and mask values as that; found \
                     {}, {} and {mask_length}",
                    ids.len(),
                    labels.len()
                ),
            });
        }
        Ok(HostBatch { batch, sequence, ids, labels, key_mask })
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

    /// Labels, `[batch, sequence]`.
    pub fn labels(&self) -> &[i32] {
        &self.labels
    }

    /// The padding mask, `[batch, sequence]`, where there is one.
    pub fn key_mask(&self) -> Option<&[u32]> {
        self.key_mask.as_deref()
    }

    /// How many labels count.
    pub fn valid(&self) -> usize {
        self.labels.iter().filter(|&&label| label != IGNORED).count()
    }

    /// Copies the batch to a device.
    ///
    /// # Errors
    /// The device's own errors.
    pub fn to_device(&self, device: &Device) -> Result<Batch> {
        let shape = [self.batch, self.sequence];
        Ok(Batch {
            ids: Tensor::from_slice(device, &shape, &self.ids)?,
            labels: Tensor::from_slice(device, &shape, &self.labels)?,
            key_mask: match &self.key_mask {
                Some(mask) => Some(Tensor::from_slice(device, &shape, mask)?),
                None => None,
            },
            valid: self.valid(),
            largest_id: self.ids.iter().copied().max(),
            largest_label: self.labels.iter().copied().max(),
        })
    }
}

/// A batch on a device.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Token ids, u32 `[batch, sequence]`.
    pub ids: Tensor,
    /// Labels, i32 `[batch, sequence]`: `labels[i]` is the target of position `i`, [`IGNORED`] where there is none.
    pub labels: Tensor,
    /// 1 for tokens and 0 for padding, u32 `[batch, sequence]`; `None` when every position is a token.
    pub key_mask: Option<Tensor>,
    /// How many labels count.
    pub valid: usize,
    largest_id: Option<u32>,
    largest_label: Option<i32>,
}

impl Batch {
    /// Checks the ids and labels against a vocabulary, on the host and without reading the device: a kernel that looks
    /// up a row cannot report that it does not exist.
    ///
    /// # Errors
    /// [`LoraError::Setting`] with the first id or label that is too large.
    pub fn check_vocabulary(&self, vocabulary: usize) -> Result<()> {
        let largest =
            self.largest_id.map(u64::from).max(self.largest_label.and_then(|label| u64::try_from(label).ok()));
        match largest {
            Some(id) if id >= vocabulary as u64 => Err(LoraError::Setting {
                setting: "batch",
                message: format!(
                    "token id {id} is not in the model's vocabulary of {vocabulary}; the data was tokenised for \
                     another model"
                ),
            }),
            _ => Ok(()),
        }
    }
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
        assert_eq!(batch.valid(), 2);
        let uploaded = batch.to_device(&Device::cpu()).unwrap();
        assert_eq!(uploaded.ids.to_vec::<u32>().unwrap(), [5, 6, 7]);
        assert_eq!(uploaded.labels.to_vec::<i32>().unwrap(), [6, IGNORED, 9]);
        assert_eq!(uploaded.key_mask.as_ref().unwrap().to_vec::<u32>().unwrap(), [1, 1, 0]);
        assert!(uploaded.check_vocabulary(10).is_ok());
        assert!(uploaded.check_vocabulary(9).unwrap_err().to_string().contains("token id 9"));
    }
}
