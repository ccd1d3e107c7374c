// Partial Gram matrices of the factors in several slots, to 40 bits and more (fetch.wgsl and double.wgsl are appended). A
// template: see ops/slots.rs. One workgroup adds up x(i, k)·x(j, k) over a chunk of k for one tile of TILE x TILE pairs (i, j), i ≥ j
// by tiles, of one factor; TILE is 4, 8, 16 or 32. The chunk is read twice, the second time from a cache: first for the
// largest magnitude of each row, whose scale is then a power of two so that it lies in [1, 2). Products of 1e±20 would
// leave the range of f32.
//
// Scaled elements are cut at fixed places, x = top + middle + rest, top a multiple of 2⁻⁸ and middle, at most 2⁻⁹, of
// 2⁻¹⁷. So the sums of top·top and of top·middle over 64 columns are exact in f32 in whatever order, and what
// is added up with rounding is some 2⁻¹⁷ of the whole (after Ozaki et al. 2012).
//
// An invocation has a cell of 4 x 4 sums over every `copies`th column; of the tiles on the diagonal, only the cells there
// or below.

override TILE: u32;
// Columns staged at once, at most 32, and tiles: 2 if there are any off the diagonal. What is staged must have room for
// the sums of all invocations in the end.
override STAGE: u32;
override SIDES: u32;
// 8·TILE, one invocation for 4 staged elements.
override WORKGROUP: u32;

struct Params {
    zero: u32,
    // The first slot's line in the table.
    first: u32,
    offsets: array<u32, 30>,
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
// Columns of a chunk, at most 64 for each copy.
const CHUNK: u32 = 5u;

// 1.5·2²³ times the units of top and middle: sums with them are rounded to those units.
const TOP: f32 = 49152.0;
const MIDDLE: f32 = 96.0;
// What makes integers of products of top and top, and of top and middle.
const TOP_UNITS: f32 = 65536.0;
const MIDDLE_UNITS: f32 = 33554432.0;

@group(0) @binding(0) var<storage, read> table: array<u32>;
// A record for each workgroup: TILE² sums, then the exponent of the largest magnitude.
@group(0) @binding(1) var<storage, read_write> records: array<vec2<f32>>;
// for each slot
@group(0) @binding(SLOT + 2) var<storage, read> x_SLOT: array<f32>;
// end
var<immediate> params: Params;

// Bits of the largest magnitude of each row of both tiles, then of all.
var<workgroup> largest: array<atomic<u32>, 2 * TILE + 1>;
// The three parts of four rows of a column lie together; a line has one place to spare, for the banks.
var<workgroup> parts: array<vec4<f32>, 3 * SIDES * STAGE * (TILE / 4 + 1)>;

fn note_largest(slot: u32, line: u32, tile: u32, side: u32, start: u32, end: u32, local: u32) {
    let n = of_line(line, RANK);
    let length = of_line(line, LENGTH);
    // Neighbours in memory are read together.
    let transposed = of_line(line, TRANSPOSED) == 1u;
    let row = select(local / 8u, local % TILE, transposed);
    let column = start + select(local % 8u, local / TILE, transposed);
    let of_factor = tile * TILE + row;
    if (of_factor < n && column < end) {
        let first = select(of_factor * length + column, column * n + of_factor, transposed);
        let step = select(8u, 8u * n, transposed);
        let count = (end - column + 7u) / 8u;
        var most = vec4<u32>();
        for (var index = 0u; index < count; index += 8u) {
            let low = fetch(slot, first + index * step, step, count - index);
            let high = fetch(slot, first + (index + 4u) * step, step, max(count, index + 4u) - index - 4u);
            most = max(most, max(magnitudes(low), magnitudes(high)));
        }
        let bits = max(max(most.x, most.y), max(most.z, most.w));
        atomicMax(&largest[side * TILE + row], bits);
        atomicMax(&largest[2u * TILE], bits);
    }
}

fn magnitudes(x: vec4<f32>) -> vec4<u32> {
    return bitcast<vec4<u32>>(x) & vec4<u32>(0x7fffffffu);
}

// The exponent of a row's largest magnitude: −127 for zero and subnormal numbers, 128 for infinity and NaN.
fn exponent_of(row: u32) -> i32 {
    return i32(atomicLoad(&largest[row]) >> 23u) - 127;
}

// Four rows of one column of a tile, as this invocation has them to stage.
fn fetch_rows(slot: u32, line: u32, tile: u32, start: u32, end: u32, local: u32) -> vec4<f32> {
    let at = place(line, local);
    let row = tile * TILE + 4u * at.x;
    let column = start + at.y;
    let n = of_line(line, RANK);
    let length = of_line(line, LENGTH);
    let transposed = of_line(line, TRANSPOSED) == 1u;
    let first = select(row * length + column, column * n + row, transposed);
    let exist = at.y < STAGE && column < end && row < n;
    return fetch(slot, first, select(length, 1u, transposed), select(0u, n - row, exist));
}

// The four rows and the column that an invocation stages: neighbours in memory first.
fn place(line: u32, local: u32) -> vec2<u32> {
    if (of_line(line, TRANSPOSED) == 1u) {
        return vec2<u32>(local % (TILE / 4u), local / (TILE / 4u));
    }
    return vec2<u32>(local / STAGE, local % STAGE);
}

fn hold_all(x: vec4<f32>) -> vec4<f32> {
    return bitcast<vec4<f32>>(bitcast<vec4<u32>>(x) ^ vec4<u32>(params.zero));
}

// Where the parts of four rows of a column lie.
fn part(side: u32, column: u32, rows: u32) -> u32 {
    return 3u * ((side * STAGE + column) * (TILE / 4u + 1u) + rows);
}

// The factors that scale four rows to [1, 2), each in two halves, since 2⁻¹²⁷ is below the normal range.
struct Scales {
    first: vec4<f32>,
    second: vec4<f32>,
}

// Those of the rows that an invocation stages.
fn scales_of(line: u32, side: u32, local: u32) -> Scales {
    let row = side * TILE + 4u * min(place(line, local).x, TILE / 4u - 1u);
    let exponents =
        vec4<i32>(exponent_of(row), exponent_of(row + 1u), exponent_of(row + 2u), exponent_of(row + 3u));
    let half = -exponents / 2;
    return Scales(powers_of_two(half), powers_of_two(-exponents - half));
}

fn powers_of_two(exponents: vec4<i32>) -> vec4<f32> {
    return bitcast<vec4<f32>>(vec4<u32>(exponents + 127) << vec4<u32>(23u));
}

// Scales and cuts what was fetched.
fn stage(values: vec4<f32>, scales: Scales, line: u32, side: u32, local: u32) {
    let at = place(line, local);
    if (at.x >= TILE / 4u || at.y >= STAGE) {
        return;
    }
    let x = hold_all(values * scales.first * scales.second);
    let top = hold_all(hold_all(x + TOP) - TOP);
    let rest = hold_all(x - top);
    let middle = hold_all(hold_all(rest + MIDDLE) - MIDDLE);
    let to = part(side, at.y, at.x);
    parts[to] = top;
    parts[to + 1u] = middle;
    parts[to + 2u] = rest - middle;
}

// Four sums of a row: of top·top, of top·middle, and of all else.
struct Sums {
    top: vec4<f32>,
    middle: vec4<f32>,
    rest: vec4<f32>,
}

struct Column {
    top: vec4<f32>,
    middle: vec4<f32>,
    rest: vec4<f32>,
    // top + middle, exactly.
    most: vec4<f32>,
    // The scaled elements.
    whole: vec4<f32>,
}

fn column_at(at: u32) -> Column {
    let most = parts[at] + parts[at + 1u];
    return Column(parts[at], parts[at + 1u], parts[at + 2u], most, most + parts[at + 2u]);
}

// Adds the products of row r of one column and all rows of the other.
fn with_products(sums: Sums, a: Column, r: u32, b: Column) -> Sums {
    return Sums(
        sums.top + a.top[r] * b.top,
        sums.middle + a.top[r] * b.middle + a.middle[r] * b.top,
        sums.rest + a.middle[r] * b.middle + a.most[r] * b.rest + a.rest[r] * b.whole,
    );
}

// The cell of 4 x 4 sums: below the diagonal 0,0  1,0  1,1  2,0 …, else row by row.
fn cell_at(index: u32, diagonal: bool) -> vec2<u32> {
    if (!diagonal) {
        return vec2<u32>(index / (TILE / 4u), index % (TILE / 4u));
    }
    var at = vec2<u32>(0u, index);
    while (at.y > at.x) {
        at.x += 1u;
        at.y -= at.x;
    }
    return at;
}

@compute @workgroup_size(WORKGROUP)
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
    let within = number - of_line(line, GROUP);
    // The pair of tiles, numbered as cells are.
    let tiles = cell_at(within % of_line(line, TILES), true);
    let diagonal = tiles.x == tiles.y;
    let start = (within / of_line(line, TILES)) * of_line(line, CHUNK);
    let end = min(start + of_line(line, CHUNK), of_line(line, LENGTH));

    // Workgroup memory begins as anything.
    if (local <= 2u * TILE) {
        atomicStore(&largest[local], 0u);
    }
    workgroupBarrier();
    note_largest(slot, line, tiles.x, 0u, start, end, local);
    if (SIDES == 2u && !diagonal) {
        note_largest(slot, line, tiles.y, 1u, start, end, local);
    }
    workgroupBarrier();

    let scales = scales_of(line, 0u, local);
    let scales_other = scales_of(line, 1u, local);
    let side = TILE / 4u;
    let cells = select(side * side, side * (side + 1u) / 2u, diagonal);
    let copies = WORKGROUP / cells;
    let copy = local / cells;
    let cell = cell_at(local % cells, diagonal);
    let other = select(1u, 0u, diagonal);
    var sums0 = Sums();
    var sums1 = Sums();
    var sums2 = Sums();
    var sums3 = Sums();
    // Columns are fetched one turn before they are staged, so that nobody waits for them.
    var next = vec4<f32>();
    var next_other = vec4<f32>();
    for (var turn = start; turn < end + STAGE; turn += STAGE) {
        if (turn > start) {
            workgroupBarrier();
            stage(next, scales, line, 0u, local);
            if (SIDES == 2u && !diagonal) {
                stage(next_other, scales_other, line, 1u, local);
            }
            workgroupBarrier();
        }
        next = fetch_rows(slot, line, tiles.x, turn, end, local);
        if (SIDES == 2u && !diagonal) {
            next_other = fetch_rows(slot, line, tiles.y, turn, end, local);
        }
        if (turn > start && copy < copies) {
            for (var k = copy; k < min(STAGE, end + STAGE - turn); k += copies) {
                let a = column_at(part(0u, k, cell.x));
                let b = column_at(part(other, k, cell.y));
                sums0 = with_products(sums0, a, 0u, b);
                sums1 = with_products(sums1, a, 1u, b);
                sums2 = with_products(sums2, a, 2u, b);
                sums3 = with_products(sums3, a, 3u, b);
            }
        }
    }
    let record = number * (TILE * TILE + 1u);
    write_sums(local, diagonal, cells, 0u, sums0, record);
    write_sums(local, diagonal, cells, 1u, sums1, record);
    write_sums(local, diagonal, cells, 2u, sums2, record);
    write_sums(local, diagonal, cells, 3u, sums3, record);
    if (local == 0u) {
        records[record + TILE * TILE] = vec2<f32>(f32(exponent_of(2u * TILE)), 0.0);
    }
}

// Adds the copies of the sums in row r of every cell, those of integers as integers, and writes them in one scale.
fn write_sums(local: u32, diagonal: bool, cells: u32, r: u32, own: Sums, record: u32) {
    let copies = WORKGROUP / cells;
    workgroupBarrier();
    if (local < cells * copies) {
        parts[3u * local] = own.top;
        parts[3u * local + 1u] = own.middle;
        parts[3u * local + 2u] = own.rest;
    }
    workgroupBarrier();
    let exponent = exponent_of(2u * TILE);
    for (var index = local; index < 4u * cells; index += WORKGROUP) {
        let c = index % 4u;
        var top = 0;
        var middle = 0;
        var rest = 0.0;
        for (var copy = index / 4u; copy < cells * copies; copy += cells) {
            top += i32(parts[3u * copy][c] * TOP_UNITS);
            middle += i32(parts[3u * copy + 1u][c] * MIDDLE_UNITS);
            rest += parts[3u * copy + 2u][c];
        }
        let total = add(add(units(top, TOP_UNITS), units(middle, MIDDLE_UNITS)), vec2<f32>(rest, 0.0));
        let cell = cell_at(index / 4u, diagonal);
        let row = 4u * cell.x + r;
        let column = 4u * cell.y + c;
        let own_row = exponent_of(row) - exponent;
        let own_column = exponent_of(select(TILE, 0u, diagonal) + column) - exponent;
        records[record + row * TILE + column] = total * power_of_two(own_row) * power_of_two(own_column);
    }
}

// count / units, exactly.
fn units(count: i32, units: f32) -> vec2<f32> {
    return fast_sum(f32(count & -256) / units, f32(count & 255) / units);
}
