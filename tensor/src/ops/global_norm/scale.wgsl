// x *= scale for the tensors of several slots, 0 for a scale of 0 whatever x is; one invocation an element. A template: see
// ops/slots.rs.

struct Params {
    bounds: array<u32, 9>,
    scale_offset: u32,
}

@group(0) @binding(0) var<storage, read> scale: array<f32>;
// for each slot
@group(0) @binding(SLOT + 1) var<storage, read_write> x_SLOT: array<f32>;
// end
var<immediate> params: Params;

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let i = linear_id(local, group, groups, 256u);
    let factor = scale[params.scale_offset];
    // for each slot
    if (i >= params.bounds[SLOT] && i < params.bounds[SLOT + 1]) {
        x_SLOT[i - params.bounds[SLOT]] = select(x_SLOT[i - params.bounds[SLOT]] * factor, 0.0, factor == 0.0);
    }
    // end
}
