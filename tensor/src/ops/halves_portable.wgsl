
alias Halves = vec2<u32>;

// Rounded to f16, in integers.
fn halves(value: vec4<f32>) -> Halves {
    return vec2<u32>(
        f16_bits(value.x) | (f16_bits(value.y) << 16u),
        f16_bits(value.z) | (f16_bits(value.w) << 16u),
    );
}
