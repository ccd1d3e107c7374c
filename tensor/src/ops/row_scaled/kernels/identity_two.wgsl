fn outputs(x: vec4<f32>, y: vec4<f32>, total: f32) -> array<vec4<f32>, 2> {
    return array<vec4<f32>, 2>(x, y);
}
