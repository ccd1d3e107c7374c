// Copies strided 32-bit elements to a strided region of the result; one invocation an element.
// The host has merged axes that are contiguous on both sides.

struct Params {
    count: u32,
    rank: u32,
    source_offset: u32,
    out_offset: u32,
    extents: array<u32, 6>,
    source_strides: array<u32, 6>,
    out_strides: array<u32, 6>,
}

@group(0) @binding(0) var<storage, read> source: array<u32>;
@group(0) @binding(1) var<storage, read_write> out: array<u32>;
var<immediate> params: Params;

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    var rest = linear_id(local, group, groups, 256u);
    if (rest >= params.count) {
        return;
    }
    var place = params.source_offset;
    var out_place = params.out_offset;
    for (var axis = params.rank; axis > 0u; axis -= 1u) {
        let extent = params.extents[axis - 1u];
        let here = rest % extent;
        rest /= extent;
        place += here * params.source_strides[axis - 1u];
        out_place += here * params.out_strides[axis - 1u];
    }
    out[out_place] = source[place];
}
