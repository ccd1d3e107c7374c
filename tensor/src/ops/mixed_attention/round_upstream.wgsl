// Rounds each token's row of an upstream gradient to f16, as round.wgsl does, and multiplies it with the output, head by head:
// deltas are Σ upstream·output, divided by the row's power of two. A team of invocations takes a row.

enable f16;

struct Params {
    sequence: u32,
    rows: u32,
    heads: u32,
    // Vectors in a head, at most a subgroup.
    head: u32,
    upstream_offset: u32,
    // Bounds of the exponents.
    lowest: i32,
    highest: i32,
}

@group(0) @binding(0) var<storage, read> upstream: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> output: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read> output_scales: array<f32>;
@group(0) @binding(3) var<storage, read_write> values: array<vec4<f16>>;
@group(0) @binding(4) var<storage, read_write> scales: array<f32>;
@group(0) @binding(5) var<storage, read_write> deltas: array<f32>;
var<immediate> params: Params;

// Invocations that share a row: whole subgroups, a power of two of them, at most 256.
override TEAM: u32;

var<workgroup> scratch: array<u32, 8>;

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let member = local % TEAM;
    let place = (group.y * groups.x + group.x) * (256u / TEAM) + local / TEAM;
    // Teams without a row compute the last one and write nothing.
    let present = place < params.rows;
    let row = min(place, params.rows - 1u);
    let vectors = params.heads * params.head;
    // A subgroup takes whole heads; its last invocations may have none, and do what the one before them does.
    let whole = 32u / params.head * params.head;
    let writes = present && member % 32u < whole;
    let first = member / 32u * whole + min(member % 32u, whole - 1u);
    let step = TEAM / 32u * whole;
    // Most rows have no more than four vectors for each invocation; those stay in registers.
    let a = upstream_at(row, first);
    let b = upstream_at(row, first + step);
    let c = upstream_at(row, first + 2u * step);
    let d = upstream_at(row, first + 3u * step);
    var largest = max(max(magnitudes(a), magnitudes(b)), max(magnitudes(c), magnitudes(d)));
    for (var i = first + 4u * step; i < vectors; i += step) {
        largest = max(largest, magnitudes(upstream_at(row, i)));
    }
    scratch[local / 32u] = subgroupMax(max(max(largest.x, largest.y), max(largest.z, largest.w)));
    workgroupBarrier();
    var bits = 0u;
    for (var i = 0u; i < TEAM / 32u; i += 1u) {
        bits = max(bits, scratch[local / TEAM * (TEAM / 32u) + i]);
    }
    let exponent = clamp(i32(bits >> 23u) - 127, params.lowest, params.highest);
    if (member == 0u && present) {
        scales[row] = power_of_two(exponent);
    }
    let factor = power_of_two(-exponent);
    finish(row, first, writes, a * factor);
    finish(row, first + step, writes, b * factor);
    finish(row, first + 2u * step, writes, c * factor);
    finish(row, first + 3u * step, writes, d * factor);
    // All invocations of a subgroup go through the loop together: they shuffle.
    for (var begin = 4u * step; begin < vectors; begin += step) {
        finish(row, begin + first, writes, upstream_at(row, begin + first) * factor);
    }
}

// Behind the row's end its last vector.
fn upstream_at(row: u32, i: u32) -> vec4<f32> {
    let vectors = params.heads * params.head;
    return upstream[params.upstream_offset + row * vectors + min(i, vectors - 1u)];
}

// 1 for an output in tiles of a left operand.
override OUTPUT_TILED: u32;

fn output_at(row: u32, i: u32) -> vec4<f32> {
    let vectors = params.heads * params.head;
    if (OUTPUT_TILED == 0u) {
        let words = output[row * vectors + i];
        return vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y));
    }
    // The words of two rows come in turn.
    let chunk = 2u * left_chunk(row, i, vectors);
    let first = output[chunk];
    let second = output[chunk + 1u];
    let is_upper = row % 2u == 0u;
    return vec4<f32>(unpack2x16float(select(first.y, first.x, is_upper)), unpack2x16float(select(second.y, second.x, is_upper)));
}

// Rounds and writes a vector; the first invocation of a head writes its product with the output.
fn finish(row: u32, i: u32, writes: bool, value: vec4<f32>) {
    let vectors = params.heads * params.head;
    let rounded = vec4<f16>(value);
    var delta = dot(vec4<f32>(rounded), output_at(row, min(i, vectors - 1u)));
    let place_in_head = i % params.head;
    // The first step is the largest power of two below the head's length.
    for (var step = 1u << (31u - countLeadingZeros(params.head - 1u)); step > 0u; step /= 2u) {
        let other = subgroupShuffleDown(delta, step);
        delta += select(0.0, other, place_in_head + step < params.head);
    }
    if (i < vectors && writes) {
        values[place_in_storage(row, i, vectors)] = rounded;
        if (place_in_head == 0u) {
            let query = row % params.sequence;
            deltas[(row / params.sequence * params.heads + i / params.head) * params.sequence + query] = delta * output_scales[row];
        }
    }
}

// Magnitudes are in the order of their bits, NaN the largest.
fn magnitudes(value: vec4<f32>) -> vec4<u32> {
    return bitcast<vec4<u32>>(value) & vec4<u32>(0x7fffffffu);
}
