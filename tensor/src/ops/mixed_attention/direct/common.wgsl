fn scaled(sum: coop_mat16x16<f32, C>, upper: f32, lower: f32) -> coop_mat16x16<f32, C> {
    return sum;
}

// Two rows of four factors as the elements of a left operand.
fn factors(upper: vec4<f32>, lower: vec4<f32>) -> coop_mat16x16<f32, A> {
    return matrix_a(
        vec4<u32>(
            pack2x16float(upper.xy),
            pack2x16float(upper.zw),
            pack2x16float(lower.xy),
            pack2x16float(lower.zw),
        )
    );
}

// The numbers of an invocation's columns of 16: the pair's two, and the two that are eight further.
fn of_columns(first: vec2<f32>, second: vec2<f32>) -> vec4<f32> {
    return vec4<f32>(first.x, second.x, first.y, second.y);
}

fn columns_of(first: u32) -> vec4<u32> {
    return vec4<u32>(first, first + 8u, first + 1u, first + 9u);
}

// Of a power of two.
fn inverse(power: f32) -> f32 {
    return bitcast<f32>(0x7f000000u - bitcast<u32>(power));
}

fn largest_of(value: vec4<f32>) -> f32 {
    return max(max(value.x, value.y), max(value.z, value.w));
}

fn total_of(value: vec4<f32>) -> f32 {
    return (value.x + value.y) + (value.z + value.w);
}

// The largest scales of a batch row, of the operands in the order of scales_at.
fn largest_scales(lane: u32, tokens: u32) -> vec4<f32> {
    var largest = vec4<f32>();
    for (var i = lane; i < params.sequence / 2u; i += 32u) {
        largest = max(largest, scales_at(tokens / 2u + i));
    }
    return subgroupMax(largest);
}
