// factor = min(1, max_norm / (sqrt(sum) + epsilon)); one invocation.

struct Params {
    offset: u32,
    max_norm: f32,
    epsilon: f32,
}

@group(0) @binding(0) var<storage, read> sum_of_squares: array<f32>;
@group(0) @binding(1) var<storage, read_write> factor: array<f32>;
var<immediate> params: Params;

@compute @workgroup_size(1)
fn main() {
    let sum = sum_of_squares[params.offset];
    let quotient = params.max_norm / (sqrt(sum) + params.epsilon);
    // Infinity and NaN have all bits of the exponent; drivers may assume away what comparisons say of them.
    let finite = (bitcast<u32>(sum) & 0x7f800000u) != 0x7f800000u;
    factor[0] = select(0.0, min(quotient, 1.0), finite);
}
