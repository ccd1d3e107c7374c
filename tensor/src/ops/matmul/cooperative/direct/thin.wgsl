// Where a vector of a row of the result is among a subgroup's. Eight invocations with rows or vectors beside each other use all
// banks.
fn place_of(row: u32, vector: u32) -> u32 {
    return row * 8u + (vector ^ (row % 8u));
}
