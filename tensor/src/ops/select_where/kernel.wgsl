// out[i] = a[…] where condition[…] is not 0, else b[…], with broadcasting; one invocation an element of the result.
// Positions come from extents and strides of axes that the host merged; elements travel as bits.

struct Params {
    count: u32,
    rank: u32,
    offsets: array<u32, 3>,
    extents: array<u32, 6>,
    condition_strides: array<u32, 6>,
    a_strides: array<u32, 6>,
    b_strides: array<u32, 6>,
}

@group(0) @binding(0) var<storage, read> condition: array<u32>;
@group(0) @binding(1) var<storage, read> a: array<u32>;
@group(0) @binding(2) var<storage, read> b: array<u32>;
@group(0) @binding(3) var<storage, read_write> out: array<u32>;
var<immediate> params: Params;

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let element = linear_id(local, group, groups, 256u);
    if (element >= params.count) {
        return;
    }
    var condition_place = params.offsets[0];
    var a_place = params.offsets[1];
    var b_place = params.offsets[2];
    var rest = element;
    for (var axis = params.rank; axis > 0u; axis -= 1u) {
        let extent = params.extents[axis - 1u];
        let here = rest % extent;
        rest /= extent;
        condition_place += here * params.condition_strides[axis - 1u];
        a_place += here * params.a_strides[axis - 1u];
        b_place += here * params.b_strides[axis - 1u];
    }
    if (condition[condition_place] != 0u) {
        out[element] = a[a_place];
    } else {
        out[element] = b[b_place];
    }
}
