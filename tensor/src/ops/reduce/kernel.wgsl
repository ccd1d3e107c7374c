// out[position] = fold of `reduced` elements for each kept position = (batch, column).
//
// A workgroup is a rectangle of kept positions × REDUCE_LANES invocations that share one position's elements. The
// faster of the two directions is the one whose elements lie side by side, so that neighbouring invocations read
// neighbouring words: along the reduced axis for inner reductions, along the columns (COLUMNS_FIRST) for outer ones.
// Where results are few, each is split into segments whose parts a further launch folds: part (position, split) goes
// where that launch reads it contiguously.

struct Params {
    kept: u32,
    columns: u32,
    reduced: u32,
    segment: u32,
    splits: u32,
    kept_groups: u32,
    offset: u32,
    batch_stride: u32,
    column_stride: u32,
    reduced_stride: u32,
    identity: f32,
    scale: f32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
var<immediate> params: Params;

// Which function; see `Reduction` in mod.rs.
override OPERATION: u32;
// A power of two, at most 256.
override REDUCE_LANES: u32;
override COLUMNS_FIRST: bool;

var<workgroup> scratch: array<f32, 256>;

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let id = group.y * groups.x + group.x;
    let kept_lanes = 256u / REDUCE_LANES;
    let kept_lane = select(local / REDUCE_LANES, local % kept_lanes, COLUMNS_FIRST);
    let lane = select(local % REDUCE_LANES, local / kept_lanes, COLUMNS_FIRST);
    let position = (id % params.kept_groups) * kept_lanes + kept_lane;
    let split = id / params.kept_groups;
    let valid = position < params.kept && split < params.splits;

    var value = params.identity;
    if (valid) {
        let begin = split * params.segment;
        let end = min(begin + params.segment, params.reduced);
        let base = params.offset
            + (position / params.columns) * params.batch_stride
            + (position % params.columns) * params.column_stride;
        value = fold_segment(base, begin + lane, end);
    }

    // A tree over the lanes of each position.
    let distance = select(1u, kept_lanes, COLUMNS_FIRST);
    scratch[local] = value;
    workgroupBarrier();
    for (var step = REDUCE_LANES / 2u; step > 0u; step /= 2u) {
        if (lane < step) {
            scratch[local] = combine(scratch[local], scratch[local + step * distance]);
        }
        workgroupBarrier();
    }
    if (valid && lane == 0u) {
        let part = select(position * params.splits + split, split * params.kept + position, COLUMNS_FIRST);
        out[part] = scratch[local] * params.scale;
    }
}

// Folds the elements first, first + REDUCE_LANES, … < end of one position, with four loads under way at a time.
fn fold_segment(base: u32, first: u32, end: u32) -> f32 {
    let stride = params.reduced_stride;
    var a = params.identity;
    var b = params.identity;
    var c = params.identity;
    var d = params.identity;
    var i = first;
    for (; i + 3u * REDUCE_LANES < end; i += 4u * REDUCE_LANES) {
        a = combine(a, x[base + i * stride]);
        b = combine(b, x[base + (i + REDUCE_LANES) * stride]);
        c = combine(c, x[base + (i + 2u * REDUCE_LANES) * stride]);
        d = combine(d, x[base + (i + 3u * REDUCE_LANES) * stride]);
    }
    for (; i < end; i += REDUCE_LANES) {
        a = combine(a, x[base + i * stride]);
    }
    return combine(combine(a, b), combine(c, d));
}

// NaN wins over everything in max and min, and spreads in sums.
fn combine(a: f32, b: f32) -> f32 {
    switch OPERATION {
        case 0u: { return a + b; }
        case 1u: { return select(b, a, a > b || is_nan(a)); }
        default: { return select(b, a, a < b || is_nan(a)); }
    }
}
