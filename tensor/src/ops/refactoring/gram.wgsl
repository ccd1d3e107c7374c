// Partial Gram matrices of the factors in several slots, in double precision (double.wgsl is appended). A template: see
// ops/slots.rs. One workgroup adds up x(i, k)·x(j, k) over a chunk of k for one tile of TILE x TILE pairs (i, j), i ≥ j
// by tiles, of one factor. Elements are scaled by a power of two so that the chunk's largest magnitude lies in [1, 2):
// products of 1e±20 leave the range of f32. The chunk is read twice for it, the second time from a cache.
//
// 256 invocations: TILE/2 x TILE/2 of them have 2 x 2 sums each; what is left over divides the chunk's columns.

override TILE: u32;
// Columns staged at once: TILE·STAGE = 1024.
override STAGE: u32;

struct Params {
    zero: u32,
    // The first slot's line in the table.
    first: u32,
    offsets: array<u32, 16>,
}

// A factor's line in the table.
const LINE: u32 = 6u;
const RANK: u32 = 0u;
const LENGTH: u32 = 1u;
// 0 for `[rank, length]`, 1 for `[length, rank]`.
const TRANSPOSED: u32 = 2u;
// Number of its first workgroup among those of all factors.
const GROUP: u32 = 3u;
// Pairs of tiles.
const TILES: u32 = 4u;
// Columns of a chunk.
const CHUNK: u32 = 5u;

@group(0) @binding(0) var<storage, read> table: array<u32>;
// A record for each workgroup: TILE² sums, then the exponent and the bits of the largest magnitude.
@group(0) @binding(1) var<storage, read_write> records: array<vec2<f32>>;
// for each slot
@group(0) @binding(SLOT + 2) var<storage, read> x_SLOT: array<f32>;
// end
var<immediate> params: Params;

var<workgroup> largest: atomic<u32>;
var<workgroup> rows_i: array<f32, TILE * (STAGE + 1)>;
var<workgroup> rows_j: array<f32, TILE * (STAGE + 1)>;
var<workgroup> copies: array<vec2<f32>, 256>;

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

fn of_line(line: u32, field: u32) -> u32 {
    return table[line * LINE + field];
}

// Where element (row, column) lies, and row and column of the `index`th element of a tile: neighbours in memory first.
fn position(line: u32, row: u32, column: u32) -> u32 {
    if (of_line(line, TRANSPOSED) == 1u) {
        return column * of_line(line, RANK) + row;
    }
    return row * of_line(line, LENGTH) + column;
}

fn place(line: u32, index: u32, columns: u32) -> vec2<u32> {
    if (of_line(line, TRANSPOSED) == 1u) {
        return vec2<u32>(index % TILE, index / TILE);
    }
    return vec2<u32>(index / columns, index % columns);
}

fn note_largest(slot: u32, line: u32, tile: u32, start: u32, end: u32, local: u32) {
    var bits = 0u;
    for (var index = local; index < TILE * (end - start); index += 256u) {
        let at = place(line, index, end - start);
        let row = tile * TILE + at.x;
        if (row < of_line(line, RANK)) {
            bits = max(bits, bitcast<u32>(load(slot, position(line, row, start + at.y))) & 0x7fffffffu);
        }
    }
    atomicMax(&largest, bits);
}

// One element of a staged tile, scaled; 0 outside the factor.
fn staged(slot: u32, line: u32, tile: u32, at: vec2<u32>, start: u32, end: u32, scale: f32) -> f32 {
    let row = tile * TILE + at.x;
    let column = start + at.y;
    if (row >= of_line(line, RANK) || column >= end) {
        return 0.0;
    }
    return load(slot, position(line, row, column)) * scale;
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
    let tiles = of_line(line, TILES);
    let within = number - of_line(line, GROUP);
    // The pair of tiles: 0,0  1,0  1,1  2,0 …
    var tile_i = 0u;
    var tile_j = within % tiles;
    while (tile_j > tile_i) {
        tile_i += 1u;
        tile_j -= tile_i;
    }
    let start = (within / tiles) * of_line(line, CHUNK);
    let end = min(start + of_line(line, CHUNK), of_line(line, LENGTH));

    // Workgroup memory begins as anything.
    if (local == 0u) {
        atomicStore(&largest, 0u);
    }
    workgroupBarrier();
    note_largest(slot, line, tile_i, start, end, local);
    if (tile_j != tile_i) {
        note_largest(slot, line, tile_j, start, end, local);
    }
    workgroupBarrier();
    let bits = atomicLoad(&largest);
    let exponent = i32(bits >> 23u) - 127;
    // Not for infinity and NaN, whose exponent is 128, nor for zero and subnormal numbers.
    let scale = power_of_two(select(0, -exponent, exponent > -127 && exponent < 127));

    let side = TILE / 2u;
    let cell = local % (side * side);
    let copy = local / (side * side);
    let share = 256u / (side * side);
    let i = 2u * (cell / side) * (STAGE + 1u);
    let j = 2u * (cell % side) * (STAGE + 1u);
    var s00 = vec2<f32>();
    var s01 = vec2<f32>();
    var s10 = vec2<f32>();
    var s11 = vec2<f32>();
    for (var stage = start; stage < end; stage += STAGE) {
        workgroupBarrier();
        for (var index = local; index < TILE * STAGE; index += 256u) {
            let at = place(line, index, STAGE);
            let to = at.x * (STAGE + 1u) + at.y;
            rows_i[to] = staged(slot, line, tile_i, at, stage, end, scale);
            rows_j[to] = staged(slot, line, tile_j, at, stage, end, scale);
        }
        workgroupBarrier();
        let columns = min(STAGE, end - stage);
        for (var k = copy; k < columns; k += share) {
            let i0 = rows_i[i + k];
            let i1 = rows_i[i + STAGE + 1u + k];
            let j0 = rows_j[j + k];
            let j1 = rows_j[j + STAGE + 1u + k];
            s00 = accumulate(s00, i0, j0);
            s01 = accumulate(s01, i0, j1);
            s10 = accumulate(s10, i1, j0);
            s11 = accumulate(s11, i1, j1);
        }
    }
    let record = number * (TILE * TILE + 1u);
    let row = 2u * (cell / side);
    let column = 2u * (cell % side);
    write_sum(local, s00, record + row * TILE + column);
    write_sum(local, s01, record + row * TILE + column + 1u);
    write_sum(local, s10, record + (row + 1u) * TILE + column);
    write_sum(local, s11, record + (row + 1u) * TILE + column + 1u);
    if (local == 0u) {
        records[record + TILE * TILE] = vec2<f32>(f32(exponent), bitcast<f32>(min(bits, 0x7f800000u)));
    }
}

// Adds the copies of one sum, in order.
fn write_sum(local: u32, part: vec2<f32>, index: u32) {
    let cells = (TILE / 2u) * (TILE / 2u);
    workgroupBarrier();
    copies[local] = fast_sum(part.x, part.y);
    workgroupBarrier();
    if (local < cells) {
        var total = copies[local];
        for (var other = local + cells; other < 256u; other += cells) {
            total = add(total, copies[other]);
        }
        records[index] = total;
    }
}
