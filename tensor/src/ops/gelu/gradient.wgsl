fn outputs(x: vec4<f32>, upstream: vec4<f32>, total: f32) -> array<vec4<f32>, 1> {
    let z = x * 0.70710678;
    let cumulative = 0.5 + 0.5 * vec4<f32>(erf(z.x), erf(z.y), erf(z.z), erf(z.w));
    let density = 0.3989423 * exp(-0.5 * x * x);
    return array<vec4<f32>, 1>(upstream * (cumulative + x * density));
}
