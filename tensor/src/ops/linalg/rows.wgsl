// Rows of square matrices in another order: out[matrix][i] = x[matrix][order[matrix][i]]; one invocation an element.

struct Params {
    count: u32,
    size: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> order: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
var<immediate> params: Params;

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let index = linear_id(local, group, groups, 256u);
    if (index >= params.count) {
        return;
    }
    let n = params.size;
    let row = index / n;
    let source = row / n * n + order[row];
    out[index] = x[source * n + index % n];
}
