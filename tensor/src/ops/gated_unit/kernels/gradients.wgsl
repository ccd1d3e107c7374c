fn outputs(gate: vec4<f32>, up: vec4<f32>, upstream: vec4<f32>, total: f32) -> array<vec4<f32>, 2> {
    let s = 1.0 / (1.0 + exp(-gate));
    return array<vec4<f32>, 2>(upstream * up * (s * (1.0 + gate * (1.0 - s))), upstream * (gate * s));
}
