// dx = r·(g − mean(g) − x̂·mean(g·x̂)) of each row, with g = upstream·weight and x̂ = (sum − μ)·r; and D(dx) with dropout D, rounded
// to f16, each row divided by the power of two of its largest magnitude.
//
// A team of TEAM invocations takes a row; each keeps its vectors in registers.

@group(0) @binding(0) var<storage, read_write> sum: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> upstream: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> weight: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> dx: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> values: array<Halves>;
@group(0) @binding(5) var<storage, read_write> scales: array<f32>;

// A vector of the sum and of g, less their means from the second step on.
struct Pair {
    x: vec4<f32>,
    g: vec4<f32>,
}

var<workgroup> pairs: array<vec2<f32>, 256>;

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
    let count = f32(4u * params.vectors);

    var v: array<Pair, 4>;
    var totals = vec2<f32>();
    if (VECTORS > 0u) { v[0] = pair_at(row, lane); totals += totals_of(v[0]); }
    if (VECTORS > 1u) { v[1] = pair_at(row, lane + TEAM); totals += totals_of(v[1]); }
    if (VECTORS > 2u) { v[2] = pair_at(row, lane + 2u * TEAM); totals += totals_of(v[2]); }
    if (VECTORS > 3u) { v[3] = pair_at(row, lane + 3u * TEAM); totals += totals_of(v[3]); }
    let means = row_sums(totals, local, lane) / count;

    var products = vec2<f32>();
    if (VECTORS > 0u) { v[0] = centred(v[0], means, lane); products += products_of(v[0]); }
    if (VECTORS > 1u) { v[1] = centred(v[1], means, lane + TEAM); products += products_of(v[1]); }
    if (VECTORS > 2u) { v[2] = centred(v[2], means, lane + 2u * TEAM); products += products_of(v[2]); }
    if (VECTORS > 3u) { v[3] = centred(v[3], means, lane + 3u * TEAM); products += products_of(v[3]); }
    products = row_sums(products, local, lane) / count;
    let scale = 1.0 / sqrt(products.x + params.epsilon);
    // x̂·mean(g·x̂) = (x − μ)·slope. In this order the product neither overflows nor vanishes for large x.
    let slope = scale * (scale * products.y);

    var largest = 0u;
    if (VECTORS > 0u) { v[0] = finished(v[0], scale, slope, row, lane); largest = max(largest, magnitude(v[0].g)); }
    if (VECTORS > 1u) { v[1] = finished(v[1], scale, slope, row, lane + TEAM); largest = max(largest, magnitude(v[1].g)); }
    if (VECTORS > 2u) { v[2] = finished(v[2], scale, slope, row, lane + 2u * TEAM); largest = max(largest, magnitude(v[2].g)); }
    if (VECTORS > 3u) { v[3] = finished(v[3], scale, slope, row, lane + 3u * TEAM); largest = max(largest, magnitude(v[3].g)); }
    let exponent = exponent_of(team_max(largest, local, lane));
    if (present && lane == 0u) {
        scales[row] = power_of_two(exponent);
    }

    let factor = power_of_two(-exponent);
    if (present) {
        if (VECTORS > 0u) { write(row, lane, v[0], factor); }
        if (VECTORS > 1u) { write(row, lane + TEAM, v[1], factor); }
        if (VECTORS > 2u) { write(row, lane + 2u * TEAM, v[2], factor); }
        if (VECTORS > 3u) { write(row, lane + 3u * TEAM, v[3], factor); }
    }
}

// Behind the row's end 0.
fn pair_at(row: u32, vector: u32) -> Pair {
    if (vector >= params.vectors) {
        return Pair();
    }
    let place = row * params.vectors + vector;
    let g = upstream[params.offsets[1] + place] * weight[params.offsets[2] + vector];
    return Pair(sum[params.offsets[0] + place], g);
}

fn totals_of(pair: Pair) -> vec2<f32> {
    return vec2<f32>(total_of(pair.x), total_of(pair.g));
}

fn centred(pair: Pair, means: vec2<f32>, vector: u32) -> Pair {
    if (vector >= params.vectors) {
        return Pair();
    }
    return Pair(pair.x - vec4<f32>(means.x), pair.g - vec4<f32>(means.y));
}

// Of (x − μ)² and (g − mean(g))·(x − μ), whose sum is that of g·(x − μ).
fn products_of(pair: Pair) -> vec2<f32> {
    return vec2<f32>(dot(pair.x, pair.x), dot(pair.x, pair.g));
}

// dx and D(dx).
fn finished(pair: Pair, scale: f32, slope: f32, row: u32, vector: u32) -> Pair {
    let value = scale * (pair.g - pair.x * slope);
    return Pair(value, after_dropout(value, row * params.vectors + vector));
}

fn write(row: u32, vector: u32, pair: Pair, factor: f32) {
    if (vector < params.vectors) {
        dx[row * params.vectors + vector] = pair.x;
        values[row * params.vectors + vector] = halves(pair.g * factor);
    }
}

// The sums over a row's team, after which others may follow.
fn row_sums(value: vec2<f32>, local: u32, lane: u32) -> vec2<f32> {
    // Until all have read the last ones.
    workgroupBarrier();
    pairs[local] = value;
    workgroupBarrier();
    for (var width = TEAM; width > 1u; width = max(width / 4u, 1u)) {
        let step = max(width / 4u, 1u);
        if (lane < step) {
            var total = pairs[local];
            for (var other = lane + step; other < width; other += step) {
                total += pairs[local + other - lane];
            }
            pairs[local] = total;
        }
        workgroupBarrier();
    }
    return pairs[local - lane];
}
