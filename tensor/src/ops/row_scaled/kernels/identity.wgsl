fn outputs(x: vec4<f32>, total: f32) -> array<vec4<f32>, 1> {
    return array<vec4<f32>, 1>(x);
}
