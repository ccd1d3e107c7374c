fn outputs(gate: vec4<f32>, up: vec4<f32>, total: f32) -> array<vec4<f32>, 1> {
    return array<vec4<f32>, 1>(gate / (1.0 + exp(-gate)) * up);
}
