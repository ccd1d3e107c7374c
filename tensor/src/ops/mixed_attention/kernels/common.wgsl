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
const NEVER: u32 = 0xffffffffu;

// The row itself, or the last one there is.
fn last_of(row: u32) -> u32 {
    return min(row, params.sequence - 1u);
}

// The first query that sees a key.
fn first_to_see(batch: u32, key: u32) -> u32 {
    if (key >= params.sequence) {
        return NEVER;
    }
    if (params.is_masked != 0u && key_mask[params.mask_offset + batch * params.mask_batch + key * params.mask_key] == 0u) {
        return NEVER;
    }
    return key - min(key, params.query_offset);
}

// A query sees the keys whose first one to see them is below this.
fn position(query: u32) -> u32 {
    return select(0u, query + 1u, query < params.sequence);
}

// Of a power of two.
fn inverse(power: f32) -> f32 {
    return bitcast<f32>(0x7f000000u - bitcast<u32>(power));
}

fn probabilities(scores: vec4<f32>, seen: vec4<bool>) -> vec4<f32> {
    return select(vec4<f32>(), exp2(scores), seen);
}

fn masked(scores: vec4<f32>, seen: vec4<bool>) -> vec4<f32> {
    return select(vec4<f32>(LOWEST), scores, seen);
}

fn largest(value: vec4<f32>) -> f32 {
    return max(max(value.x, value.y), max(value.z, value.w));
}

fn total_of(value: vec4<f32>) -> f32 {
    return (value.x + value.y) + (value.z + value.w);
}

// The largest scales of a batch row, of the operands in the order of scales_at.
fn largest_scales(local: u32, subgroup: u32, lane: u32, tokens: u32) -> vec4<f32> {
    var own = vec4<f32>();
    for (var i = local; i < params.sequence; i += 128u) {
        own = max(own, scales_at(tokens + i));
    }
    own = subgroupMax(own);
    if (lane == 0u) {
        scores[subgroup] = own;
    }
    workgroupBarrier();
    return max(max(scores[0], scores[1]), max(scores[2], scores[3]));
}
