fn outputs(gate: vec4<f32>, up: vec4<f32>, total: f32) -> array<vec4<f32>, 3> {
    return array<vec4<f32>, 3>(gate / (1.0 + exp(-gate)) * up, gate, up);
}
