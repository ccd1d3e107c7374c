
struct Params {
    seed: vec2<u32>,
    stream: vec2<u32>,
    step: u32,
    // Of dropout: random words below it drop an element, and what kept ones are multiplied by.
    threshold: u32,
    kept_scale: f32,
    rows: u32,
    // In a row.
    vectors: u32,
    epsilon: f32,
    // Bounds of the exponents.
    lowest: i32,
    highest: i32,
    // Of the inputs, in vectors.
    offsets: array<u32, 4>,
}

var<immediate> params: Params;

// Invocations that share a row: a power of two, at most 256.
override TEAM: u32;
// Vectors of a row for each of them: 1 to 4.
override VECTORS: u32;
override DROPOUT: bool;

// The vector at a place after dropout. It is one Philox block of the mask.
fn after_dropout(value: vec4<f32>, place: u32) -> vec4<f32> {
    if (DROPOUT) {
        let words = philox(place, params.step, params.stream, params.seed);
        return select(params.kept_scale * value, vec4<f32>(), words < vec4<u32>(params.threshold));
    }
    return value;
}

fn total_of(value: vec4<f32>) -> f32 {
    return (value.x + value.y) + (value.z + value.w);
}
