
// Writes a vector of the first half of a head's row and its partner in the second.
fn write_$sum(row: u32, low_place: u32, high_place: u32, out: u32, result: f32) {
    if (row < params.sequence) {
        $sum_rows[out] = scores[low_place] * result;
        $sum_rows[out + HEAD_VECTORS / 2u] = scores[high_place] * result;
    }
}
