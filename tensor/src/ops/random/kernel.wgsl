// Fills a tensor with random numbers; one invocation makes the four elements of one Philox block.
// NORMAL: shift + scale·z, else min(shift + scale·u, largest). Logarithm, sine and cosine are the CPU's polynomials
// (`cpu.rs`), since drivers' own differ in accuracy.

struct Params {
    seed: vec2<u32>,
    stream: vec2<u32>,
    step: u32,
    count: u32,
    shift: f32,
    scale: f32,
    largest: f32,
    // Always 0, which the compiler cannot know: keeps it from fusing a product into the sum that follows.
    zero: u32,
}

@group(0) @binding(0) var<storage, read_write> out: array<f32>;
var<immediate> params: Params;

override NORMAL: bool;

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let block = linear_id(local, group, groups, 256u);
    if (block >= (params.count + 3u) / 4u) {
        return;
    }
    let words = philox(block, params.step, params.stream, params.seed);
    var standard = vec4<f32>(words >> vec4<u32>(8u)) * (1.0 / 16777216.0);
    if (NORMAL) {
        standard = vec4<f32>(normal_pair(words.x, words.y), normal_pair(words.z, words.w));
    }
    let scaled = bitcast<vec4<f32>>(bitcast<vec4<u32>>(standard * params.scale) | vec4<u32>(params.zero));
    var values = vec4<f32>(params.shift) + scaled;
    if (!NORMAL) {
        values = min(values, vec4<f32>(params.largest));
    }
    for (var i = 0u; i < min(4u, params.count - 4u * block); i += 1u) {
        out[4u * block + i] = values[i];
    }
}

fn normal_pair(radius_word: u32, angle_word: u32) -> vec2<f32> {
    let radius = sqrt(max(-2.0 * logarithm_of_unit((radius_word >> 8u) + 1u), 0.0));
    return radius * circle(angle_word >> 8u);
}

fn logarithm_of_unit(n: u32) -> f32 {
    let bits = bitcast<i32>(f32(n));
    let exponent = (bits - 0x3f3504f3) >> 23u;
    let m = bitcast<f32>(bits - (exponent << 23u)) - 1.0;
    let e = f32(exponent - 24);
    let z = m * m;
    var p = 7.0376836e-2;
    p = p * m - 1.151461e-1;
    p = p * m + 1.1676999e-1;
    p = p * m - 1.2420141e-1;
    p = p * m + 1.4249323e-1;
    p = p * m - 1.6668058e-1;
    p = p * m + 2.0000715e-1;
    p = p * m - 2.4999994e-1;
    p = p * m + 3.333333e-1;
    let tail = p * m * z - 2.1219444e-4 * e - 0.5 * z;
    return 0.6933594 * e + (m + tail);
}

fn circle(n: u32) -> vec2<f32> {
    let shifted = n + 0x200000u;
    let rest = i32(shifted & 0x3fffffu) - 0x200000;
    let x = f32(rest) * (6.2831853 / 16777216.0);
    let z = x * x;
    let sine = ((-1.9515296e-4 * z + 8.332161e-3) * z - 1.6666655e-1) * z * x + x;
    let cosine = ((2.4433157e-5 * z - 1.3887316e-3) * z + 4.1666646e-2) * z * z - 0.5 * z + 1.0;
    let quadrant = shifted >> 22u;
    let half_turn = select(1.0, -1.0, (quadrant & 2u) != 0u);
    return half_turn * select(vec2<f32>(cosine, sine), vec2<f32>(-sine, cosine), (quadrant & 1u) != 0u);
}
