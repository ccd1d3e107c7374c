
// 1 for values in tiles.
override TILED: u32;

// Where a vector is in the storage of values: in rows, or in tiles of 16 rows and 32 columns, see gpu/tiles.rs.
fn place_in_storage(row: u32, vector: u32, vectors: u32) -> u32 {
    if (TILED == 0u) {
        return row * vectors + vector;
    }
    let tile = row / 16u * (vectors / 8u) + vector / 8u;
    let quad = vector % 8u;
    let chunk = quad % 4u / 2u * 32u + row % 16u / 2u * 4u + quad % 2u + quad / 4u * 2u;
    return tile * 128u + chunk * 2u + row % 2u;
}
