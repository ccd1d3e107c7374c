// Rounds each head of each sequence to f16 after dividing it by the power of two of its largest magnitude, and puts heads first.
//
// A workgroup takes a head of a sequence of one of the tensors [batch, rows, heads, head_dim] and keeps as many of its vectors
// as registers hold; what goes beyond is read twice, the second time from cache.

struct Params {
    rows: u32,
    // Vectors in a head's row.
    vectors: u32,
    // Bounds of the exponents.
    lowest: i32,
    highest: i32,
    // Of the tensors, in vectors.
    offsets: array<u32, 3>,
}

$bindings
// [tensors, heads, batch, rows, head_dim] and [tensors, heads, batch].
@group(0) @binding($values) var<storage, read_write> values: array<Halves>;
@group(0) @binding($scales) var<storage, read_write> scales: array<f32>;
var<immediate> params: Params;

var<workgroup> largest_of: array<u32, 256>;

// Where a head of a sequence begins, and from where to where its rows lie apart, in vectors.
struct Place {
    start: u32,
    line: u32,
}

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let which = group.z;
    let line = groups.x * params.vectors;
    let first = Place(group.y * params.rows * line + group.x * params.vectors, line);
    let count = params.rows * params.vectors;
    let last = count - 1u;
    var largest = 0u;
    $read
    for (var i = local + $keptu; i < count; i += 256u) {
        largest = max(largest, magnitude(vector_of(which, first, i)));
    }

    largest_of[local] = largest;
    workgroupBarrier();
    for (var step = 128u; step > 0u; step /= 2u) {
        if (local < step) {
            largest_of[local] = max(largest_of[local], largest_of[local + step]);
        }
        workgroupBarrier();
    }
    let exponent = clamp(i32(largest_of[0] >> 23u) - 127, params.lowest, params.highest);
    let block = (which * groups.x + group.x) * groups.y + group.y;
    if (local == 0u) {
        scales[block] = power_of_two(exponent);
    }

    let factor = power_of_two(-exponent);
    let start = block * count;
    $write
    for (var i = local + $keptu; i < count; i += 256u) {
        write(start, i, vector_of(which, first, i) * factor, last);
    }
}

fn vector_of(which: u32, place: Place, i: u32) -> vec4<f32> {
    return vector_at(which, place.start + i / params.vectors * place.line + i % params.vectors);
}

fn vector_at(which: u32, place: u32) -> vec4<f32> {
    switch which {
$cases        default: { return vec4<f32>(); }
    }
}

fn write(start: u32, i: u32, value: vec4<f32>, last: u32) {
    if (i <= last) {
        values[start + i] = halves(value);
    }
}

// Bits of the largest |x|: magnitudes are in the order of their bits, NaN the largest.
fn magnitude(value: vec4<f32>) -> u32 {
    let bits = bitcast<vec4<u32>>(value) & vec4<u32>(0x7fffffffu);
    return max(max(bits.x, bits.y), max(bits.z, bits.w));
}
