enable f16;
// Computes rows and rounds each to f16 after dividing it by the power of two of its largest magnitude.

struct Params {
    rows: u32,
    columns: u32,
    // Vectors of four in a row, the last padded with zeros.
    vectors: u32,
    // Bounds of the exponents.
    lowest: i32,
    highest: i32,
    // What the kernels' own texts compute with.
    epsilon: f32,
    scale: f32,
    ignore: i32,
    // Of the inputs; of a rounded one's powers of two.
    offsets: array<u32, 3>,
}

var<immediate> params: Params;

// Invocations that share a row, or two rows of a tile: a power of two, at most as many as a workgroup has.
override TEAM: u32;

@group(0) @binding(0) var<storage, read_write> gate_values: array<vec2<u32>>;
@group(0) @binding(1) var<storage, read_write> gate_scales: array<f32>;
@group(0) @binding(2) var<storage, read_write> up_values: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read_write> up_scales: array<f32>;
@group(0) @binding(4) var<storage, read_write> upstream: array<f32>;
@group(0) @binding(5) var<storage, read_write> values0: array<vec4<f16>>;
@group(0) @binding(6) var<storage, read_write> values1: array<vec4<f16>>;
@group(0) @binding(7) var<storage, read_write> scales: array<f32>;
fn rounded(value: vec4<f32>) -> vec4<f16> {
    return vec4<f16>(value);
}
fn gate_at(row: u32, vector: u32) -> vec2<u32> {
    return gate_values[row * params.vectors + vector];
}
fn up_at(row: u32, vector: u32) -> vec2<u32> {
    return up_values[row * params.vectors + vector];
}
fn upstream_at(row: u32, vector: u32) -> vec4<f32> {
    let start = params.offsets[2] + row * params.columns;
    let last = params.columns - 1u;
    let column = vec4<u32>(0u, 1u, 2u, 3u) + 4u * vector;
    let read = vec4<f32>(upstream[start + min(column.x, last)], upstream[start + min(column.y, last)],
        upstream[start + min(column.z, last)], upstream[start + min(column.w, last)]);
    return select(vec4<f32>(), read, column <= vec4<u32>(last));
}
var<workgroup> sums: array<f32, 256>;
var<workgroup> largest_of: array<vec2<u32>, 256>;

// The sum over a row's team.
fn team_sum(value: f32, local: u32, lane: u32) -> f32 {
    sums[local] = value;
    workgroupBarrier();
    for (var width = TEAM; width > 1u; width = max(width / 4u, 1u)) {
        let step = max(width / 4u, 1u);
        if (lane < step) {
            var total = sums[local];
            for (var other = lane + step; other < width; other += step) {
                total += sums[local + other - lane];
            }
            sums[local] = total;
        }
        workgroupBarrier();
    }
    return sums[local - lane];
}

// The maximum over a row's team.
fn team_max(value: vec2<u32>, local: u32, lane: u32) -> vec2<u32> {
    largest_of[local] = value;
    workgroupBarrier();
    for (var width = TEAM; width > 1u; width = max(width / 4u, 1u)) {
        let step = max(width / 4u, 1u);
        if (lane < step) {
            var largest = largest_of[local];
            for (var other = lane + step; other < width; other += step) {
                largest = max(largest, largest_of[local + other - lane]);
            }
            largest_of[local] = largest;
        }
        workgroupBarrier();
    }
    return largest_of[local - lane];
}

// Bits of the largest |x|: magnitudes are in the order of their bits, NaN the largest.
fn magnitude(value: vec4<f32>) -> u32 {
    let bits = bitcast<vec4<u32>>(value) & vec4<u32>(0x7fffffffu);
    return max(max(bits.x, bits.y), max(bits.z, bits.w));
}

fn exponent_of(magnitude: u32) -> i32 {
    return clamp(i32(magnitude >> 23u) - 127, params.lowest, params.highest);
}

fn unpacked(words: vec2<u32>) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y));
}

fn outputs(gate: vec4<f32>, up: vec4<f32>, upstream: vec4<f32>, total: f32) -> array<vec4<f32>, 2> {
    let s = 1.0 / (1.0 + exp(-gate));
    return array<vec4<f32>, 2>(upstream * up * (s * (1.0 + gate * (1.0 - s))), upstream * (gate * s));
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
    let row = min(place, params.rows - 1u);
    let gate_scale = gate_scales[params.offsets[0] + row];
    let up_scale = up_scales[params.offsets[1] + row];
    var total = 0.0;
    var largest = vec2<u32>();
    for (var first = lane; first < params.vectors; first += 4u * TEAM) {
        let gate0 = gate_at(row, min(first + 0u * TEAM, params.vectors - 1u));
        let up0 = up_at(row, min(first + 0u * TEAM, params.vectors - 1u));
        let upstream0 = upstream_at(row, min(first + 0u * TEAM, params.vectors - 1u));
        let gate1 = gate_at(row, min(first + 1u * TEAM, params.vectors - 1u));
        let up1 = up_at(row, min(first + 1u * TEAM, params.vectors - 1u));
        let upstream1 = upstream_at(row, min(first + 1u * TEAM, params.vectors - 1u));
        let gate2 = gate_at(row, min(first + 2u * TEAM, params.vectors - 1u));
        let up2 = up_at(row, min(first + 2u * TEAM, params.vectors - 1u));
        let upstream2 = upstream_at(row, min(first + 2u * TEAM, params.vectors - 1u));
        let gate3 = gate_at(row, min(first + 3u * TEAM, params.vectors - 1u));
        let up3 = up_at(row, min(first + 3u * TEAM, params.vectors - 1u));
        let upstream3 = upstream_at(row, min(first + 3u * TEAM, params.vectors - 1u));
        let made0 = outputs(unpacked(gate0) * gate_scale, unpacked(up0) * up_scale, upstream0, total);
        largest = max(largest, vec2<u32>(magnitude(made0[0]), magnitude(made0[1])));
        let made1 = outputs(unpacked(gate1) * gate_scale, unpacked(up1) * up_scale, upstream1, total);
        largest = max(largest, vec2<u32>(magnitude(made1[0]), magnitude(made1[1])));
        let made2 = outputs(unpacked(gate2) * gate_scale, unpacked(up2) * up_scale, upstream2, total);
        largest = max(largest, vec2<u32>(magnitude(made2[0]), magnitude(made2[1])));
        let made3 = outputs(unpacked(gate3) * gate_scale, unpacked(up3) * up_scale, upstream3, total);
        largest = max(largest, vec2<u32>(magnitude(made3[0]), magnitude(made3[1])));
    }
    largest = team_max(largest, local, lane);
    let exponent0 = exponent_of(largest.x);
    let factor0 = power_of_two(-exponent0);
    let exponent1 = exponent_of(largest.y);
    let factor1 = power_of_two(-exponent1);
    if (lane == 0u && present) {
        scales[0u * params.rows + row] = power_of_two(exponent0);
        scales[1u * params.rows + row] = power_of_two(exponent1);
    }
    for (var first = lane; first < params.vectors; first += 4u * TEAM) {
        let gate0 = gate_at(row, min(first + 0u * TEAM, params.vectors - 1u));
        let up0 = up_at(row, min(first + 0u * TEAM, params.vectors - 1u));
        let upstream0 = upstream_at(row, min(first + 0u * TEAM, params.vectors - 1u));
        let gate1 = gate_at(row, min(first + 1u * TEAM, params.vectors - 1u));
        let up1 = up_at(row, min(first + 1u * TEAM, params.vectors - 1u));
        let upstream1 = upstream_at(row, min(first + 1u * TEAM, params.vectors - 1u));
        let gate2 = gate_at(row, min(first + 2u * TEAM, params.vectors - 1u));
        let up2 = up_at(row, min(first + 2u * TEAM, params.vectors - 1u));
        let upstream2 = upstream_at(row, min(first + 2u * TEAM, params.vectors - 1u));
        let gate3 = gate_at(row, min(first + 3u * TEAM, params.vectors - 1u));
        let up3 = up_at(row, min(first + 3u * TEAM, params.vectors - 1u));
        let upstream3 = upstream_at(row, min(first + 3u * TEAM, params.vectors - 1u));
        if (present && first + 0u * TEAM < params.vectors) {
            let made0 = outputs(unpacked(gate0) * gate_scale, unpacked(up0) * up_scale, upstream0, total);
            values0[row * params.vectors + first + 0u * TEAM] = rounded(made0[0] * factor0);
            values1[row * params.vectors + first + 0u * TEAM] = rounded(made0[1] * factor1);
        }
        if (present && first + 1u * TEAM < params.vectors) {
            let made1 = outputs(unpacked(gate1) * gate_scale, unpacked(up1) * up_scale, upstream1, total);
            values0[row * params.vectors + first + 1u * TEAM] = rounded(made1[0] * factor0);
            values1[row * params.vectors + first + 1u * TEAM] = rounded(made1[1] * factor1);
        }
        if (present && first + 2u * TEAM < params.vectors) {
            let made2 = outputs(unpacked(gate2) * gate_scale, unpacked(up2) * up_scale, upstream2, total);
            values0[row * params.vectors + first + 2u * TEAM] = rounded(made2[0] * factor0);
            values1[row * params.vectors + first + 2u * TEAM] = rounded(made2[1] * factor1);
        }
        if (present && first + 3u * TEAM < params.vectors) {
            let made3 = outputs(unpacked(gate3) * gate_scale, unpacked(up3) * up_scale, upstream3, total);
            values0[row * params.vectors + first + 3u * TEAM] = rounded(made3[0] * factor0);
            values1[row * params.vectors + first + 3u * TEAM] = rounded(made3[1] * factor1);
        }
    }
}
