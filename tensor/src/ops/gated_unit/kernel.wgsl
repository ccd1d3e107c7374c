// Gradients of silu(gate)·up over contiguous elements; one invocation an element, three reads and two writes, where
// separate operations would take eleven.

struct Params {
    count: u32,
    gate_offset: u32,
    up_offset: u32,
    upstream_offset: u32,
}

@group(0) @binding(0) var<storage, read> gate: array<f32>;
@group(0) @binding(1) var<storage, read> up: array<f32>;
@group(0) @binding(2) var<storage, read> upstream: array<f32>;
@group(0) @binding(3) var<storage, read_write> for_gate: array<f32>;
@group(0) @binding(4) var<storage, read_write> for_up: array<f32>;
var<immediate> params: Params;

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let i = linear_id(local, group, groups, 256u);
    if (i >= params.count) {
        return;
    }
    let x = gate[params.gate_offset + i];
    let gradient = upstream[params.upstream_offset + i];
    let s = sigmoid(x);
    for_gate[i] = gradient * up[params.up_offset + i] * (s * (1.0 + x * (1.0 - s)));
    for_up[i] = gradient * (x * s);
}
