struct Params {
    batch: u32,
    heads: u32,
    kv_heads: u32,
    sequence: u32,
    row_blocks: u32,
    // Query i sees the keys up to i + query_offset; as large as the sequence where all are seen.
    query_offset: u32,
    // 1 if there is a mask, else the binding is not read; then its first element, and its strides of batch and key.
    is_masked: u32,
    mask_offset: u32,
    mask_batch: u32,
    mask_key: u32,
    // Vectors before the first row of the tables.
    cosines_offset: u32,
    sines_offset: u32,
    scale: f32,
}
var<immediate> params: Params;

// Below every score; stands for a score that is not seen (WGSL has no literal for -inf).
const LOWEST: f32 = -3.0e38;
const LOG2_E: f32 = 1.4426950408889634;
// Probabilities are at most 1, and f16 ends at 65504.
const PROBABILITY: f32 = 16384.0;

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
