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
    // In this order NaN stays NaN: it is not above 1. Infinity is asked by its bits, since drivers may assume it away.
    let clipped = select(quotient, 1.0, quotient > 1.0);
    factor[0] = select(select(clipped, sum, is_nan(sum)), 0.0, bitcast<u32>(sum) == 0x7f800000u);
}
