// What the reflections are applied to: columns of the signs of R's diagonal (so that R comes out with a diagonal that
// is not negative), or the columns of a given matrix times these signs, with zeros below. One invocation an element.
//   out[matrix][j][i] = sign(R[i][i]) · x[matrix][j][i] for i < inner, else 0;  x = identity without GIVEN

struct Params {
    count: u32,
    rows: u32,
    factor_columns: u32,
    columns: u32,
    inner: u32,
}

@group(0) @binding(0) var<storage, read> w: array<f32>;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
var<immediate> params: Params;

override GIVEN: bool;

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
    let i = index % params.rows;
    let j = index / params.rows % params.columns;
    let matrix = index / params.rows / params.columns;
    var value = 0.0;
    if (i < params.inner && (GIVEN || i == j)) {
        let diagonal = w[(matrix * params.factor_columns + i) * params.rows + i];
        value = select(1.0, -1.0, diagonal < 0.0);
        if (GIVEN) {
            value *= x[(matrix * params.columns + j) * params.inner + i];
        }
    }
    out[index] = value;
}
