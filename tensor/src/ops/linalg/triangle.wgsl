// R out of the columns that `factor.wgsl` leaves, rows negated where the diagonal would be negative; one invocation an
// element of R [batch, inner, columns].

struct Params {
    count: u32,
    rows: u32,
    columns: u32,
    inner: u32,
}

@group(0) @binding(0) var<storage, read> w: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
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
    let j = index % params.columns;
    let i = index / params.columns % params.inner;
    let start = index / params.columns / params.inner * params.columns * params.rows;
    var value = 0.0;
    if (j >= i) {
        let diagonal = w[start + i * params.rows + i];
        let entry = w[start + j * params.rows + i];
        value = select(entry, -entry, diagonal < 0.0);
    }
    out[index] = value;
}
