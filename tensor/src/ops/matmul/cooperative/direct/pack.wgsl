// An f16 matrix in the order in which the product reads its left operand; see mod.rs. A chunk of 16 bytes holds, of rows r and
// r + 8, two words of two elements, in the order in which the multiply instruction takes them. A subgroup reads lines of 128
// bytes of 16 rows and writes four times 512 bytes, each of them at once.
struct Params {
    rows: u32,
    columns: u32,
    // In vectors of four elements.
    offset: u32,
    stride: u32,
    quads: u32,
    invocations: u32,
}

@group(0) @binding(0) var<storage, read> matrix: array<vec2<u32>>;
@group(0) @binding(1) var<storage, read_write> chunks: array<vec4<u32>>;
var<immediate> params: Params;

fn word(vector: vec2<u32>, odd: bool, inside: bool) -> u32 {
    return select(0u, select(vector.x, vector.y, odd), inside);
}

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
    let lines = params.columns / 64u;
    let line = id / 32u % lines;
    let block = id / 32u / lines;
    let t = id % 4u;
    let upper_row = block * 16u + id / 4u % 8u;
    let lower_row = upper_row + 8u;
    // Rows beyond the matrix are zeros.
    let upper_inside = upper_row < params.rows;
    let lower_inside = lower_row < params.rows;
    let upper = params.offset + min(upper_row, params.rows - 1u) * params.stride + line * 16u;
    let lower = params.offset + min(lower_row, params.rows - 1u) * params.stride + line * 16u;
    let first = (block * lines + line) * 128u + id % 32u;
    // All reads come before the first write, so that they are waited for together.
    if (params.quads != 0u) {
        // The quads of the right operand's tiles.
        let quad = t % 2u + t / 2u * 4u;
        let upper_0 = select(vec2<u32>(), matrix[upper + quad + 0u], upper_inside);
        let lower_0 = select(vec2<u32>(), matrix[lower + quad + 0u], lower_inside);
        let upper_1 = select(vec2<u32>(), matrix[upper + quad + 2u], upper_inside);
        let lower_1 = select(vec2<u32>(), matrix[lower + quad + 2u], lower_inside);
        let upper_2 = select(vec2<u32>(), matrix[upper + quad + 8u], upper_inside);
        let lower_2 = select(vec2<u32>(), matrix[lower + quad + 8u], lower_inside);
        let upper_3 = select(vec2<u32>(), matrix[upper + quad + 10u], upper_inside);
        let lower_3 = select(vec2<u32>(), matrix[lower + quad + 10u], lower_inside);
        chunks[first] = vec4<u32>(upper_0.x, lower_0.x, upper_0.y, lower_0.y);
        chunks[first + 32u] = vec4<u32>(upper_1.x, lower_1.x, upper_1.y, lower_1.y);
        chunks[first + 64u] = vec4<u32>(upper_2.x, lower_2.x, upper_2.y, lower_2.y);
        chunks[first + 96u] = vec4<u32>(upper_3.x, lower_3.x, upper_3.y, lower_3.y);
    } else {
        // Words t and t + 4 of eight.
        let vector = t / 2u;
        let odd = t % 2u == 1u;
        let upper_0 = word(matrix[upper + vector + 0u], odd, upper_inside);
        let upper_next_0 = word(matrix[upper + vector + 2u], odd, upper_inside);
        let lower_0 = word(matrix[lower + vector + 0u], odd, lower_inside);
        let lower_next_0 = word(matrix[lower + vector + 2u], odd, lower_inside);
        let upper_1 = word(matrix[upper + vector + 4u], odd, upper_inside);
        let upper_next_1 = word(matrix[upper + vector + 6u], odd, upper_inside);
        let lower_1 = word(matrix[lower + vector + 4u], odd, lower_inside);
        let lower_next_1 = word(matrix[lower + vector + 6u], odd, lower_inside);
        let upper_2 = word(matrix[upper + vector + 8u], odd, upper_inside);
        let upper_next_2 = word(matrix[upper + vector + 10u], odd, upper_inside);
        let lower_2 = word(matrix[lower + vector + 8u], odd, lower_inside);
        let lower_next_2 = word(matrix[lower + vector + 10u], odd, lower_inside);
        let upper_3 = word(matrix[upper + vector + 12u], odd, upper_inside);
        let upper_next_3 = word(matrix[upper + vector + 14u], odd, upper_inside);
        let lower_3 = word(matrix[lower + vector + 12u], odd, lower_inside);
        let lower_next_3 = word(matrix[lower + vector + 14u], odd, lower_inside);
        chunks[first] = vec4<u32>(upper_0, lower_0, upper_next_0, lower_next_0);
        chunks[first + 32u] = vec4<u32>(upper_1, lower_1, upper_next_1, lower_next_1);
        chunks[first + 64u] = vec4<u32>(upper_2, lower_2, upper_next_2, lower_next_2);
        chunks[first + 96u] = vec4<u32>(upper_3, lower_3, upper_next_3, lower_next_3);
    }
}
