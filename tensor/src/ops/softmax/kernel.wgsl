// Softmax, its logarithm, or masked softmax of contiguous rows.
//
// A team of TEAM invocations takes a row in three passes: the largest element, the sum of exponentials, the results.
// The second and third pass find the row in cache. Exponentials are summed in blocks, so that long rows lose no
// digits.

struct Params {
    rows: u32,
    columns: u32,
    offset: u32,
    // −∞, which WGSL cannot spell.
    lowest: f32,
    mask_offset: u32,
    mask_column_stride: u32,
    mask_rank: u32,
    mask_extents: array<u32, 6>,
    mask_strides: array<u32, 6>,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> mask: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
var<immediate> params: Params;

// A power of two, at most 256.
override TEAM: u32;
override LOGARITHM: bool;
// 0: every element takes part; 1: those whose u32 is not 0; 2: those whose f32 is not 0.
override MASK: u32;

// Elements that an invocation sums before the result joins its total.
const BLOCK: u32 = 64u;

var<workgroup> scratch: array<f32, 256>;

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let row = (group.y * groups.x + group.x) * (256u / TEAM) + local / TEAM;
    let lane = local % TEAM;
    // Teams without a row do nothing but wait at the barriers.
    let columns = select(0u, params.columns, row < params.rows);
    let target_start = select(0u, row * params.columns, row < params.rows);
    let start = params.offset + target_start;
    let mask_start = mask_position(row);

    var largest = params.lowest;
    for (var i = lane; i < columns; i += TEAM) {
        if (keeps(mask_start, i)) {
            largest = max(largest, x[start + i]);
        }
    }
    largest = team_max(largest, local, lane);

    var total = 0.0;
    for (var block = lane; block < columns; block += BLOCK * TEAM) {
        let end = min(columns, block + BLOCK * TEAM);
        var part = 0.0;
        for (var i = block; i < end; i += TEAM) {
            if (keeps(mask_start, i)) {
                part += exp(x[start + i] - largest);
            }
        }
        total += part;
    }
    total = team_sum(total, local, lane);

    let scale = 1.0 / total;
    let logarithm = log(total);
    for (var i = lane; i < columns; i += TEAM) {
        let shifted = x[start + i] - largest;
        if (LOGARITHM) {
            out[target_start + i] = shifted - logarithm;
        } else {
            out[target_start + i] = select(0.0, exp(shifted) * scale, keeps(mask_start, i));
        }
    }
}

// Where the mask of a row starts.
fn mask_position(row: u32) -> u32 {
    var position = params.mask_offset;
    if (MASK != 0u) {
        var rest = row;
        for (var axis = params.mask_rank; axis > 0u; axis -= 1u) {
            let extent = params.mask_extents[axis - 1u];
            position += (rest % extent) * params.mask_strides[axis - 1u];
            rest /= extent;
        }
    }
    return position;
}

fn keeps(mask_start: u32, column: u32) -> bool {
    if (MASK == 0u) {
        return true;
    }
    let word = mask[mask_start + column * params.mask_column_stride];
    // An f32 is zero with either sign.
    return select(word, word & 0x7fffffffu, MASK == 2u) != 0u;
}

fn team_sum(value: f32, local: u32, lane: u32) -> f32 {
    workgroupBarrier();
    scratch[local] = value;
    workgroupBarrier();
    for (var step = TEAM / 2u; step > 0u; step /= 2u) {
        if (lane < step) {
            scratch[local] += scratch[local + step];
        }
        workgroupBarrier();
    }
    return scratch[local - lane];
}

fn team_max(value: f32, local: u32, lane: u32) -> f32 {
    workgroupBarrier();
    scratch[local] = value;
    workgroupBarrier();
    for (var step = TEAM / 2u; step > 0u; step /= 2u) {
        if (lane < step) {
            scratch[local] = max(scratch[local], scratch[local + step]);
        }
        workgroupBarrier();
    }
    return scratch[local - lane];
}
