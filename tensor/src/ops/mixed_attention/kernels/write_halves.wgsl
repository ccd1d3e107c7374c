
// Writes a vector of the first half of a head's row and its partner in the second.
fn write_$sum(row: u32, place: u32, out: u32, result: f32) {
    if (row < params.sequence) {
        $sum_rows[out] = scores[place] * result;
        $sum_rows[out + HEAD_VECTORS / 2u] = scores[place + 4u * SCORES] * result;
    }
}
