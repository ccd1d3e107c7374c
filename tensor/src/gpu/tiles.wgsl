// An f16 matrix from rows to tiles, or back; see tiles.rs. An invocation moves a chunk: two rows by four columns.
struct Params {
    chunks: u32,
    columns: u32,
    to_tiles: u32,
}

@group(0) @binding(0) var<storage, read> source: array<vec2<u32>>;
@group(0) @binding(1) var<storage, read_write> result: array<vec2<u32>>;
var<immediate> params: Params;

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let chunk = linear_id(local, group, groups, 256u);
    if (chunk >= params.chunks) {
        return;
    }
    let tile = chunk / 64u;
    let tiles_across = params.columns / 32u;
    let pair = chunk % 32u / 4u;
    let lane = chunk % 4u;
    let quad = chunk % 64u / 32u * 2u + lane % 2u + lane / 2u * 4u;
    let upper = (tile / tiles_across * 16u + pair * 2u) * (params.columns / 4u) + tile % tiles_across * 8u + quad;
    let lower = upper + params.columns / 4u;
    if (params.to_tiles != 0u) {
        result[2u * chunk] = source[upper];
        result[2u * chunk + 1u] = source[lower];
    } else {
        result[upper] = source[2u * chunk];
        result[lower] = source[2u * chunk + 1u];
    }
}

@compute @workgroup_size(256)
fn copy(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let chunk = linear_id(local, group, groups, 256u);
    if (chunk >= params.chunks) {
        return;
    }
    result[2u * chunk] = source[2u * chunk];
    result[2u * chunk + 1u] = source[2u * chunk + 1u];
}
