// out[o, i, c] = x[o, indices[o, i, c], c]; one invocation an element of the contiguous result.
// Elements travel as bits. 16-bit elements are read from the word that holds them and become f32.

struct Params {
    elements: u32,
    count: u32,
    inner: u32,
    extent: u32,
    // Written for an index out of range.
    invalid: u32,
    index_offset: u32,
    index_strides: array<u32, 3>,
    x_offset: u32,
    x_strides: array<u32, 3>,
}

@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read> indices: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<u32>;
var<immediate> params: Params;

// Elements of x: 0 any 32-bit type, 1 f16, 2 bf16.
override FORMAT: u32;

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let element = linear_id(local, group, groups, 256u);
    if (element >= params.elements) {
        return;
    }
    let c = element % params.inner;
    let row = element / params.inner;
    let i = row % params.count;
    let o = row / params.count;
    let index = indices[
        params.index_offset
        + o * params.index_strides[0]
        + i * params.index_strides[1]
        + c * params.index_strides[2]
    ];
    if (index >= params.extent) {
        out[element] = params.invalid;
        return;
    }
    let place = params.x_offset + o * params.x_strides[0] + index * params.x_strides[1] + c * params.x_strides[2];
    if (FORMAT == 0u) {
        out[element] = x[place];
        return;
    }
    let bits = (x[place / 2u] >> (16u * (place & 1u))) & 0xffffu;
    if (FORMAT == 1u) {
        out[element] = bitcast<u32>(unpack2x16float(bits).x);
    } else {
        out[element] = bits << 16u;
    }
}
