struct Params {
    batch: u32,
    heads: u32,
    kv_heads: u32,
    sequence: u32,
    row_blocks: u32,
    // Query i sees the keys up to i + query_offset; as large as the sequence where all are seen.
    query_offset: u32,
    // 1 if there is a mask, else the binding is not read; then its first element, and its strides of batch and key.
    is_masked: u32,
    mask_offset: u32,
    mask_batch: u32,
    mask_key: u32,
    // Vectors before the first row of the tables.
    cosines_offset: u32,
    sines_offset: u32,
    scale: f32,
}
var<immediate> params: Params;

// Below every score; stands for a score that is not seen (WGSL has no literal for -inf).
const LOWEST: f32 = -3.0e38;
const LOG2_E: f32 = 1.4426950408889634;
// Probabilities are at most 1, and f16 ends at 65504.
const PROBABILITY: f32 = 16384.0;
