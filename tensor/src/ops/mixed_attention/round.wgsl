// Rounds each token's row of queries, keys and values to f16 after dividing it by the power of two of its largest magnitude; the
// heads of queries and keys are turned first, by the angles of the token's position.
//
// A team of invocations takes a row; an invocation handles a vector of the first half of a head together with its partner in the
// second.

enable f16;

struct Params {
    sequence: u32,
    rows: u32,
    // Vectors in half a head.
    half: u32,
    // Bounds of the exponents.
    lowest: i32,
    highest: i32,
    // Offsets in vectors.
    cosines_offset: u32,
    sines_offset: u32,
    // Of queries, keys and values: pairs of vectors in a row, and vectors before the first.
    pairs: array<u32, 3>,
    offsets: array<u32, 3>,
}

@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> v: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> cosines: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> sines: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> q_values: array<vec4<f16>>;
@group(0) @binding(6) var<storage, read_write> k_values: array<vec4<f16>>;
@group(0) @binding(7) var<storage, read_write> v_values: array<vec4<f16>>;
@group(0) @binding(8) var<storage, read_write> q_scales: array<f32>;
@group(0) @binding(9) var<storage, read_write> k_scales: array<f32>;
@group(0) @binding(10) var<storage, read_write> v_scales: array<f32>;
var<immediate> params: Params;

// Invocations that share a row: whole subgroups, a power of two of them, at most 256.
override TEAM: u32;

var<workgroup> scratch: array<u32, 8>;

struct Pair {
    low: vec4<f32>,
    high: vec4<f32>,
}

// A row of one of the operands.
struct Row {
    operand: u32,
    number: u32,
    pairs: u32,
    offset: u32,
}

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let lane = local % TEAM;
    let place = (group.y * groups.x + group.x) * (256u / TEAM) + local / TEAM;
    // Teams without a row compute the last one and write nothing.
    let present = place < params.rows;
    let row = Row(group.z, min(place, params.rows - 1u), params.pairs[group.z], params.offsets[group.z]);
    let last = row.pairs - 1u;
    // Most rows have no more than two pairs for each invocation; those stay in registers.
    let first = pair_at(row, min(lane, last));
    let second = pair_at(row, min(lane + TEAM, last));
    var largest = max(magnitudes(first), magnitudes(second));
    for (var i = lane + 2u * TEAM; i < row.pairs; i += TEAM) {
        largest = max(largest, magnitudes(pair_at(row, i)));
    }
    scratch[local / 32u] = subgroupMax(max(max(largest.x, largest.y), max(largest.z, largest.w)));
    workgroupBarrier();
    var bits = 0u;
    for (var i = 0u; i < TEAM / 32u; i += 1u) {
        bits = max(bits, scratch[local / TEAM * (TEAM / 32u) + i]);
    }
    if (!present) {
        return;
    }
    let exponent = clamp(i32(bits >> 23u) - 127, params.lowest, params.highest);
    if (lane == 0u) {
        write_scale(row, power_of_two(exponent));
    }
    let factor = power_of_two(-exponent);
    if (lane < row.pairs) {
        write(row, lane, first, factor);
    }
    if (lane + TEAM < row.pairs) {
        write(row, lane + TEAM, second, factor);
    }
    for (var i = lane + 2u * TEAM; i < row.pairs; i += TEAM) {
        write(row, i, pair_at(row, i), factor);
    }
}

// The vector of the first half of a head.
fn place_of(row: Row, i: u32) -> u32 {
    return row.number * 2u * row.pairs + vector_of(i);
}

// Its place in the row.
fn vector_of(i: u32) -> u32 {
    return i / params.half * 2u * params.half + i % params.half;
}

fn pair_at(row: Row, i: u32) -> Pair {
    let low_place = row.offset + place_of(row, i);
    let high_place = low_place + params.half;
    if (row.operand == 2u) {
        return Pair(v[low_place], v[high_place]);
    }
    var low = vec4<f32>();
    var high = vec4<f32>();
    if (row.operand == 0u) {
        low = q[low_place];
        high = q[high_place];
    } else {
        low = k[low_place];
        high = k[high_place];
    }
    let angle = row.number % params.sequence * params.half + i % params.half;
    let cosine = cosines[params.cosines_offset + angle];
    let sine = sines[params.sines_offset + angle];
    return Pair(low * cosine - high * sine, high * cosine + low * sine);
}

fn write(row: Row, i: u32, pair: Pair, factor: f32) {
    let low_place = place_in_storage(row.number, vector_of(i), 2u * row.pairs);
    let high_place = place_in_storage(row.number, vector_of(i) + params.half, 2u * row.pairs);
    let low = vec4<f16>(pair.low * factor);
    let high = vec4<f16>(pair.high * factor);
    switch row.operand {
        case 0u: {
            q_values[low_place] = low;
            q_values[high_place] = high;
        }
        case 1u: {
            k_values[low_place] = low;
            k_values[high_place] = high;
        }
        default: {
            v_values[low_place] = low;
            v_values[high_place] = high;
        }
    }
}

fn write_scale(row: Row, scale: f32) {
    switch row.operand {
        case 0u: {
            q_scales[row.number] = scale;
        }
        case 1u: {
            k_scales[row.number] = scale;
        }
        default: {
            v_scales[row.number] = scale;
        }
    }
}

// Magnitudes are in the order of their bits, NaN the largest.
fn magnitudes(pair: Pair) -> vec4<u32> {
    let all = vec4<u32>(0x7fffffffu);
    return max(bitcast<vec4<u32>>(pair.low) & all, bitcast<vec4<u32>>(pair.high) & all);
}
