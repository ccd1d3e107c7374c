// One step of plain gradient descent (equation in mod.rs) for the tensors of several slots; one invocation an element.
// A template: see ops/slots.rs.

struct Params {
    bounds: array<u32, 9>,
    gradient_offsets: array<u32, 8>,
    learning_rate: f32,
    momentum: f32,
    weight_decay: f32,
    nesterov: u32,
}

// for each slot
@group(0) @binding(2 * SLOT) var<storage, read_write> parameter_SLOT: array<f32>;
@group(0) @binding(2 * SLOT + 1) var<storage, read> gradient_SLOT: array<f32>;
// end
var<immediate> params: Params;

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let i = linear_id(local, group, groups, 256u);
    // for each slot
    if (i >= params.bounds[SLOT] && i < params.bounds[SLOT + 1]) {
        let j = i - params.bounds[SLOT];
        let p = parameter_SLOT[j];
        let g = gradient_SLOT[params.gradient_offsets[SLOT] + j];
        parameter_SLOT[j] = p - params.learning_rate * (g + params.weight_decay * p);
    }
    // end
}
