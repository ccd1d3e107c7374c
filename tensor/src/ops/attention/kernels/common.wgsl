struct Params {
    // Element offset, then strides of batch, sequence and head.
    q: vec4<u32>,
    k: vec4<u32>,
    v: vec4<u32>,
    upstream: vec4<u32>,
    // Element offset, then strides of batch and key.
    mask: vec4<u32>,
    batch: u32,
    heads: u32,
    kv_heads: u32,
    queries: u32,
    keys: u32,
    query_offset: u32,
    // Row tiles of the queries, or of the keys where those are the rows.
    row_blocks: u32,
    scale: f32,
}
var<immediate> params: Params;

// Below every score; stands for a score that is not seen (WGSL has no literal for -inf).
const LOWEST: f32 = -3.4e38;

// Tiles have rows of 8 vectors and one more, so that eight rows apart do not meet in the same banks.
var<workgroup> row_tile: array<vec4<f32>, ROWS * 9u>;
var<workgroup> column_tile: array<vec4<f32>, COLUMNS * 9u>;

fn sees(query: vec4<u32>, key: vec4<u32>) -> vec4<bool> {
    return vec4<bool>(!CAUSAL) | (key <= query + vec4<u32>(params.query_offset));
}

// The end of the keys that a query before `query_end` sees.
fn key_end(query_end: u32) -> u32 {
    return select(params.keys, min(params.keys, query_end + params.query_offset), CAUSAL);
}
