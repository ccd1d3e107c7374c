fn statistic(x: vec4<f32>, weight: vec4<f32>) -> f32 {
    return dot(x, x);
}

fn outputs(x: vec4<f32>, weight: vec4<f32>, total: f32) -> array<vec4<f32>, 1> {
    let scale = 1.0 / sqrt(total / f32(params.columns) + params.epsilon);
    return array<vec4<f32>, 1>(x * scale * weight);
}
