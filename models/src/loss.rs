//! What the losses of language models share.

/// Elements of the logits that a loss has in memory at once.
const CHUNK_ELEMENTS: usize = 1 << 26;

/// Rows of logits that take about [`CHUNK_ELEMENTS`], a multiple of what matrix kernels have in a tile.
pub(crate) fn chunk_rows(vocabulary: usize) -> usize {
    const TILE: usize = 128;
    (CHUNK_ELEMENTS / vocabulary / TILE * TILE).max(TILE)
}
