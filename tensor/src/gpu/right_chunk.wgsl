
// The chunk of a right operand's tiles that has a vector of four columns of a row and of its neighbour; see gpu/tiles.rs.
fn right_chunk(row: u32, vector: u32, vectors: u32) -> u32 {
    let tile = row / 32u * (vectors / 4u) + vector / 4u;
    let quad = row % 32u / 4u;
    return tile * 64u + row % 4u / 2u * 32u + quad * 4u + vector % 4u;
}
