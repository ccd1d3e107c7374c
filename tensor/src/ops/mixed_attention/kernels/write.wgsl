
// Writes a vector of a head's row.
fn write_$sum(row: u32, place: u32, out: u32, result: f32) {
    if (row < params.sequence) {
        $sum_rows[out] = vec4<f16>(scores[place] * result);
    }
}
