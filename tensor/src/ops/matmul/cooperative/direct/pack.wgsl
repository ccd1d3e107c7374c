// An f16 matrix from rows to the tiles of a left operand, see gpu/tiles.rs. A subgroup reads lines of 128 bytes of 16 rows and writes four times 512
// bytes, each of them at once.
struct Params {
    rows: u32,
    columns: u32,
    // In vectors of four elements.
    offset: u32,
    stride: u32,
    invocations: u32,
}

@group(0) @binding(0) var<storage, read> matrix: array<vec2<u32>>;
@group(0) @binding(1) var<storage, read_write> chunks: array<vec4<u32>>;
var<immediate> params: Params;

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let id = linear_id(local, group, groups, 256u);
    if (id >= params.invocations) {
        return;
    }
    // Which half of a row of tiles, which four tiles in it.
    let half = id / 32u % 2u;
    let lines = params.columns / 64u;
    let line = id / 64u % lines;
    let block = id / 64u / lines;
    let place = id % 32u / 4u;
    let upper_row = block * 32u + place * 4u + half * 2u;
    // Rows beyond the matrix are zeros.
    let upper_inside = upper_row < params.rows;
    let lower_inside = upper_row + 1u < params.rows;
    let upper = params.offset + min(upper_row, params.rows - 1u) * params.stride + line * 16u + id % 4u;
    let lower = params.offset + min(upper_row + 1u, params.rows - 1u) * params.stride + line * 16u + id % 4u;
    let first = ((block * 2u + half) * lines + line) * 128u + id % 32u;
    // All reads come before the first write, so that they are waited for together.
    let upper_0 = select(vec2<u32>(), matrix[upper], upper_inside);
    let lower_0 = select(vec2<u32>(), matrix[lower], lower_inside);
    let upper_1 = select(vec2<u32>(), matrix[upper + 4u], upper_inside);
    let lower_1 = select(vec2<u32>(), matrix[lower + 4u], lower_inside);
    let upper_2 = select(vec2<u32>(), matrix[upper + 8u], upper_inside);
    let lower_2 = select(vec2<u32>(), matrix[lower + 8u], lower_inside);
    let upper_3 = select(vec2<u32>(), matrix[upper + 12u], upper_inside);
    let lower_3 = select(vec2<u32>(), matrix[lower + 12u], lower_inside);
    chunks[first] = vec4<u32>(upper_0, lower_0).xzyw;
    chunks[first + 32u] = vec4<u32>(upper_1, lower_1).xzyw;
    chunks[first + 64u] = vec4<u32>(upper_2, lower_2).xzyw;
    chunks[first + 96u] = vec4<u32>(upper_3, lower_3).xzyw;
}
