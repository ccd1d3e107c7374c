fn outputs(x: vec4<f32>, y: vec4<f32>, z: vec4<f32>, total: f32) -> array<vec4<f32>, 3> {
    return array<vec4<f32>, 3>(x, y, z);
}
