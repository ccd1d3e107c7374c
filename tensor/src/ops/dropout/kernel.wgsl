// out[i] = 0 where element i's random word lies below the threshold, else scale·x[offset + i].
// One invocation handles the four elements of one Philox block.

struct Params {
    seed: vec2<u32>,
    stream: vec2<u32>,
    step: u32,
    count: u32,
    offset: u32,
    threshold: u32,
    scale: f32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
var<immediate> params: Params;

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let block = linear_id(local, group, groups, 256u);
    if (block >= (params.count + 3u) / 4u) {
        return;
    }
    let words = philox(block, params.step, params.stream, params.seed);
    for (var i = 0u; i < min(4u, params.count - 4u * block); i += 1u) {
        let element = 4u * block + i;
        out[element] = select(params.scale * x[params.offset + element], 0.0, words[i] < params.threshold);
    }
}
