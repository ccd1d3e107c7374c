// out[row, split] = position of the largest of the row's candidates in a segment; the first of equals, NaN above all.
// A team of TEAM invocations takes one segment of one row. Long rows are split; a further launch (INDIRECT) compares
// the positions that are left over.

struct Params {
    rows: u32,
    columns: u32,
    candidates: u32,
    segment: u32,
    splits: u32,
    row_groups: u32,
    offset: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> candidates: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<u32>;
var<immediate> params: Params;

// A power of two, at most 256.
override TEAM: u32;
// Candidates are listed in `candidates`; otherwise every column is one.
override INDIRECT: bool;

// No position yet.
const NONE: u32 = 0xffffffffu;

struct Found {
    value: f32,
    position: u32,
}

var<workgroup> values: array<f32, 256>;
var<workgroup> positions: array<u32, 256>;

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let id = group.y * groups.x + group.x;
    let lane = local % TEAM;
    let row = (id % params.row_groups) * (256u / TEAM) + local / TEAM;
    let split = id / params.row_groups;
    let valid = row < params.rows && split < params.splits;

    var best = Found(0.0, NONE);
    if (valid) {
        let begin = split * params.segment;
        let end = min(begin + params.segment, params.candidates);
        for (var i = begin + lane; i < end; i += TEAM) {
            var position = i;
            if (INDIRECT) {
                position = candidates[row * params.candidates + i];
            }
            best = better(best, Found(x[params.offset + row * params.columns + position], position));
        }
    }

    values[local] = best.value;
    positions[local] = best.position;
    workgroupBarrier();
    for (var step = TEAM / 2u; step > 0u; step /= 2u) {
        if (lane < step) {
            best = better(best, Found(values[local + step], positions[local + step]));
            values[local] = best.value;
            positions[local] = best.position;
        }
        workgroupBarrier();
    }
    if (valid && lane == 0u) {
        out[row * params.splits + split] = best.position;
    }
}

fn better(a: Found, b: Found) -> Found {
    if (a.position == NONE || b.position == NONE) {
        if (a.position == NONE) {
            return b;
        }
        return a;
    }
    let a_nan = is_nan(a.value);
    let b_nan = is_nan(b.value);
    let tie = (a_nan && b_nan) || a.value == b.value;
    let a_wins = (a_nan && !b_nan) || (!b_nan && a.value > b.value) || (tie && a.position < b.position);
    if (a_wins) {
        return a;
    }
    return b;
}
