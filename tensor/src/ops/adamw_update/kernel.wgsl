// One step of AdamW (equation in mod.rs) for the tensors of several slots; one invocation an element.
// A template: see ops/slots.rs. Each element is read and written once, so memory bandwidth is the only cost.

struct Params {
    bounds: array<u32, 9>,
    gradient_offsets: array<u32, 8>,
    decay: f32,
    beta1: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    step_size: f32,
    root_correction: f32,
    epsilon: f32,
}

// for each slot
@group(0) @binding(4 * SLOT) var<storage, read_write> parameter_SLOT: array<f32>;
@group(0) @binding(4 * SLOT + 1) var<storage, read> gradient_SLOT: array<f32>;
@group(0) @binding(4 * SLOT + 2) var<storage, read_write> first_moment_SLOT: array<f32>;
@group(0) @binding(4 * SLOT + 3) var<storage, read_write> second_moment_SLOT: array<f32>;
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
        let g = gradient_SLOT[params.gradient_offsets[SLOT] + j];
        let updated = update(parameter_SLOT[j], g, first_moment_SLOT[j], second_moment_SLOT[j]);
        parameter_SLOT[j] = updated.x;
        first_moment_SLOT[j] = updated.y;
        second_moment_SLOT[j] = updated.z;
    }
    // end
}

// The new parameter, first moment and second moment.
fn update(p: f32, g: f32, m_before: f32, v_before: f32) -> vec3<f32> {
    let m = params.beta1 * m_before + params.one_minus_beta1 * g;
    let v = params.beta2 * v_before + params.one_minus_beta2 * (g * g);
    let denominator = sqrt(v) / params.root_correction + params.epsilon;
    return vec3<f32>(p * params.decay - params.step_size * (m / denominator), m, v);
}
