// Rounds each row to f16 after dividing it by the power of two of its largest magnitude.
//
// A team of TEAM invocations takes a row in two passes; the second finds it in cache. An invocation writes words of two
// elements; rows are padded with zeros to whole words. Each pass asks for several elements before it uses the first, since
// memory is far away.

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
    for (var i = lane; i < columns; i += 4u * TEAM) {
        let a = magnitude(start, i, columns);
        let b = magnitude(start, i + TEAM, columns);
        let c = magnitude(start, i + 2u * TEAM, columns);
        let d = magnitude(start, i + 3u * TEAM, columns);
        largest = max(max(largest, max(a, b)), max(c, d));
    }
    largest = team_max(largest, local, lane);
    let exponent = clamp(i32(largest >> 23u) - 127, params.lowest, params.highest);
    if (lane == 0u && row < params.rows) {
        scales[row] = power_of_two(exponent);
    }

    let factor = power_of_two(-exponent);
    for (var word = lane; word < words; word += 2u * TEAM) {
        let other = word + TEAM;
        let first = pair(start, 2u * word, columns) * factor;
        let second = pair(start, 2u * other, columns) * factor;
        values[row * words + word] = packed(first);
        if (other < words) {
            values[row * words + other] = packed(second);
        }
    }
}

// Bits of |x|; beyond the row's end those of its last element, which change no maximum.
fn magnitude(start: u32, column: u32, columns: u32) -> u32 {
    return bitcast<u32>(x[start + min(column, columns - 1u)]) & 0x7fffffffu;
}

// Two neighbours, zero beyond the row's end.
fn pair(start: u32, column: u32, columns: u32) -> vec2<f32> {
    let last = columns - 1u;
    let read = vec2<f32>(x[start + min(column, last)], x[start + min(column + 1u, last)]);
    return select(vec2<f32>(), read, vec2<u32>(column, column + 1u) < vec2<u32>(columns));
}

fn packed(value: vec2<f32>) -> u32 {
    return f16_bits(value.x) | (f16_bits(value.y) << 16u);
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
