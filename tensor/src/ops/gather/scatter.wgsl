// out[o, indices[o, i, c], c] += dy[o, i, c] for first ≤ i < last, in ascending order of i.
// An invocation owns one column (o, c) of the contiguous result and one class of indices (their low bits): it walks all
// indices and adds those of its class. No element has two owners, so no atomics are needed and the order is fixed;
// neighbouring invocations own neighbouring columns, so they read the same index and neighbouring values.

struct Params {
    columns: u32,
    inner: u32,
    extent: u32,
    // Number of classes, a power of two.
    classes: u32,
    first: u32,
    last: u32,
    index_offset: u32,
    index_strides: array<u32, 3>,
    dy_offset: u32,
    dy_strides: array<u32, 3>,
}

@group(0) @binding(0) var<storage, read> dy: array<f32>;
@group(0) @binding(1) var<storage, read> indices: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
var<immediate> params: Params;

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let id = linear_id(local, group, groups, 256u);
    if (id >= params.columns * params.classes) {
        return;
    }
    let column = id % params.columns;
    let own = id / params.columns;
    let c = column % params.inner;
    let o = column / params.inner;
    let index_start = params.index_offset + o * params.index_strides[0] + c * params.index_strides[2];
    let dy_start = params.dy_offset + o * params.dy_strides[0] + c * params.dy_strides[2];
    for (var i = params.first; i < params.last; i += 1u) {
        let index = indices[index_start + i * params.index_strides[1]];
        if (index < params.extent && (index & (params.classes - 1u)) == own) {
            out[(o * params.extent + index) * params.inner + c] += dy[dy_start + i * params.dy_strides[1]];
        }
    }
}
