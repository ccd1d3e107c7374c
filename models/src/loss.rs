//! What the losses of language models share.

use autograd::Var;
use lora::Batch;
use tensor::{DType, Device, Result, Tensor};

/// Elements of the logits that a loss has in memory at once.
const CHUNK_ELEMENTS: usize = 1 << 25;

/// Elements up to which there are more on a GPU, where [`CHUNK_ELEMENTS`] are few rows: 512 MiB in f32.
const MOST_ELEMENTS: usize = 1 << 27;

/// Rows from which a GPU's products with the head are as fast as any: 256 rows of LLaMA 3's 128,256 logits take 1.25 times as
/// long a row (NVIDIA H200).
const ENOUGH_ROWS: usize = 1024;

/// Rows of logits that a loss has in memory at once, a multiple of what matrix kernels have in a tile.
pub(crate) fn chunk_rows(vocabulary: usize, device: &Device) -> usize {
    let most = device.adapter().map_or(0, |adapter| adapter.max_binding_bytes as usize / DType::F32.bytes());
    rows_of(vocabulary, most.min(MOST_ELEMENTS))
}

/// As many as [`CHUNK_ELEMENTS`] hold, or up to [`ENOUGH_ROWS`] if `most` elements hold them.
fn rows_of(vocabulary: usize, most: usize) -> usize {
    const TILE: usize = 128;
    let rows = |elements: usize| elements / vocabulary.max(1) / TILE * TILE;
    rows(CHUNK_ELEMENTS).max(rows(most).min(ENOUGH_ROWS)).max(TILE)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_of_many_rows_and_little_memory() {
        let vocabularies = [1_000, 32_000, 50_257, 128_256, 262_144];
        assert_eq!(vocabularies.map(|vocabulary| rows_of(vocabulary, MOST_ELEMENTS)), [33_536, 1024, 1024, 1024, 512]);
        // On the CPU, and on a GPU that binds 128 MiB at once.
        assert_eq!(vocabularies.map(|vocabulary| rows_of(vocabulary, 0)), [33_536, 1024, 640, 256, 128]);
        assert_eq!(rows_of(128_256, (128 << 20) / 4), 256);
        assert_eq!([0, 1 << 30].map(|vocabulary| rows_of(vocabulary, MOST_ELEMENTS)), [1 << 25, 128]);
    }
}
