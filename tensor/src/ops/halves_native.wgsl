
alias Halves = vec4<f16>;

// Rounded to f16.
fn halves(value: vec4<f32>) -> Halves {
    return vec4<f16>(value);
}
