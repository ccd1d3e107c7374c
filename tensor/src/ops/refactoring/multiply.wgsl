// out(i, k) = Σ_j matrix(i, j)·x(j, k) for the items of several slots: gradients of A `[rank, length]` and, transposed,
// of B `[length, rank]`. A template: see ops/slots.rs. The matrices are symmetric.
//
// A workgroup has TILE rows i and 2048 / TILE columns k of one item; an invocation has 8 rows of one column.

override TILE: u32;

struct Params {
    // The first slot's line in the table.
    first: u32,
    offsets: array<u32, 16>,
}

const LINE: u32 = 5u;
const RANK: u32 = 0u;
const LENGTH: u32 = 1u;
const TRANSPOSED: u32 = 2u;
// Number of its first workgroup among those of all items.
const GROUP: u32 = 3u;
const MATRIX: u32 = 4u;

@group(0) @binding(0) var<storage, read> table: array<u32>;
@group(0) @binding(1) var<storage, read> matrices: array<f32>;
// for each slot
@group(0) @binding(2 * SLOT + 2) var<storage, read> x_SLOT: array<f32>;
@group(0) @binding(2 * SLOT + 3) var<storage, read_write> out_SLOT: array<f32>;
// end
var<immediate> params: Params;

var<workgroup> rows: array<f32, 2048>;
// Element (i, j) at j·TILE + i.
var<workgroup> matrix: array<f32, TILE * TILE>;

fn load(slot: u32, index: u32) -> f32 {
    switch (slot) {
        // for each slot
        case SLOTu: {
            return x_SLOT[params.offsets[SLOT] + index];
        }
        // end
        default: {
            return 0.0;
        }
    }
}

fn store(slot: u32, index: u32, value: f32) {
    switch (slot) {
        // for each slot
        case SLOTu: {
            out_SLOT[index] = value;
        }
        // end
        default: {}
    }
}

fn of_line(line: u32, field: u32) -> u32 {
    return table[line * LINE + field];
}

fn position(line: u32, row: u32, column: u32) -> u32 {
    if (of_line(line, TRANSPOSED) == 1u) {
        return column * of_line(line, RANK) + row;
    }
    return row * of_line(line, LENGTH) + column;
}

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let number = of_line(params.first, GROUP) + group.y * groups.x + group.x;
    let slot = slot_of(number, params.first, LINE, GROUP);
    if (slot == SLOTS) {
        return;
    }
    let line = params.first + slot;
    let n = of_line(line, RANK);
    let length = of_line(line, LENGTH);
    let transposed = of_line(line, TRANSPOSED) == 1u;
    let columns = 2048u / TILE;
    let tiles = (n + TILE - 1u) / TILE;
    let within = number - of_line(line, GROUP);
    let row_start = (within % tiles) * TILE;
    let column_start = (within / tiles) * columns;
    let column = local % columns;
    let first_row = 8u * (local / columns);
    var low = vec4<f32>();
    var high = vec4<f32>();
    for (var start = 0u; start < n; start += TILE) {
        workgroupBarrier();
        for (var index = local; index < 2048u; index += 256u) {
            var at = vec2<u32>(index / columns, index % columns);
            if (transposed) {
                at = vec2<u32>(index % TILE, index / TILE);
            }
            var value = 0.0;
            if (start + at.x < n && column_start + at.y < length) {
                value = load(slot, position(line, start + at.x, column_start + at.y));
            }
            rows[at.x * columns + at.y] = value;
        }
        for (var index = local; index < TILE * TILE; index += 256u) {
            let i = row_start + index % TILE;
            let j = start + index / TILE;
            var value = 0.0;
            if (i < n && j < n) {
                value = matrices[of_line(line, MATRIX) + j * n + i];
            }
            matrix[index] = value;
        }
        workgroupBarrier();
        for (var j = 0u; j < TILE; j += 1u) {
            let x = rows[j * columns + column];
            let m = j * TILE + first_row;
            low += x * vec4<f32>(matrix[m], matrix[m + 1u], matrix[m + 2u], matrix[m + 3u]);
            high += x * vec4<f32>(matrix[m + 4u], matrix[m + 5u], matrix[m + 6u], matrix[m + 7u]);
        }
    }
    if (column_start + column >= length) {
        return;
    }
    for (var r = 0u; r < 8u; r += 1u) {
        let row = row_start + first_row + r;
        if (row < n) {
            let value = select(high[r & 3u], low[r & 3u], r < 4u);
            store(slot, position(line, row, column_start + column), value);
        }
    }
}
