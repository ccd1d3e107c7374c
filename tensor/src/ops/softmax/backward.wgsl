// Gradient of softmax, y·(dy − Σ y·dy), or of its logarithm, dy − e^y·Σ dy, for contiguous rows.
//
// A team of TEAM invocations takes a row in two passes: the sum, then the results, which find the row in cache.

struct Params {
    rows: u32,
    columns: u32,
    y_offset: u32,
    upstream_offset: u32,
}

@group(0) @binding(0) var<storage, read> y: array<f32>;
@group(0) @binding(1) var<storage, read> upstream: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
var<immediate> params: Params;

// A power of two, at most 256.
override TEAM: u32;
override LOGARITHM: bool;

// Elements that an invocation sums before the result joins its total.
const BLOCK: u32 = 64u;

var<workgroup> scratch: array<f32, 256>;

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let row = (group.y * groups.x + group.x) * (256u / TEAM) + local / TEAM;
    let lane = local % TEAM;
    // Teams without a row do nothing but wait at the barriers.
    let columns = select(0u, params.columns, row < params.rows);
    let start = select(0u, row * params.columns, row < params.rows);
    let y_start = params.y_offset + start;
    let upstream_start = params.upstream_offset + start;

    var total = 0.0;
    for (var block = lane; block < columns; block += BLOCK * TEAM) {
        let end = min(columns, block + BLOCK * TEAM);
        var part = 0.0;
        for (var i = block; i < end; i += TEAM) {
            if (LOGARITHM) {
                part += upstream[upstream_start + i];
            } else {
                part += upstream[upstream_start + i] * y[y_start + i];
            }
        }
        total += part;
    }
    total = team_sum(total, local, lane);

    for (var i = lane; i < columns; i += TEAM) {
        let result = y[y_start + i];
        let gradient = upstream[upstream_start + i];
        if (LOGARITHM) {
            out[start + i] = gradient - exp(result) * total;
        } else {
            out[start + i] = result * (gradient - total);
        }
    }
}

fn team_sum(value: f32, local: u32, lane: u32) -> f32 {
    scratch[local] = value;
    workgroupBarrier();
    for (var step = TEAM / 2u; step > 0u; step /= 2u) {
        if (lane < step) {
            scratch[local] += scratch[local + step];
        }
        workgroupBarrier();
    }
    return scratch[local - lane];
}
