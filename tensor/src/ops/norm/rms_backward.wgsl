// dx = r·(g − x̂·mean(g·x̂)) with g = upstream·weight and x̂ = x·r: RMS normalisation's, for rows of whole vectors that stay in the
// registers of a team of TEAM invocations.

struct Params {
    rows: u32,
    columns: u32,
    epsilon: f32,
    x_offset: u32,
    weight_offset: u32,
    other_offset: u32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> weight: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> upstream: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> out: array<vec4<f32>>;
var<immediate> params: Params;

// A power of two, at most 256.
override TEAM: u32;
// Vectors of a row for each invocation, at most 4.
override VECTORS: u32;
// dx is added to what is there already.
override ADD: bool;

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let lane = local % TEAM;
    let place = (group.y * groups.x + group.x) * (256u / TEAM) + local / TEAM;
    // Teams without a row compute the last one and write nothing.
    let present = place < params.rows;
    let row = min(place, params.rows - 1u);
    var v: array<Vectors, 4>;
    if (VECTORS > 0u) { v[0] = vectors_at(row, lane); }
    if (VECTORS > 1u) { v[1] = vectors_at(row, lane + TEAM); }
    if (VECTORS > 2u) { v[2] = vectors_at(row, lane + 2u * TEAM); }
    if (VECTORS > 3u) { v[3] = vectors_at(row, lane + 3u * TEAM); }
    // The means of x² and g·x.
    var total = vec2<f32>();
    if (VECTORS > 0u) { total += products(v[0]); }
    if (VECTORS > 1u) { total += products(v[1]); }
    if (VECTORS > 2u) { total += products(v[2]); }
    if (VECTORS > 3u) { total += products(v[3]); }
    let means = team_sum(total, local, lane) / f32(params.columns);
    let scale = 1.0 / sqrt(means.x + params.epsilon);
    // x̂·mean(g·x̂) = x·slope; the product in this order neither overflows nor vanishes for large x.
    let slope = scale * (scale * means.y);
    if (present) {
        if (VECTORS > 0u) { write(row, lane, v[0], scale, slope); }
        if (VECTORS > 1u) { write(row, lane + TEAM, v[1], scale, slope); }
        if (VECTORS > 2u) { write(row, lane + 2u * TEAM, v[2], scale, slope); }
        if (VECTORS > 3u) { write(row, lane + 3u * TEAM, v[3], scale, slope); }
    }
}

struct Vectors {
    x: vec4<f32>,
    g: vec4<f32>,
    // What dx is added to.
    total: vec4<f32>,
}

// Behind the row's end zeros.
fn vectors_at(row: u32, vector: u32) -> Vectors {
    let count = params.columns / 4u;
    let column = min(vector, count - 1u);
    let i = row * count + column;
    let inside = vec4<bool>(vector < count);
    let x = select(vec4<f32>(), x[params.x_offset / 4u + i], inside);
    let g = upstream[params.other_offset / 4u + i] * weight[params.weight_offset / 4u + column];
    var total = vec4<f32>();
    if (ADD) {
        total = out[i];
    }
    return Vectors(x, select(vec4<f32>(), g, inside), total);
}

fn products(v: Vectors) -> vec2<f32> {
    return vec2<f32>(dot(v.x, v.x), dot(v.g, v.x));
}

fn write(row: u32, vector: u32, v: Vectors, scale: f32, slope: f32) {
    let count = params.columns / 4u;
    if (vector < count) {
        out[row * count + vector] = v.total + scale * (v.g - v.x * slope);
    }
}
