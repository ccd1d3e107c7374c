// y = (x − μ)·r·weight + bias for contiguous rows, r = 1/√(mean((x − μ)²) + ε); for RMS normalisation μ = 0 and there
// is no bias.
//
// A team of TEAM invocations takes a row; after the first pass it is in cache.

struct Params {
    rows: u32,
    columns: u32,
    epsilon: f32,
    x_offset: u32,
    weight_offset: u32,
    other_offset: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
var<immediate> params: Params;

// A power of two, at most 256.
override TEAM: u32;
// Layer normalisation; otherwise RMS normalisation.
override CENTRED: bool;

// Elements that an invocation sums before the result joins its total, so that long rows lose no digits.
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
    let x_start = params.x_offset + start;
    let count = f32(params.columns);

    var mean = 0.0;
    if (CENTRED) {
        mean = team_sum(sum_of_powers(x_start, lane, columns, 0.0, false), local, lane) / count;
    }
    let square = team_sum(sum_of_powers(x_start, lane, columns, mean, true), local, lane) / count;
    let scale = 1.0 / sqrt(square + params.epsilon);

    for (var i = lane; i < columns; i += TEAM) {
        var y = (x[x_start + i] - mean) * scale * weight[params.weight_offset + i];
        if (CENTRED) {
            y += bias[params.other_offset + i];
        }
        out[start + i] = y;
    }
}

// An invocation's part of Σ x, or of Σ (x − mean)².
fn sum_of_powers(x_start: u32, lane: u32, columns: u32, mean: f32, squared: bool) -> f32 {
    var total = 0.0;
    for (var block = lane; block < columns; block += BLOCK * TEAM) {
        let end = min(columns, block + BLOCK * TEAM);
        var part = 0.0;
        for (var i = block; i < end; i += TEAM) {
            let centred = x[x_start + i] - mean;
            part += select(centred, centred * centred, squared);
        }
        total += part;
    }
    return total;
}

// The sum over a row's team.
fn team_sum(value: f32, local: u32, lane: u32) -> f32 {
    workgroupBarrier();
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
