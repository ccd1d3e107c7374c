struct Elements {
    upper: vec4<f32>,
    lower: vec4<f32>,
}

// Bodies that WGSL has no words for: the invocation's elements of a matrix.
fn matrix_a(words: vec4<u32>) -> coop_mat16x16<f32, A> {
    return coop_mat16x16<f32, A>();
}

fn matrix_b(words: vec4<u32>) -> coop_mat16x16<f32, B> {
    return coop_mat16x16<f32, B>();
}

fn matrix_b_of_rows(first: vec2<u32>, second: vec2<u32>) -> coop_mat16x16<f32, B> {
    return coop_mat16x16<f32, B>();
}

fn elements(sum: coop_mat16x16<f32, C>) -> Elements {
    return Elements();
}
