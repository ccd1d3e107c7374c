fn outputs(x: vec4<f32>, total: f32) -> array<vec4<f32>, 1> {
    return array<vec4<f32>, 1>(x * cumulative(x));
}

// The normal distribution.
fn cumulative(x: vec4<f32>) -> vec4<f32> {
    let z = x * 0.70710678;
    return 0.5 + 0.5 * vec4<f32>(erf(z.x), erf(z.y), erf(z.z), erf(z.w));
}
