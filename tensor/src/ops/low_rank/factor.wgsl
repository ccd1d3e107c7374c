// Rounds factors to f16 after dividing each by the power of two of its largest magnitude. A template: see ops/slots.rs. Of a
// large factor, a launch before finds the largest magnitude of each share. Where results are wanted in tiles as well, the lines
// after IN_TILES are not left out.

struct Params {
    offsets: array<u32, 6>,
    rows: array<u32, 6>,
    columns: array<u32, 6>,
    // Of the result, which is padded with zeros to whole words.
    padded_columns: array<u32, 6>,
    words: array<u32, 6>,
    // Bounds of the exponent.
    lowest: i32,
    highest: i32,
}

@group(0) @binding(0) var<storage, read_write> maxima: array<u32>;
// for each slot
@group(0) @binding(3 * SLOT + 1) var<storage, read> x_SLOT: array<f32>;
@group(0) @binding(3 * SLOT + 2) var<storage, read_write> values_SLOT: array<u32>;
@group(0) @binding(3 * SLOT + 3) var<storage, read_write> scale_SLOT: array<f32>;
// end
// for each slot
IN_TILES @group(0) @binding(FIRST_IN_TILES + SLOT) var<storage, read_write> tiles_SLOT: array<u32>;
// end
var<immediate> params: Params;

override MAXIMA: u32;
override SHARE: u32;
override SMALL: u32;

var<workgroup> scratch: array<u32, 256>;

// The largest magnitude among each workgroup's share of a factor; y of the grid runs over the slots.
@compute @workgroup_size(256)
fn find_maxima(@builtin(local_invocation_index) local: u32, @builtin(workgroup_id) group: vec3<u32>) {
    let slot = group.y;
    let shares = shares_of(slot);
    var largest = 0u;
    if (group.x < shares) {
        largest = largest_of_share(slot, group.x, shares, local);
    }
    largest = workgroup_max(largest, local);
    if (local == 0u && group.x < shares) {
        maxima[slot * MAXIMA + group.x] = largest;
    }
}

@compute @workgroup_size(256)
fn round(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let slot = group.y;
    let shares = shares_of(slot);
    var largest = 0u;
    if (shares == 0u) {
        // Every workgroup looks at all of a small factor.
        largest = largest_of_share(slot, 0u, 1u, local);
    } else {
        // There are fewer maxima than invocations; those beyond look at the last again.
        largest = maxima[slot * MAXIMA + min(local, shares - 1u)];
    }
    largest = workgroup_max(largest, local);
    let exponent = clamp(i32(largest >> 23u) - 127, params.lowest, params.highest);
    if (group.x == 0u && local == 0u) {
        write_scale(slot, power_of_two(exponent));
    }
    let factor = power_of_two(-exponent);
    let step = 256u * groups.x;
    for (var word = group.x * 256u + local; word < params.words[slot]; word += 2u * step) {
        let value = word_of(slot, word, factor);
        let next = word_of(slot, word + step, factor);
        write_word(slot, word, value);
        if (word + step < params.words[slot]) {
            write_word(slot, word + step, next);
        }
    }
}

// Into how many shares a factor is divided for its maxima; none for a small one.
fn shares_of(slot: u32) -> u32 {
    let count = params.rows[slot] * params.columns[slot];
    return select(min((count + SHARE - 1u) / SHARE, MAXIMA), 0u, count <= SMALL);
}

fn largest_of_share(slot: u32, share: u32, shares: u32, local: u32) -> u32 {
    let count = params.rows[slot] * params.columns[slot];
    let step = 256u * shares;
    var largest = 0u;
    // Four are asked for before the first is used, since memory is far away.
    for (var i = share * 256u + local; i < count; i += 4u * step) {
        let a = magnitude(slot, i, count);
        let b = magnitude(slot, i + step, count);
        let c = magnitude(slot, i + 2u * step, count);
        let d = magnitude(slot, i + 3u * step, count);
        largest = max(max(largest, max(a, b)), max(c, d));
    }
    return largest;
}

// Two neighbours of the padded factor.
fn word_of(slot: u32, word: u32, factor: f32) -> u32 {
    return f16_bits(element(slot, 2u * word) * factor) | (f16_bits(element(slot, 2u * word + 1u) * factor) << 16u);
}

// Bits of |x|; beyond the end those of the last element, which change no maximum.
fn magnitude(slot: u32, i: u32, count: u32) -> u32 {
    return bitcast<u32>(factor_at(slot, min(i, count - 1u))) & 0x7fffffffu;
}

// The element at a place of the padded factor.
fn element(slot: u32, i: u32) -> f32 {
    let row = i / params.padded_columns[slot];
    let column = i % params.padded_columns[slot];
    if (row < params.rows[slot] && column < params.columns[slot]) {
        return factor_at(slot, row * params.columns[slot] + column);
    }
    return 0.0;
}

fn factor_at(slot: u32, i: u32) -> f32 {
    let place = params.offsets[slot] + i;
    switch (slot) {
        // for each slot
        case SLOTu: { return x_SLOT[place]; }
        // end
        default: { return 0.0; }
    }
}

fn write_word(slot: u32, word: u32, value: u32) {
    switch (slot) {
        // for each slot
        case SLOTu: { values_SLOT[word] = value; }
        // end
        default: {}
    }
IN_TILES    let columns = params.padded_columns[slot];
IN_TILES    let row = 2u * word / columns;
IN_TILES    let column = 2u * word % columns;
IN_TILES    let place = right_chunk(row, column / 4u, columns / 4u) * 4u + row % 2u * 2u + column / 2u % 2u;
IN_TILES    switch (slot) {
    // for each slot
IN_TILES        case SLOTu: { tiles_SLOT[place] = value; }
    // end
IN_TILES        default: {}
IN_TILES    }
}

fn write_scale(slot: u32, value: f32) {
    switch (slot) {
        // for each slot
        case SLOTu: { scale_SLOT[0] = value; }
        // end
        default: {}
    }
}

fn workgroup_max(value: u32, local: u32) -> u32 {
    scratch[local] = value;
    workgroupBarrier();
    for (var step = 128u; step > 0u; step /= 2u) {
        if (local < step) {
            scratch[local] = max(scratch[local], scratch[local + step]);
        }
        workgroupBarrier();
    }
    return scratch[0];
}
