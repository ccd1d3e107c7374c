// out[0, split, column] = Σ upstream·(x − μ)·r and, for layer normalisation, out[1, split, column] = Σ upstream, over
// the rows of a segment. The sum over splits is a reduction of its own.
//
// A workgroup is COLUMN_LANES neighbouring columns × 256 / COLUMN_LANES invocations that share the rows, so that
// neighbouring invocations read neighbouring words.

struct Params {
    rows: u32,
    columns: u32,
    segment: u32,
    splits: u32,
    column_groups: u32,
    x_offset: u32,
    upstream_offset: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> upstream: array<f32>;
@group(0) @binding(2) var<storage, read> statistics: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
var<immediate> params: Params;

// A power of two, at most 256.
override COLUMN_LANES: u32;
// Layer normalisation, which has a bias; otherwise RMS normalisation.
override CENTRED: bool;

var<workgroup> scratch: array<vec2<f32>, 256>;

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let id = group.y * groups.x + group.x;
    let row_lanes = 256u / COLUMN_LANES;
    let lane = local / COLUMN_LANES;
    let column = (id % params.column_groups) * COLUMN_LANES + local % COLUMN_LANES;
    let split = id / params.column_groups;
    let valid = column < params.columns && split < params.splits;

    var total = vec2<f32>(0.0);
    if (valid) {
        let begin = split * params.segment;
        let end = min(begin + params.segment, params.rows);
        for (var row = begin + lane; row < end; row += row_lanes) {
            let place = row * params.columns + column;
            let gradient = upstream[params.upstream_offset + place];
            let of_row = statistics[row];
            let normal = (x[params.x_offset + place] - of_row.x) * of_row.y;
            total += gradient * vec2<f32>(normal, 1.0);
        }
    }

    scratch[local] = total;
    workgroupBarrier();
    for (var step = row_lanes / 2u; step > 0u; step /= 2u) {
        if (lane < step) {
            scratch[local] += scratch[local + step * COLUMN_LANES];
        }
        workgroupBarrier();
    }
    if (valid && lane == 0u) {
        out[split * params.columns + column] = scratch[local].x;
        if (CENTRED) {
            out[(params.splits + split) * params.columns + column] = scratch[local].y;
        }
    }
}
