// Copies a matrix that is stored column after column into row-major order, in tiles through workgroup memory, so that
// reads and writes both touch neighbouring words. 32-bit elements of any type; a tile is 32 x 32, an invocation moves
// four elements. Rows of the tile are one word longer, so that columns fall into different banks.

struct Params {
    rows: u32,
    columns: u32,
    offset: u32,
    column_stride: u32,
}

@group(0) @binding(0) var<storage, read> source: array<u32>;
@group(0) @binding(1) var<storage, read_write> target_words: array<u32>;
var<immediate> params: Params;

var<workgroup> tile: array<u32, 1056>;

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) local: u32, @builtin(workgroup_id) group: vec3<u32>) {
    let lane = local % 32u;
    let line = local / 32u;
    let first_row = group.y * 32u;
    let first_column = group.x * 32u;
    // Beyond the edges the last row and column are read again, and not written.
    let row = min(first_row + lane, params.rows - 1u);
    for (var i = 0u; i < 32u; i += 8u) {
        let column = min(first_column + line + i, params.columns - 1u);
        tile[(line + i) * 33u + lane] = source[params.offset + row + column * params.column_stride];
    }
    workgroupBarrier();
    let column = first_column + lane;
    for (var i = 0u; i < 32u; i += 8u) {
        let out_row = first_row + line + i;
        if (column < params.columns && out_row < params.rows) {
            target_words[out_row * params.columns + column] = tile[lane * 33u + line + i];
        }
    }
}
