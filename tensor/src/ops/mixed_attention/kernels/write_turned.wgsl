
// Writes a vector of the first half of a head's row and its partner in the second, turned back.
fn write_$sum(
    row: u32,
    low_place: u32,
    high_place: u32,
    out: u32,
    result: f32,
    cosine: vec4<f32>,
    sine: vec4<f32>,
) {
    if (row < params.sequence) {
        let low = scores[low_place] * result;
        let high = scores[high_place] * result;
        $sum_rows[out] = low * cosine + high * sine;
        $sum_rows[out + HEAD_VECTORS / 2u] = high * cosine - low * sine;
    }
}
