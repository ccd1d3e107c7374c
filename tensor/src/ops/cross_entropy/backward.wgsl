// x[r, j] becomes scale·(exp(x[r, j] − log_sum_exp[r]) − [j = label]), or 0 in ignored rows, in place.
// A workgroup handles 1024 columns of one row: x of the grid runs over the columns, y and z over the rows.

struct Params {
    rows: u32,
    columns: u32,
    label_offset: u32,
    sum_offset: u32,
    ignore: i32,
    scale: f32,
}

@group(0) @binding(0) var<storage, read_write> x: array<u32>;
@group(0) @binding(1) var<storage, read> labels: array<i32>;
@group(0) @binding(2) var<storage, read> log_sum_exp: array<f32>;
var<immediate> params: Params;

const NOT_A_NUMBER = 0x7fc00000u;

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let row = group.z * groups.y + group.y;
    if (row >= params.rows) {
        return;
    }
    let label = labels[params.label_offset + row];
    let sum = log_sum_exp[params.sum_offset + row];
    let ignored = label == params.ignore;
    let invalid = label < 0 || u32(label) >= params.columns;
    let first = group.x * 1024u + local;
    for (var i = 0u; i < 4u; i += 1u) {
        let column = first + 256u * i;
        if (column >= params.columns) {
            return;
        }
        let place = row * params.columns + column;
        if (ignored) {
            x[place] = 0u;
        } else if (invalid) {
            x[place] = NOT_A_NUMBER;
        } else {
            let target_value = select(0.0, 1.0, column == u32(label));
            x[place] = bitcast<u32>(params.scale * (exp(bitcast<f32>(x[place]) - sum) - target_value));
        }
    }
}
