
// The chunk of a left operand's tiles that has a vector of four columns of a row and of its neighbour; see gpu/tiles.rs.
fn left_chunk(row: u32, vector: u32, vectors: u32) -> u32 {
    let half_tile = (row / 32u * 2u + row % 4u / 2u) * (vectors / 4u) + vector / 4u;
    let quad = row % 32u / 4u;
    return half_tile * 32u + quad * 4u + vector % 4u;
}
