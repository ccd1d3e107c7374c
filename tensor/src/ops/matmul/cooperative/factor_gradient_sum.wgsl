// Adds the parts of a thin product in order, times alpha and a scale; leaves out what pads the rank. One invocation an
// element.

struct Params {
    count: u32,
    columns: u32,
    // Elements of a part, and of a row of it.
    part: u32,
    part_columns: u32,
    parts: u32,
    alpha: f32,
}

@group(0) @binding(0) var<storage, read> partial_sums: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<storage, read> scale: array<f32>;
var<immediate> params: Params;

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let i = linear_id(local, group, groups, 256u);
    if (i >= params.count) {
        return;
    }
    let place = i / params.columns * params.part_columns + i % params.columns;
    var sum = 0.0;
    for (var part = 0u; part < params.parts; part += 4u) {
        // Asked for together, since memory is far away.
        let a = part_sum(place, part);
        let b = part_sum(place, part + 1u);
        let c = part_sum(place, part + 2u);
        let d = part_sum(place, part + 3u);
        sum = (((sum + a) + b) + c) + d;
    }
    out[i] = sum * params.alpha * scale[0];
}

// Zero beyond the last part.
fn part_sum(place: u32, part: u32) -> f32 {
    let value = partial_sums[min(part, params.parts - 1u) * params.part + place];
    return select(0.0, value, part < params.parts);
}
