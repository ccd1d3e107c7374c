// Second half of a product whose inner extent was shared out among workgroups: adds the parts in order, so that the
// result is the same every time. One invocation an element.

struct Params {
    count: u32,
    parts: u32,
    alpha: f32,
    accumulate: u32,
}

@group(0) @binding(0) var<storage, read> partial_sums: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
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
    var sum = 0.0;
    for (var part = 0u; part < params.parts; part += 1u) {
        sum += partial_sums[part * params.count + i];
    }
    sum *= params.alpha;
    if (params.accumulate != 0u) {
        sum += out[i];
    }
    out[i] = sum;
}
