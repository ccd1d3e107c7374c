
// Dropout of the four elements of a row's quad: 0 or the factor of each.
fn kept_factors(row: u32, quad: u32) -> vec4<f32> {
    let block = row * ((params.sequence + 3u) / 4u) + quad;
    let words = philox(block, params.step, params.stream, params.seed);
    return select(vec4<f32>(params.kept_scale), vec4<f32>(0.0), words < vec4<u32>(params.threshold));
}

