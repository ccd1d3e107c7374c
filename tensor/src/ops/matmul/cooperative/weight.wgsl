// The exponents of the workgroup's lines.
var<workgroup> exponents: array<i32, 128>;

// The exponent of a product of two powers of two.
fn exponent_of(first: f32, second: f32) -> i32 {
return i32((bitcast<u32>(first) >> 23u) + (bitcast<u32>(second) >> 23u)) - 254;
}

fn line_weight(line: u32, exponent: i32, largest: i32) -> f32 {
return select(0.0, power_of_two(clamp(exponent - largest, -126, 126)), line < params.k);
}
