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

