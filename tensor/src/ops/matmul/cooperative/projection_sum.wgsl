// Adds the parts of thin products of one shape in order and rounds alpha times the sums to f16. One invocation a word of two
// elements.

struct Params {
    words: u32,
    parts: u32,
    alpha: f32,
}

@group(0) @binding(0) var<storage, read> partial_sums: array<vec2<f32>>;
@group(0) @binding(1) var<storage, read_write> out: array<u32>;
var<immediate> params: Params;

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let i = linear_id(local, group, groups, 256u);
    if (i >= params.words) {
        return;
    }
    var sum = vec2<f32>();
    for (var part = 0u; part < params.parts; part += 4u) {
        // Asked for together, since memory is far away.
        let a = part_sum(i, part);
        let b = part_sum(i, part + 1u);
        let c = part_sum(i, part + 2u);
        let d = part_sum(i, part + 3u);
        sum = (((sum + a) + b) + c) + d;
    }
    sum *= params.alpha;
    out[i] = f16_bits(sum.x) | (f16_bits(sum.y) << 16u);
}

// Zero beyond the last part.
fn part_sum(i: u32, part: u32) -> vec2<f32> {
    let value = partial_sums[min(part, params.parts - 1u) * params.words + i];
    return select(vec2<f32>(), value, part < params.parts);
}
