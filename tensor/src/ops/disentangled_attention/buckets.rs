//! The table of relative positions' buckets.

use crate::device::Device;
use crate::error::{Result, TensorError};
use crate::tensor::Tensor;

/// Which bucket each relative position i − j of a sequence falls into: near positions have one of their own, far ones
/// share. Buckets grow with the relative position, so that the positions of a bucket are neighbours.
#[derive(Clone, Debug)]
pub struct RelativeBuckets {
    /// u32 `[2·sequence − 1]`: element `t` is the bucket of the relative position `t − (sequence − 1)`.
    pub(super) table: Tensor,
    /// u32 `[count + 1]`: bucket `p` holds the elements `starts[p]..starts[p + 1]` of the table.
    pub(super) starts: Tensor,
    pub(super) sequence: usize,
    pub(super) count: usize,
    /// Positions in the largest bucket.
    pub(super) widest: usize,
    /// Element t of the table is t.
    pub(super) is_identity: bool,
}

impl RelativeBuckets {
    /// Uploads the table for sequences of `(table.len() + 1) / 2` tokens: `table[t]` is the bucket, below `count`, of the
    /// relative position `t − (sequence − 1)`.
    ///
    /// # Errors
    /// [`TensorError::InvalidArgument`] for a table of even length, one that decreases somewhere, or a bucket that is not
    /// below `count`; or the device's own errors.
    pub fn new(device: &Device, table: &[u32], count: usize) -> Result<Self> {
        let wrong = |message: String| TensorError::InvalidArgument { operation: "relative_buckets", message };
        if table.len().is_multiple_of(2) {
            let message = format!("a sequence has an odd number of relative positions; the table has {}", table.len());
            return Err(wrong(message));
        }
        if let Some(place) = table.windows(2).position(|pair| pair[1] < pair[0]) {
            return Err(wrong(format!("the table must not decrease, as it does after element {place}")));
        }
        if table.last().is_some_and(|&last| last as usize >= count) {
            return Err(wrong(format!("the table names a bucket beyond the {count} there are")));
        }
        let start = |bucket: usize| table.partition_point(|&other| (other as usize) < bucket) as u32;
        let starts: Vec<u32> = (0..=count).map(start).collect();
        let widest = starts.windows(2).map(|pair| (pair[1] - pair[0]) as usize).max().unwrap_or(0);
        Ok(RelativeBuckets {
            table: Tensor::from_slice(device, &[table.len()], table)?,
            starts: Tensor::from_vec(device, &[count + 1], starts)?,
            sequence: table.len().div_ceil(2),
            count,
            widest,
            is_identity: table.iter().enumerate().all(|(t, &bucket)| t == bucket as usize),
        })
    }

    /// Length of the sequences that the table is for.
    pub fn sequence(&self) -> usize {
        self.sequence
    }

    /// Number of buckets: rows of the position operands.
    pub fn count(&self) -> usize {
        self.count
    }
}
