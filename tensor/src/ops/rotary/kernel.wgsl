// Turns the pair (i, i + half) of one head by the angle of its position; one invocation a pair, neighbours in i, so
// that both halves are read and written in whole lines.

struct Params {
    // Batch, sequence, head, element.
    x_strides: vec4<u32>,
    x_offset: u32,
    cos_offset: u32,
    sin_offset: u32,
    pairs: u32,
    sequence: u32,
    heads: u32,
    half_dim: u32,
    // Multiplies the sines: 1 forward, -1 backward.
    direction: f32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> cosines: array<f32>;
@group(0) @binding(2) var<storage, read> sines: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
var<immediate> params: Params;

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let pair = linear_id(local, group, groups, 256u);
    if (pair >= params.pairs) {
        return;
    }
    let i = pair % params.half_dim;
    let row = pair / params.half_dim;
    let head = row % params.heads;
    let position = row / params.heads % params.sequence;
    let batch = row / params.heads / params.sequence;
    let stride = params.x_strides;
    let low = params.x_offset + batch * stride.x + position * stride.y + head * stride.z + i * stride.w;
    let a = x[low];
    let b = x[low + params.half_dim * stride.w];
    let cosine = cosines[params.cos_offset + position * params.half_dim + i];
    let sine = params.direction * sines[params.sin_offset + position * params.half_dim + i];
    let target_low = row * 2u * params.half_dim + i;
    out[target_low] = a * cosine - b * sine;
    out[target_low + params.half_dim] = b * cosine + a * sine;
}
