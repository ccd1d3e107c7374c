// Rounds a factor to f16 after dividing it by the power of two of its largest magnitude, in two launches, or a small one in
// one.

struct Params {
    offset: u32,
    rows: u32,
    columns: u32,
    // Of the result, which is padded with zeros to whole words.
    padded_columns: u32,
    words: u32,
    // Number of maxima.
    maxima: u32,
    // Bounds of the exponent.
    lowest: i32,
    highest: i32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> maxima: array<u32>;
@group(0) @binding(2) var<storage, read_write> values: array<u32>;
@group(0) @binding(3) var<storage, read_write> scale: array<f32>;
var<immediate> params: Params;

var<workgroup> scratch: array<u32, 256>;

// The largest magnitude among each workgroup's share.
@compute @workgroup_size(256)
fn find_maxima(@builtin(local_invocation_index) local: u32, @builtin(workgroup_id) group: vec3<u32>) {
    let largest = largest_of_share(group.x, local);
    if (local == 0u) {
        maxima[group.x] = largest;
    }
}

@compute @workgroup_size(256)
fn round(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    // There are at most 256 maxima; an invocation beyond them looks at the last again.
    let largest = workgroup_max(maxima[min(local, params.maxima - 1u)], local);
    write_share(largest, group.x, groups.x, local);
}

// There is one share: every workgroup looks at all of the factor.
@compute @workgroup_size(256)
fn round_small(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    write_share(largest_of_share(0u, local), group.x, groups.x, local);
}

fn largest_of_share(share: u32, local: u32) -> u32 {
    let count = params.rows * params.columns;
    let step = 256u * params.maxima;
    var largest = 0u;
    // Four are asked for before the first is used, since memory is far away.
    for (var i = share * 256u + local; i < count; i += 4u * step) {
        let a = magnitude(i, count);
        let b = magnitude(i + step, count);
        let c = magnitude(i + 2u * step, count);
        let d = magnitude(i + 3u * step, count);
        largest = max(max(largest, max(a, b)), max(c, d));
    }
    return workgroup_max(largest, local);
}

fn write_share(largest: u32, group: u32, groups: u32, local: u32) {
    let exponent = clamp(i32(largest >> 23u) - 127, params.lowest, params.highest);
    if (group == 0u && local == 0u) {
        scale[0] = power_of_two(exponent);
    }
    let factor = power_of_two(-exponent);
    let step = 256u * groups;
    for (var word = group * 256u + local; word < params.words; word += 2u * step) {
        let first = word_of(word, factor);
        let second = word_of(word + step, factor);
        values[word] = first;
        if (word + step < params.words) {
            values[word + step] = second;
        }
    }
}

// Two neighbours of the padded factor.
fn word_of(word: u32, factor: f32) -> u32 {
    return f16_bits(element(2u * word) * factor) | (f16_bits(element(2u * word + 1u) * factor) << 16u);
}

// Bits of |x|; beyond the end those of the last element, which change no maximum.
fn magnitude(i: u32, count: u32) -> u32 {
    return bitcast<u32>(x[params.offset + min(i, count - 1u)]) & 0x7fffffffu;
}

// The element at a place of the padded factor.
fn element(i: u32) -> f32 {
    let row = i / params.padded_columns;
    let column = i % params.padded_columns;
    if (row < params.rows && column < params.columns) {
        return x[params.offset + row * params.columns + column];
    }
    return 0.0;
}

fn power_of_two(exponent: i32) -> f32 {
    return bitcast<f32>(u32(exponent + 127) << 23u);
}

fn workgroup_max(value: u32, local: u32) -> u32 {
    scratch[local] = value;
    workgroupBarrier();
    for (var step = 128u; step > 0u; step /= 2u) {
        if (local < step) {
            scratch[local] = max(scratch[local], scratch[local + step]);
        }
        workgroupBarrier();
    }
    return scratch[0];
}
