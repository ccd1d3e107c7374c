// The exponents of the workgroup's lines.
var<workgroup> exponents: array<i32, 128>;

fn line_exponent(line: u32) -> i32 {
let first = bitcast<u32>(first_scales[params.first_offset + line]) >> 23u;
let second = bitcast<u32>(second_scales[params.second_offset + line]) >> 23u;
return i32(first + second) - 254;
}

fn line_weight(line: u32, largest: i32) -> f32 {
let last = min(line, params.k - 1u);
return select(0.0, power_of_two(clamp(line_exponent(last) - largest, -126, 126)), line < params.k);
}
