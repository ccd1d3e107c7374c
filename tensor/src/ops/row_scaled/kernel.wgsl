// Rounds each row to f16 after dividing it by the power of two of its largest magnitude.
//
// A team of TEAM invocations takes a row in two passes; the second finds it in cache. An invocation writes words of two
// elements; rows are padded with zeros to whole words.

struct Params {
    rows: u32,
    columns: u32,
    // Elements from one row of the result to the next: even.
    stride: u32,
    offset: u32,
    // Bounds of the exponents.
    lowest: i32,
    highest: i32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> values: array<u32>;
@group(0) @binding(2) var<storage, read_write> scales: array<f32>;
var<immediate> params: Params;

// A power of two, at most 256.
override TEAM: u32;

var<workgroup> scratch: array<u32, 256>;

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let row = (group.y * groups.x + group.x) * (256u / TEAM) + local / TEAM;
    let lane = local % TEAM;
    // Teams without a row do nothing but wait at the barriers.
    let columns = select(0u, params.columns, row < params.rows);
    let words = select(0u, params.stride / 2u, row < params.rows);
    let start = params.offset + select(0u, row * params.columns, row < params.rows);

    // Magnitudes are in the order of their bits, NaN the largest.
    var largest = 0u;
    for (var i = lane; i < columns; i += TEAM) {
        largest = max(largest, bitcast<u32>(x[start + i]) & 0x7fffffffu);
    }
    largest = team_max(largest, local, lane);
    let exponent = clamp(i32(largest >> 23u) - 127, params.lowest, params.highest);
    if (lane == 0u && row < params.rows) {
        scales[row] = power_of_two(exponent);
    }

    let factor = power_of_two(-exponent);
    for (var word = lane; word < words; word += TEAM) {
        let column = 2u * word;
        var bits = 0u;
        if (column < columns) {
            bits = f16_bits(x[start + column] * factor);
        }
        if (column + 1u < columns) {
            bits |= f16_bits(x[start + column + 1u] * factor) << 16u;
        }
        values[row * words + word] = bits;
    }
}

fn power_of_two(exponent: i32) -> f32 {
    return bitcast<f32>(u32(exponent + 127) << 23u);
}

fn team_max(value: u32, local: u32, lane: u32) -> u32 {
    scratch[local] = value;
    workgroupBarrier();
    for (var step = TEAM / 2u; step > 0u; step /= 2u) {
        if (lane < step) {
            scratch[local] = max(scratch[local], scratch[local + step]);
        }
        workgroupBarrier();
    }
    return scratch[local - lane];
}
