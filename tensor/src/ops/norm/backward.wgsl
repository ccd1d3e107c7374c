// dx = r·(g − mean(g) − x̂·mean(g·x̂)) for contiguous rows, with g = upstream·weight and x̂ = (x − μ)·r; for RMS
// normalisation μ and mean(g) are 0.
//
// A team of TEAM invocations takes a row. RMS normalisation needs one pass for its sums, layer normalisation two, since
// the second needs the mean; the last pass writes. After the first pass the row is in cache.

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
@group(0) @binding(2) var<storage, read> upstream: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
var<immediate> params: Params;

// A power of two, at most 256.
override TEAM: u32;
// Layer normalisation; otherwise RMS normalisation.
override CENTRED: bool;
// dx is added to what is there already.
override ADD: bool;

// Elements that an invocation sums before the result joins its total, so that long rows lose no digits.
const BLOCK: u32 = 64u;

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
    let upstream_start = params.other_offset + start;

    // The means of x and g.
    var means = vec2<f32>(0.0);
    if (CENTRED) {
        var total = vec2<f32>(0.0);
        for (var block = lane; block < columns; block += BLOCK * TEAM) {
            let end = min(columns, block + BLOCK * TEAM);
            var part = vec2<f32>(0.0);
            for (var i = block; i < end; i += TEAM) {
                let g = upstream[upstream_start + i] * weight[params.weight_offset + i];
                part += vec2<f32>(x[x_start + i], g);
            }
            total += part;
        }
        means = team_sum(total, local, lane) / count;
    }

    // The means of (x − μ)² and g·(x − μ).
    var total = vec2<f32>(0.0);
    for (var block = lane; block < columns; block += BLOCK * TEAM) {
        let end = min(columns, block + BLOCK * TEAM);
        var part = vec2<f32>(0.0);
        for (var i = block; i < end; i += TEAM) {
            let centred = x[x_start + i] - means.x;
            let g = upstream[upstream_start + i] * weight[params.weight_offset + i];
            part += centred * vec2<f32>(centred, g);
        }
        total += part;
    }
    let products = team_sum(total, local, lane) / count;
    let scale = 1.0 / sqrt(products.x + params.epsilon);
    // x̂·mean(g·x̂) = (x − μ)·slope.
    // The product in this order neither overflows nor vanishes for large x.
    let slope = scale * (scale * products.y);

    for (var i = lane; i < columns; i += TEAM) {
        let g = upstream[upstream_start + i] * weight[params.weight_offset + i];
        let dx = scale * (g - means.y - (x[x_start + i] - means.x) * slope);
        if (ADD) {
            out[start + i] += dx;
        } else {
            out[start + i] = dx;
        }
    }
}
