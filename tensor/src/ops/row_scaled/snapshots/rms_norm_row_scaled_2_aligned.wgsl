// Computes rows and rounds each to f16 after dividing it by the power of two of its largest magnitude.

struct Params {
    rows: u32,
    columns: u32,
    // Vectors of four in a row, the last padded with zeros.
    vectors: u32,
    // Bounds of the exponents.
    lowest: i32,
    highest: i32,
    // What the kernels' own texts compute with.
    epsilon: f32,
    scale: f32,
    ignore: i32,
    // Of the inputs; of a rounded one's powers of two.
    offsets: array<u32, 3>,
}

var<immediate> params: Params;

// Invocations that share a row: a power of two, at most 256.
override TEAM: u32;

@group(0) @binding(0) var<storage, read_write> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> weight: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> values0: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read_write> scales: array<f32>;
fn rounded(value: vec4<f32>) -> vec2<u32> {
    return vec2<u32>(f16_bits(value.x) | (f16_bits(value.y) << 16u), f16_bits(value.z) | (f16_bits(value.w) << 16u));
}
fn x_at(row: u32, vector: u32) -> vec4<f32> {
    return x[params.offsets[0] / 4u + row * params.vectors + vector];
}
fn weight_at(row: u32, vector: u32) -> vec4<f32> {
    return weight[params.offsets[1] / 4u + 0u * params.vectors + vector];
}
var<workgroup> sums: array<f32, 256>;
var<workgroup> largest_of: array<u32, 256>;

// The sum over a row's team.
fn team_sum(value: f32, local: u32, lane: u32) -> f32 {
    sums[local] = value;
    workgroupBarrier();
    for (var width = TEAM; width > 1u; width = max(width / 4u, 1u)) {
        let step = max(width / 4u, 1u);
        if (lane < step) {
            var total = sums[local];
            for (var other = lane + step; other < width; other += step) {
                total += sums[local + other - lane];
            }
            sums[local] = total;
        }
        workgroupBarrier();
    }
    return sums[local - lane];
}

// The maximum over a row's team.
fn team_max(value: u32, local: u32, lane: u32) -> u32 {
    largest_of[local] = value;
    workgroupBarrier();
    for (var width = TEAM; width > 1u; width = max(width / 4u, 1u)) {
        let step = max(width / 4u, 1u);
        if (lane < step) {
            var largest = largest_of[local];
            for (var other = lane + step; other < width; other += step) {
                largest = max(largest, largest_of[local + other - lane]);
            }
            largest_of[local] = largest;
        }
        workgroupBarrier();
    }
    return largest_of[local - lane];
}

// Bits of the largest |x|: magnitudes are in the order of their bits, NaN the largest.
fn magnitude(value: vec4<f32>) -> u32 {
    let bits = bitcast<vec4<u32>>(value) & vec4<u32>(0x7fffffffu);
    return max(max(bits.x, bits.y), max(bits.z, bits.w));
}

fn exponent_of(magnitude: u32) -> i32 {
    return clamp(i32(magnitude >> 23u) - 127, params.lowest, params.highest);
}

fn unpacked(words: vec2<u32>) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y));
}

fn statistic(x: vec4<f32>, weight: vec4<f32>) -> f32 {
    return dot(x, x);
}

fn outputs(x: vec4<f32>, weight: vec4<f32>, total: f32) -> array<vec4<f32>, 1> {
    let scale = 1.0 / sqrt(total / f32(params.columns) + params.epsilon);
    return array<vec4<f32>, 1>(x * scale * weight);
}

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
    let x0 = x_at(row, min(lane + 0u * TEAM, params.vectors - 1u));
    let weight0 = weight_at(row, min(lane + 0u * TEAM, params.vectors - 1u));
    let x1 = x_at(row, min(lane + 1u * TEAM, params.vectors - 1u));
    let weight1 = weight_at(row, min(lane + 1u * TEAM, params.vectors - 1u));
    var total = 0.0;
    {
        let first = lane;
        total += select(0.0, statistic(x0, weight0), first + 0u * TEAM < params.vectors);
        total += select(0.0, statistic(x1, weight1), first + 1u * TEAM < params.vectors);
    }
    total = team_sum(total, local, lane);
    let first = lane;
    let made0 = outputs(x0, weight0, total);
    let made1 = outputs(x1, weight1, total);
    var largest = u32();
    {
        let first = lane;
        largest = max(largest, u32(magnitude(made0[0])));
        largest = max(largest, u32(magnitude(made1[0])));
    }
    largest = team_max(largest, local, lane);
    let exponent0 = exponent_of(largest);
    let factor0 = power_of_two(-exponent0);
    if (lane == 0u && present) {
        scales[0u * params.rows + row] = power_of_two(exponent0);
    }
    {
        let first = lane;
        if (present && first + 0u * TEAM < params.vectors) {
            values0[row * params.vectors + first + 0u * TEAM] = rounded(made0[0] * factor0);
        }
        if (present && first + 1u * TEAM < params.vectors) {
            values0[row * params.vectors + first + 1u * TEAM] = rounded(made1[0] * factor0);
        }
    }
}
