// Rounds each token's row to f16 after dividing it by the power of two of its largest magnitude; its heads
// may be turned first, by the angles of the token's position.
//
// A workgroup takes a row in two passes; the second finds it in cache. An invocation handles a vector of the first half of a
// head together with its partner in the second.

enable f16;

struct Params {
    sequence: u32,
    rows: u32,
    // Pairs of vectors in a row.
    pairs: u32,
    // Vectors in half a head.
    half: u32,
    // Offsets in vectors.
    x_offset: u32,
    cosines_offset: u32,
    sines_offset: u32,
    // Whether the heads are turned.
    turned: u32,
    // Bounds of the exponents.
    lowest: i32,
    highest: i32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> cosines: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> sines: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> values: array<vec4<f16>>;
@group(0) @binding(4) var<storage, read_write> scales: array<f32>;
var<immediate> params: Params;

var<workgroup> scratch: array<u32, 8>;

struct Pair {
    low: vec4<f32>,
    high: vec4<f32>,
}

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let row = linear_id(0u, group, groups, 1u);
    if (row >= params.rows) {
        return;
    }
    let last = params.pairs - 1u;
    // Most rows have no more than two pairs for each invocation; those stay in registers.
    let first = pair_at(row, min(local, last));
    let second = pair_at(row, min(local + 256u, last));
    var largest = max(magnitudes(first), magnitudes(second));
    for (var i = local + 512u; i < params.pairs; i += 256u) {
        largest = max(largest, magnitudes(pair_at(row, i)));
    }
    let own = subgroupMax(max(max(largest.x, largest.y), max(largest.z, largest.w)));
    scratch[local / 32u] = own;
    workgroupBarrier();
    var bits = 0u;
    for (var i = 0u; i < 8u; i += 1u) {
        bits = max(bits, scratch[i]);
    }
    let exponent = clamp(i32(bits >> 23u) - 127, params.lowest, params.highest);
    if (local == 0u) {
        scales[row] = power_of_two(exponent);
    }
    let factor = power_of_two(-exponent);
    if (local < params.pairs) {
        write(row, local, first, factor);
    }
    if (local + 256u < params.pairs) {
        write(row, local + 256u, second, factor);
    }
    for (var i = local + 512u; i < params.pairs; i += 256u) {
        write(row, i, pair_at(row, i), factor);
    }
}

fn write(row: u32, i: u32, pair: Pair, factor: f32) {
    let place = place_of(row, i);
    values[place] = vec4<f16>(pair.low * factor);
    values[place + params.half] = vec4<f16>(pair.high * factor);
}

// The vector of the first half of a head.
fn place_of(row: u32, i: u32) -> u32 {
    return row * 2u * params.pairs + i / params.half * 2u * params.half + i % params.half;
}

fn pair_at(row: u32, i: u32) -> Pair {
    let place = params.x_offset + place_of(row, i);
    let low = x[place];
    let high = x[place + params.half];
    if (params.turned == 0u) {
        return Pair(low, high);
    }
    let angle = row % params.sequence * params.half + i % params.half;
    let cosine = cosines[params.cosines_offset + angle];
    let sine = sines[params.sines_offset + angle];
    return Pair(low * cosine - high * sine, high * cosine + low * sine);
}

// Magnitudes are in the order of their bits, NaN the largest.
fn magnitudes(pair: Pair) -> vec4<u32> {
    let all = vec4<u32>(0x7fffffffu);
    return max(bitcast<vec4<u32>>(pair.low) & all, bitcast<vec4<u32>>(pair.high) & all);
}
