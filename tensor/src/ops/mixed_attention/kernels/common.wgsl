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
