// Writes one 32-bit pattern to every word: one element, or two of a 16-bit type.

struct Params {
    words: u32,
    pattern: u32,
}

@group(0) @binding(0) var<storage, read_write> out: array<u32>;
var<immediate> params: Params;

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let i = linear_id(local, group, groups, 256u);
    if (i < params.words) {
        out[i] = params.pattern;
    }
}
