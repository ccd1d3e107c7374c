fn outputs(x: vec4<f32>, sum: f32, label: i32, columns: vec4<u32>, total: f32) -> array<vec4<f32>, 1> {
    if (label == params.ignore) {
        return array<vec4<f32>, 1>(vec4<f32>());
    }
    let is_label = select(vec4<f32>(), vec4<f32>(1.0), columns == vec4<u32>(u32(label)));
    var gradient = params.scale * (exp(x - sum) - is_label);
    if (label < 0 || u32(label) >= params.columns) {
        // NaN, which WGSL has no literal for.
        gradient = bitcast<vec4<f32>>(vec4<u32>(0x7fc00000u | params.rows));
    }
    return array<vec4<f32>, 1>(select(gradient, vec4<f32>(), columns >= vec4<u32>(params.columns)));
}
