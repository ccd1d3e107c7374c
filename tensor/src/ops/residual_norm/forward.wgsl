// sum = x + D(y) with dropout D; normed = (sum − μ)·r·weight + bias with the mean μ and r = 1/√(mean((sum − μ)²) + ε) of each row;
// and the same rounded to f16, each row divided by the power of two of its largest magnitude.
//
// A team of TEAM invocations takes a row; each keeps its vectors in registers.

@group(0) @binding(0) var<storage, read_write> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> weight: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> bias: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> sum: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> normed: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> values: array<Halves>;
@group(0) @binding(7) var<storage, read_write> scales: array<f32>;

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

    var v: array<vec4<f32>, 4>;
    var total = 0.0;
    if (VECTORS > 0u) { v[0] = sum_at(row, lane); total += total_of(v[0]); }
    if (VECTORS > 1u) { v[1] = sum_at(row, lane + TEAM); total += total_of(v[1]); }
    if (VECTORS > 2u) { v[2] = sum_at(row, lane + 2u * TEAM); total += total_of(v[2]); }
    if (VECTORS > 3u) { v[3] = sum_at(row, lane + 3u * TEAM); total += total_of(v[3]); }
    let mean = row_sum(total, local, lane) / count;

    var square = 0.0;
    if (VECTORS > 0u) { v[0] = centred(v[0], mean, lane); square += dot(v[0], v[0]); }
    if (VECTORS > 1u) { v[1] = centred(v[1], mean, lane + TEAM); square += dot(v[1], v[1]); }
    if (VECTORS > 2u) { v[2] = centred(v[2], mean, lane + 2u * TEAM); square += dot(v[2], v[2]); }
    if (VECTORS > 3u) { v[3] = centred(v[3], mean, lane + 3u * TEAM); square += dot(v[3], v[3]); }
    let scale = 1.0 / sqrt(row_sum(square, local, lane) / count + params.epsilon);

    var largest = 0u;
    if (VECTORS > 0u) { v[0] = finished(v[0], scale, lane); largest = max(largest, magnitude(v[0])); }
    if (VECTORS > 1u) { v[1] = finished(v[1], scale, lane + TEAM); largest = max(largest, magnitude(v[1])); }
    if (VECTORS > 2u) { v[2] = finished(v[2], scale, lane + 2u * TEAM); largest = max(largest, magnitude(v[2])); }
    if (VECTORS > 3u) { v[3] = finished(v[3], scale, lane + 3u * TEAM); largest = max(largest, magnitude(v[3])); }
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

// The sum, which is written as well; behind the row's end 0.
fn sum_at(row: u32, vector: u32) -> vec4<f32> {
    if (vector >= params.vectors) {
        return vec4<f32>();
    }
    let place = row * params.vectors + vector;
    let value = x[params.offsets[0] + place] + after_dropout(y[params.offsets[1] + place], place);
    sum[place] = value;
    return value;
}

fn centred(value: vec4<f32>, mean: f32, vector: u32) -> vec4<f32> {
    return select(vec4<f32>(), value - vec4<f32>(mean), vector < params.vectors);
}

fn finished(value: vec4<f32>, scale: f32, vector: u32) -> vec4<f32> {
    let column = min(vector, params.vectors - 1u);
    let normal = value * scale * weight[params.offsets[2] + column] + bias[params.offsets[3] + column];
    return select(vec4<f32>(), normal, vector < params.vectors);
}

fn write(row: u32, vector: u32, value: vec4<f32>, factor: f32) {
    if (vector < params.vectors) {
        normed[row * params.vectors + vector] = value;
        values[row * params.vectors + vector] = halves(value * factor);
    }
}

// The sum over a row's team, after which another may follow.
fn row_sum(value: f32, local: u32, lane: u32) -> f32 {
    // Until all have read the last one.
    workgroupBarrier();
    return team_sum(value, local, lane);
}
