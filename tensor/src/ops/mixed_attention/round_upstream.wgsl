// Rounds each token's row of an upstream gradient to f16, as round.wgsl does, and multiplies it with the output, head by head:
// deltas are Σ upstream·output, divided by the row's power of two.

enable f16;

struct Params {
    sequence: u32,
    rows: u32,
    heads: u32,
    // Vectors in a head: a power of two, at most a subgroup.
    head: u32,
    upstream_offset: u32,
    // Bounds of the exponents.
    lowest: i32,
    highest: i32,
}

@group(0) @binding(0) var<storage, read> upstream: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> output: array<vec4<f16>>;
@group(0) @binding(2) var<storage, read> output_scales: array<f32>;
@group(0) @binding(3) var<storage, read_write> values: array<vec4<f16>>;
@group(0) @binding(4) var<storage, read_write> scales: array<f32>;
@group(0) @binding(5) var<storage, read_write> deltas: array<f32>;
var<immediate> params: Params;

var<workgroup> scratch: array<u32, 8>;

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
    let vectors = params.heads * params.head;
    // Most rows have no more than four vectors for each invocation; those stay in registers.
    let a = upstream_at(row, local);
    let b = upstream_at(row, local + 256u);
    let c = upstream_at(row, local + 512u);
    let d = upstream_at(row, local + 768u);
    var largest = max(max(magnitudes(a), magnitudes(b)), max(magnitudes(c), magnitudes(d)));
    for (var i = local + 1024u; i < vectors; i += 256u) {
        largest = max(largest, magnitudes(upstream_at(row, i)));
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
    finish(row, local, a * factor);
    finish(row, local + 256u, b * factor);
    finish(row, local + 512u, c * factor);
    finish(row, local + 768u, d * factor);
    // All invocations of a subgroup go through the loop together: they shuffle.
    for (var first = 1024u; first < vectors; first += 256u) {
        finish(row, first + local, upstream_at(row, first + local) * factor);
    }
}

// Behind the row's end its last vector.
fn upstream_at(row: u32, i: u32) -> vec4<f32> {
    let vectors = params.heads * params.head;
    return upstream[params.upstream_offset + row * vectors + min(i, vectors - 1u)];
}

// Rounds and writes a vector; the first invocation of a head writes its product with the output.
fn finish(row: u32, i: u32, value: vec4<f32>) {
    let vectors = params.heads * params.head;
    let place = row * vectors + min(i, vectors - 1u);
    let rounded = vec4<f16>(value);
    var delta = dot(vec4<f32>(rounded), vec4<f32>(output[place]));
    for (var step = params.head / 2u; step > 0u; step /= 2u) {
        delta += subgroupShuffleXor(delta, step);
    }
    if (i < vectors) {
        values[place] = rounded;
        if (i % params.head == 0u) {
            let query = row % params.sequence;
            deltas[(row / params.sequence * params.heads + i / params.head) * params.sequence + query] = delta * output_scales[row];
        }
    }
}

// Magnitudes are in the order of their bits, NaN the largest.
fn magnitudes(value: vec4<f32>) -> vec4<u32> {
    return bitcast<vec4<u32>>(value) & vec4<u32>(0x7fffffffu);
}
