// out(i, k) = Σ_j matrix(i, j)·x(j, k) for the items of several slots: gradients of A `[rank, length]` and, transposed,
// of B `[length, rank]`. A template (fetch.wgsl is appended): see ops/slots.rs. The matrices are symmetric.
//
// A workgroup has TILE rows i and 2048 / TILE columns k of one item; an invocation has 8 rows of one column, and fetches
// and puts 8 elements of a tile that lie 256 invocations apart.

override TILE: u32;

struct Params {
    // The first slot's line in the table.
    first: u32,
    offsets: array<u32, 30>,
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

// A tile of x, later of the output: element (row, column) at row·(columns + 1) + column.
var<workgroup> rows: array<f32, 2048 + TILE>;
// Elements (4·i .. 4·i + 4, j) at j·TILE / 4 + i.
var<workgroup> matrix: array<vec4<f32>, TILE * TILE / 4>;

// Puts the first `count` of four elements.
fn put(slot: u32, start: u32, step: u32, count: u32, values: vec4<f32>) {
    switch (slot) {
        // for each slot
        case SLOTu: {
            if (count > 0u) { out_SLOT[start] = values.x; }
            if (count > 1u) { out_SLOT[start + step] = values.y; }
            if (count > 2u) { out_SLOT[start + 2u * step] = values.z; }
            if (count > 3u) { out_SLOT[start + 3u * step] = values.w; }
        }
        // end
        default: {}
    }
}

// How an invocation goes through 8 elements of a tile of an item, neighbours in memory together: in the tile's memory from
// `place` by `place_step`, in the item from `start` by `step`; `count` of them exist.
struct Walk {
    place: u32,
    place_step: u32,
    start: u32,
    step: u32,
    count: u32,
}

fn walk(line: u32, row_start: u32, column_start: u32, local: u32) -> Walk {
    let n = of_line(line, RANK);
    let length = of_line(line, LENGTH);
    let columns = 2048u / TILE;
    if (of_line(line, TRANSPOSED) == 1u) {
        let row = local % TILE;
        let column = local / TILE;
        let apart = 256u / TILE;
        let count = rest_of(length, column_start + column, apart) * select(0u, 1u, row_start + row < n);
        let start = (column_start + column) * n + row_start + row;
        return Walk(row * (columns + 1u) + column, apart, start, apart * n, count);
    }
    let row = local / columns;
    let column = local % columns;
    let apart = 256u / columns;
    let count = rest_of(n, row_start + row, apart) * select(0u, 1u, column_start + column < length);
    let start = (row_start + row) * length + column_start + column;
    return Walk(row * (columns + 1u) + column, apart * (columns + 1u), start, apart * length, count);
}

// How many of first, first + apart, … are below the end.
fn rest_of(end: u32, first: u32, apart: u32) -> u32 {
    return (max(end, first) - first + apart - 1u) / apart;
}

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let slot = group.y;
    let line = params.first + slot;
    let number = number_of(line, group, groups);
    if (number >= of_line(line + 1u, GROUP)) {
        return;
    }
    let n = of_line(line, RANK);
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
        let walked = walk(line, start, column_start, local);
        let x_low = fetch(slot, walked.start, walked.step, walked.count);
        let x_high = fetch(slot, walked.start + 4u * walked.step, walked.step, max(walked.count, 4u) - 4u);
        workgroupBarrier();
        for (var k = 0u; k < 4u; k += 1u) {
            rows[walked.place + k * walked.place_step] = x_low[k];
            rows[walked.place + (4u + k) * walked.place_step] = x_high[k];
        }
        for (var index = local; index < TILE * TILE / 4u; index += 256u) {
            matrix[index] = matrix_part(line, row_start + 4u * (index % (TILE / 4u)), start + index / (TILE / 4u));
        }
        workgroupBarrier();
        for (var j = 0u; j < TILE; j += 1u) {
            let x = rows[j * (columns + 1u) + column];
            let m = (j * TILE + first_row) / 4u;
            low += x * matrix[m];
            high += x * matrix[m + 1u];
        }
    }
    workgroupBarrier();
    for (var r = 0u; r < 4u; r += 1u) {
        rows[(first_row + r) * (columns + 1u) + column] = low[r];
        rows[(first_row + 4u + r) * (columns + 1u) + column] = high[r];
    }
    workgroupBarrier();
    let to = walk(line, row_start, column_start, local);
    for (var k = 0u; k < 4u; k += 1u) {
        low[k] = rows[to.place + k * to.place_step];
        high[k] = rows[to.place + (4u + k) * to.place_step];
    }
    put(slot, to.start, to.step, to.count, low);
    put(slot, to.start + 4u * to.step, to.step, max(to.count, 4u) - 4u, high);
}

// Four rows of column j.
fn matrix_part(line: u32, i: u32, j: u32) -> vec4<f32> {
    let n = of_line(line, RANK);
    let start = of_line(line, MATRIX) + j * n + i;
    var values = vec4<f32>();
    for (var r = 0u; r < 4u; r += 1u) {
        if (i + r < n && j < n) {
            values[r] = matrices[start + r];
        }
    }
    return values;
}
