struct Params {
    // Element offset, then strides of batch, sequence and head.
    q: vec4<u32>,
    k: vec4<u32>,
    v: vec4<u32>,
    upstream: vec4<u32>,
    // Element offset, then strides of batch and key; 1 if there is a mask, else 0 and the binding is not read.
    mask: vec4<u32>,
    batch: u32,
    heads: u32,
    kv_heads: u32,
    queries: u32,
    keys: u32,
    // Query i sees the keys up to i + query_offset; as large as the keys where all are seen.
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
    return key <= query + vec4<u32>(params.query_offset);
}

// The end of the keys that a query before `query_end` sees.
fn key_end(query_end: u32) -> u32 {
    return min(params.keys, query_end + params.query_offset);
}

// Whether a key exists and is not hidden by the mask.
fn keep(batch: u32, key: u32) -> bool {
    if (key >= params.keys) {
        return false;
    }
    if (params.mask.w == 0u) {
        return true;
    }
    return key_mask[params.mask.x + batch * params.mask.y + key * params.mask.z] != 0u;
}

fn keep4(batch: u32, key: vec4<u32>) -> vec4<bool> {
    return vec4<bool>(keep(batch, key.x), keep(batch, key.y), keep(batch, key.z), keep(batch, key.w));
}
