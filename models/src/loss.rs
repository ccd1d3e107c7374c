//! What the losses of language models share.

use autograd::Var;
use lora::Batch;
use tensor::{Result, Tensor};

/// Elements of the logits that a loss has in memory at once.
const CHUNK_ELEMENTS: usize = 1 << 25;

/// Rows of logits that take about [`CHUNK_ELEMENTS`], a multiple of what matrix kernels have in a tile.
pub(crate) fn chunk_rows(vocabulary: usize) -> usize {
    const TILE: usize = 128;
    (CHUNK_ELEMENTS / vocabulary / TILE * TILE).max(TILE)
}

/// The rows of `hidden [batch, sequence, width]` that a loss is computed of, `[rows, width]`, and their labels i32 `[rows]`:
/// those that have a label where they are few, else all.
pub(crate) fn labelled_rows(hidden: &Var, batch: &Batch) -> Result<(Var, Tensor)> {
    let rows = batch.labels.elements();
    let width = hidden.shape()[hidden.shape().len() - 1];
    let hidden = hidden.reshape(&[rows, width])?;
    match &batch.labelled {
        Some(labelled) => Ok((hidden.index_select(0, &labelled.positions)?, labelled.labels.clone())),
        None => Ok((hidden, batch.labels.reshape(&[rows])?)),
    }
}
