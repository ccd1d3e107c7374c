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

// Invocations that share a row, or two rows of a tile: a power of two, at most as many as a workgroup has.
override TEAM: u32;

@group(0) @binding(0) var<storage, read_write> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> weight: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> values0: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> scales: array<f32>;
fn rounded(value: vec4<f32>) -> vec2<u32> {
    return vec2<u32>(f16_bits(value.x) | (f16_bits(value.y) << 16u), f16_bits(value.z) | (f16_bits(value.w) << 16u));
}
fn words_of(value: vec4<f32>) -> vec2<u32> {
    return rounded(value);
}
fn x_at(row: u32, vector: u32) -> vec4<f32> {
    return x[params.offsets[0] / 4u + row * params.vectors + vector];
}
fn weight_at(row: u32, vector: u32) -> vec4<f32> {
    return weight[params.offsets[1] / 4u + 0u * params.vectors + vector];
}
var<workgroup> sums: array<f32, 1024>;
var<workgroup> largest_of: array<u32, 1024>;

// The sum over a row's team, for the first or the second of its rows.
fn team_sum(value: f32, which: u32, local: u32, lane: u32) -> f32 {
    let place = 512u * which + local;
    sums[place] = value;
    workgroupBarrier();
    for (var step = TEAM / 2u; step > 0u; step /= 2u) {
        if (lane < step) {
            sums[place] += sums[place + step];
        }
        workgroupBarrier();
    }
    return sums[place - lane];
}

// The maximum over a row's team, likewise.
fn team_max(value: u32, which: u32, local: u32, lane: u32) -> u32 {
    let place = 512u * which + local;
    largest_of[place] = value;
    workgroupBarrier();
    for (var step = TEAM / 2u; step > 0u; step /= 2u) {
        if (lane < step) {
            largest_of[place] = max(largest_of[place], largest_of[place + step]);
        }
        workgroupBarrier();
    }
    return largest_of[place - lane];
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

// The chunk of a left operand's tiles that has a vector of four columns of a row and of its neighbour; see gpu/tiles.rs.
fn left_chunk(row: u32, vector: u32, vectors: u32) -> u32 {
    let half_tile = (row / 32u * 2u + row % 4u / 2u) * (vectors / 4u) + vector / 4u;
    let quad = row % 32u / 4u;
    return half_tile * 32u + quad * 4u + vector % 4u;
}


@compute @workgroup_size(512)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let lane = local % TEAM;
    let place = (group.y * groups.x + group.x) * (512u / TEAM) + local / TEAM;
    // Teams without rows compute the last two and write nothing.
    let present = 2u * place < params.rows;
    let row_upper = min(2u * place, params.rows - 2u);
    let row_lower = row_upper + 1u;
    let x_upper0 = x_at(row_upper, min(lane + 0u * TEAM, params.vectors - 1u));
    let x_lower0 = x_at(row_lower, min(lane + 0u * TEAM, params.vectors - 1u));
    let weight0 = weight_at(0u, min(lane + 0u * TEAM, params.vectors - 1u));
    let x_upper1 = x_at(row_upper, min(lane + 1u * TEAM, params.vectors - 1u));
    let x_lower1 = x_at(row_lower, min(lane + 1u * TEAM, params.vectors - 1u));
    let weight1 = weight_at(0u, min(lane + 1u * TEAM, params.vectors - 1u));
    var total_upper = 0.0;
    var total_lower = 0.0;
    {
        let first = lane;
        total_upper += select(0.0, statistic(x_upper0, weight0), first + 0u * TEAM < params.vectors);
        total_lower += select(0.0, statistic(x_lower0, weight0), first + 0u * TEAM < params.vectors);
        total_upper += select(0.0, statistic(x_upper1, weight1), first + 1u * TEAM < params.vectors);
        total_lower += select(0.0, statistic(x_lower1, weight1), first + 1u * TEAM < params.vectors);
    }
    total_upper = team_sum(total_upper, 0u, local, lane);
    total_lower = team_sum(total_lower, 1u, local, lane);
    let first = lane;
    let made_upper0 = outputs(x_upper0, weight0, total_upper);
    let made_lower0 = outputs(x_lower0, weight0, total_lower);
    let made_upper1 = outputs(x_upper1, weight1, total_upper);
    let made_lower1 = outputs(x_lower1, weight1, total_lower);
    var largest_upper = u32();
    var largest_lower = u32();
    {
        let first = lane;
        largest_upper = max(largest_upper, u32(magnitude(made_upper0[0])));
        largest_lower = max(largest_lower, u32(magnitude(made_lower0[0])));
        largest_upper = max(largest_upper, u32(magnitude(made_upper1[0])));
        largest_lower = max(largest_lower, u32(magnitude(made_lower1[0])));
    }
    largest_upper = team_max(largest_upper, 0u, local, lane);
    largest_lower = team_max(largest_lower, 1u, local, lane);
    let exponent_upper0 = exponent_of(largest_upper);
    let factor_upper0 = power_of_two(-exponent_upper0);
    let exponent_lower0 = exponent_of(largest_lower);
    let factor_lower0 = power_of_two(-exponent_lower0);
    if (lane == 0u && present) {
        scales[0u * params.rows + row_upper] = power_of_two(exponent_upper0);
        scales[0u * params.rows + row_lower] = power_of_two(exponent_lower0);
    }
    {
        let first = lane;
        if (present && first + 0u * TEAM < params.vectors) {
            values0[left_chunk(row_upper, first + 0u * TEAM, params.vectors)] = vec4<u32>(words_of(made_upper0[0] * factor_upper0), words_of(made_lower0[0] * factor_lower0)).xzyw;
        }
        if (present && first + 1u * TEAM < params.vectors) {
            values0[left_chunk(row_upper, first + 1u * TEAM, params.vectors)] = vec4<u32>(words_of(made_upper1[0] * factor_upper0), words_of(made_lower1[0] * factor_lower0)).xzyw;
        }
    }
}
