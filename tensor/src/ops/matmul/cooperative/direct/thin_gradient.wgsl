
// The exponent of a row's weight.
fn exponent_of(row: u32) -> i32 {
    let first = bitcast<u32>(first_scales[params.first_offset + row]) >> 23u;
    let second = bitcast<u32>(second_scales[params.second_offset + row]) >> 23u;
    return i32(first + second) - 254;
}

// Of a share's 32 rows each invocation knows the weight of one; these are those of four from a row on.
fn weights(weight: f32, row: u32) -> vec4<f32> {
    return vec4<f32>(
        subgroupShuffle(weight, row),
        subgroupShuffle(weight, row + 1u),
        subgroupShuffle(weight, row + 2u),
        subgroupShuffle(weight, row + 3u),
    );
}

// Words of two rows times the rows' weights.
fn weighted(words: vec2<u32>, weights: vec2<f32>) -> vec2<u32> {
    return vec2<u32>(
        pack2x16float(unpack2x16float(words.x) * weights.x),
        pack2x16float(unpack2x16float(words.y) * weights.y),
    );
}

fn matrix_a_of_rows(first: vec2<u32>, second: vec2<u32>) -> coop_mat16x16<f32, A> {
    return coop_mat16x16<f32, A>();
}

// Writes four numbers of the result, or adds them to it.
fn add(first: u32, step: u32, sum: vec4<f32>) {
    var before = vec4<f32>();
    if (params.accumulate != 0u) {
        before = vec4<f32>(out[first], out[first + step], out[first + 2u * step], out[first + 3u * step]);
    }
    let result = sum + before;
    out[first] = result.x;
    out[first + step] = result.y;
    out[first + 2u * step] = result.z;
    out[first + 3u * step] = result.w;
}
