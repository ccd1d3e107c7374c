// An f16 matrix from rows to tiles, or back; see tiles.rs. An invocation moves a chunk: two rows by four columns.
struct Params {
    chunks: u32,
    columns: u32,
    // Of the rows, in vectors of four elements.
    offset: u32,
    // 0 for wide tiles, 1 for right operands, 2 for left ones.
    kind: u32,
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
    let half = chunk % 64u / 32u;
    let line = chunk % 32u / 4u;
    let lane = chunk % 4u;
    var row: u32;
    var vector: u32;
    if (params.kind != 0u) {
        let tiles_across = params.columns / 16u;
        // Of a left operand the halves of tiles lie apart.
        let half_tile = chunk / 32u;
        let is_left = params.kind == 2u;
        let block = select(tile / tiles_across, half_tile / tiles_across / 2u, is_left);
        let second = select(half, half_tile / tiles_across % 2u, is_left);
        row = block * 32u + line * 4u + second * 2u;
        vector = select(tile % tiles_across, half_tile % tiles_across, is_left) * 4u + lane;
    } else {
        let tiles_across = params.columns / 32u;
        row = tile / tiles_across * 16u + line * 2u;
        vector = tile % tiles_across * 8u + half * 2u + lane % 2u + lane / 2u * 4u;
    }
    let upper = params.offset + row * (params.columns / 4u) + vector;
    let lower = upper + params.columns / 4u;
    let here = select(vec2<u32>(2u * chunk, 2u * chunk + 1u), vec2<u32>(upper, lower), params.to_tiles != 0u);
    let there = select(vec2<u32>(upper, lower), vec2<u32>(2u * chunk, 2u * chunk + 1u), params.to_tiles != 0u);
    let found = vec4<u32>(source[here.x], source[here.y]);
    // To take words in turn is its own inverse.
    let words = select(found, found.xzyw, params.kind == 2u);
    result[there.x] = words.xy;
    result[there.y] = words.zw;
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
