// Generated: attention_forward_64x64_aligned
const HEAD_DIM: u32 = 64u;
const ROWS: u32 = 64u;
const COLUMNS: u32 = 32u;

@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> v: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> key_mask: array<u32>;
@group(0) @binding(4) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> log_sum_exp: array<f32>;

struct Params {
    // Element offset, then strides of batch, sequence and head.
    q: vec4<u32>,
    k: vec4<u32>,
    v: vec4<u32>,
    upstream: vec4<u32>,
    // Element offset, then strides of batch and key; 1 if there is a mask, else 0 and the binding is not read.
    mask: vec4<u32>,
    batch: u32,
    heads: u32,
    kv_heads: u32,
    queries: u32,
    keys: u32,
    // Query i sees the keys up to i + query_offset; as large as the keys where all are seen.
    query_offset: u32,
    // Row tiles of the queries, or of the keys where those are the rows.
    row_blocks: u32,
    scale: f32,
}
var<immediate> params: Params;

// Below every score; stands for a score that is not seen (WGSL has no literal for -inf).
const LOWEST: f32 = -3.4e38;

// Tiles have rows of 8 vectors and one more, so that eight rows apart do not meet in the same banks.
var<workgroup> row_tile: array<vec4<f32>, ROWS * 9u>;
var<workgroup> column_tile: array<vec4<f32>, COLUMNS * 9u>;

fn sees(query: vec4<u32>, key: vec4<u32>) -> vec4<bool> {
    return key <= query + vec4<u32>(params.query_offset);
}

// The end of the keys that a query before `query_end` sees.
fn key_end(query_end: u32) -> u32 {
    return min(params.keys, query_end + params.query_offset);
}

// Whether a key exists and is not hidden by the mask.
fn keep(batch: u32, key: u32) -> bool {
    if (key >= params.keys) {
        return false;
    }
    if (params.mask.w == 0u) {
        return true;
    }
    return key_mask[params.mask.x + batch * params.mask.y + key * params.mask.z] != 0u;
}

fn keep4(batch: u32, key: vec4<u32>) -> vec4<bool> {
    return vec4<bool>(keep(batch, key.x), keep(batch, key.y), keep(batch, key.z), keep(batch, key.w));
}

fn load_q(base: u32, row: u32, column: u32) -> vec4<f32> {
    if (row >= params.queries || column >= HEAD_DIM) {
        return vec4<f32>();
    }
    let at = base + row * params.q.z + column;
    return q[at >> 2u];
}

fn load_k(base: u32, row: u32, column: u32) -> vec4<f32> {
    if (row >= params.keys || column >= HEAD_DIM) {
        return vec4<f32>();
    }
    let at = base + row * params.k.z + column;
    return k[at >> 2u];
}

fn load_v(base: u32, row: u32, column: u32) -> vec4<f32> {
    if (row >= params.keys || column >= HEAD_DIM) {
        return vec4<f32>();
    }
    let at = base + row * params.v.z + column;
    return v[at >> 2u];
}

fn store_output(row_start: u32, column: u32, value: vec4<f32>) {
    if (column < HEAD_DIM) { output[(row_start + column) >> 2u] = value; }
}

// Maximum of each row as every one of its eight invocations saw it.
var<workgroup> row_maximum: array<vec4<f32>, ROWS * 2u>;

fn largest(a: vec4<f32>, b: vec4<f32>) -> f32 {
    let c = max(a, b);
    return max(max(c.x, c.y), max(c.z, c.w));
}

fn total(a: vec4<f32>) -> f32 {
    return (a.x + a.y) + (a.z + a.w);
}

@compute @workgroup_size(128)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let id = linear_id(0u, group, groups, 1u);
    let matrices = params.batch * params.heads;
    if (id >= matrices * params.row_blocks) {
        return;
    }
    // Under a causal mask the last block has the most to do: it starts first.
    let first_query = (params.row_blocks - 1u - id / matrices) * ROWS;
    let batch = id % matrices / params.heads;
    let head = id % params.heads;
    let kv_head = head / (params.heads / params.kv_heads);
    let query_base = params.q.x + batch * params.q.y + head * params.q.w;
    let key_base = params.k.x + batch * params.k.y + kv_head * params.k.w;
    let value_base = params.v.x + batch * params.v.y + kv_head * params.v.w;
    // 16 × 8 invocations. An invocation's rows are lane_row + 16·i, its columns lane_column + 8·j.
    let lane_row = local >> 3u;
    let lane_column = local & 7u;
    let load_slot = lane_row * 9u + lane_column;
    let row_slot = lane_row * 9u;
    let column_slot = lane_column * 9u;
    // Factors are stored as one vector per row and invocation, which puts column c + 8·j at place 4·c + j; the other
    // operand's rows follow.
    let permuted_slot = ((lane_row & 7u) * 4u + (lane_row >> 3u)) * 9u + lane_column;
    let every_column = vec4<u32>(0u, 8u, 16u, 24u) + vec4<u32>(lane_column);
    var maximum0 = LOWEST;
    var maximum1 = LOWEST;
    var maximum2 = LOWEST;
    var maximum3 = LOWEST;
    var sum0 = vec4<f32>();
    var sum1 = vec4<f32>();
    var sum2 = vec4<f32>();
    var sum3 = vec4<f32>();
    var o0_0 = vec4<f32>();
    var o0_1 = vec4<f32>();
    var o0_2 = vec4<f32>();
    var o0_3 = vec4<f32>();
    var o1_0 = vec4<f32>();
    var o1_1 = vec4<f32>();
    var o1_2 = vec4<f32>();
    var o1_3 = vec4<f32>();

    let end = key_end(first_query + ROWS);
    for (var first_key = 0u; first_key < end; first_key += COLUMNS) {
        // s = rows · columnsᵀ over head_dim, 32 elements at a time.
        var s0 = vec4<f32>();
        var s1 = vec4<f32>();
        var s2 = vec4<f32>();
        var s3 = vec4<f32>();
        for (var chunk = 0u; chunk < HEAD_DIM; chunk += 32u) {
            workgroupBarrier();
            row_tile[load_slot + 0u] = load_q(query_base, first_query + lane_row + 0u, chunk + lane_column * 4u);
            row_tile[load_slot + 144u] = load_q(query_base, first_query + lane_row + 16u, chunk + lane_column * 4u);
            row_tile[load_slot + 288u] = load_q(query_base, first_query + lane_row + 32u, chunk + lane_column * 4u);
            row_tile[load_slot + 432u] = load_q(query_base, first_query + lane_row + 48u, chunk + lane_column * 4u);
            column_tile[load_slot + 0u] = load_k(key_base, first_key + lane_row + 0u, chunk + lane_column * 4u);
            column_tile[load_slot + 144u] = load_k(key_base, first_key + lane_row + 16u, chunk + lane_column * 4u);
            workgroupBarrier();
            for (var step = 0u; step < 8u; step += 1u) {
                let a0 = row_tile[row_slot + 0u + step];
                let a1 = row_tile[row_slot + 144u + step];
                let a2 = row_tile[row_slot + 288u + step];
                let a3 = row_tile[row_slot + 432u + step];
                let b0 = column_tile[column_slot + 0u + step];
                let b1 = column_tile[column_slot + 72u + step];
                let b2 = column_tile[column_slot + 144u + step];
                let b3 = column_tile[column_slot + 216u + step];
                let x = vec4<f32>(b0.x, b1.x, b2.x, b3.x);
                s0 = fma(vec4<f32>(a0.x), x, s0);
                s1 = fma(vec4<f32>(a1.x), x, s1);
                s2 = fma(vec4<f32>(a2.x), x, s2);
                s3 = fma(vec4<f32>(a3.x), x, s3);
                let y = vec4<f32>(b0.y, b1.y, b2.y, b3.y);
                s0 = fma(vec4<f32>(a0.y), y, s0);
                s1 = fma(vec4<f32>(a1.y), y, s1);
                s2 = fma(vec4<f32>(a2.y), y, s2);
                s3 = fma(vec4<f32>(a3.y), y, s3);
                let z = vec4<f32>(b0.z, b1.z, b2.z, b3.z);
                s0 = fma(vec4<f32>(a0.z), z, s0);
                s1 = fma(vec4<f32>(a1.z), z, s1);
                s2 = fma(vec4<f32>(a2.z), z, s2);
                s3 = fma(vec4<f32>(a3.z), z, s3);
                let w = vec4<f32>(b0.w, b1.w, b2.w, b3.w);
                s0 = fma(vec4<f32>(a0.w), w, s0);
                s1 = fma(vec4<f32>(a1.w), w, s1);
                s2 = fma(vec4<f32>(a2.w), w, s2);
                s3 = fma(vec4<f32>(a3.w), w, s3);
            }
        }
        let key = vec4<u32>(first_key) + every_column;
        let kept = keep4(batch, key);
        let seen0 = kept & sees(vec4<u32>(first_query + lane_row + 0u), key);
        let seen1 = kept & sees(vec4<u32>(first_query + lane_row + 16u), key);
        let seen2 = kept & sees(vec4<u32>(first_query + lane_row + 32u), key);
        let seen3 = kept & sees(vec4<u32>(first_query + lane_row + 48u), key);
        s0 = select(vec4<f32>(LOWEST), s0 * params.scale, seen0);
        s1 = select(vec4<f32>(LOWEST), s1 * params.scale, seen1);
        s2 = select(vec4<f32>(LOWEST), s2 * params.scale, seen2);
        s3 = select(vec4<f32>(LOWEST), s3 * params.scale, seen3);
        row_maximum[(lane_row + 0u) * 2u + (lane_column >> 2u)][lane_column & 3u] = largest(s0, s0);
        row_maximum[(lane_row + 16u) * 2u + (lane_column >> 2u)][lane_column & 3u] = largest(s1, s1);
        row_maximum[(lane_row + 32u) * 2u + (lane_column >> 2u)][lane_column & 3u] = largest(s2, s2);
        row_maximum[(lane_row + 48u) * 2u + (lane_column >> 2u)][lane_column & 3u] = largest(s3, s3);
        workgroupBarrier();
        let shift0 = max(maximum0, largest(row_maximum[(lane_row + 0u) * 2u], row_maximum[(lane_row + 0u) * 2u + 1u]));
        let shift1 = max(maximum1, largest(row_maximum[(lane_row + 16u) * 2u], row_maximum[(lane_row + 16u) * 2u + 1u]));
        let shift2 = max(maximum2, largest(row_maximum[(lane_row + 32u) * 2u], row_maximum[(lane_row + 32u) * 2u + 1u]));
        let shift3 = max(maximum3, largest(row_maximum[(lane_row + 48u) * 2u], row_maximum[(lane_row + 48u) * 2u + 1u]));
        let rescale0 = exp(maximum0 - shift0);
        let rescale1 = exp(maximum1 - shift1);
        let rescale2 = exp(maximum2 - shift2);
        let rescale3 = exp(maximum3 - shift3);
        maximum0 = shift0;
        maximum1 = shift1;
        maximum2 = shift2;
        maximum3 = shift3;
        s0 = select(vec4<f32>(), exp(s0 - vec4<f32>(shift0)), seen0);
        s1 = select(vec4<f32>(), exp(s1 - vec4<f32>(shift1)), seen1);
        s2 = select(vec4<f32>(), exp(s2 - vec4<f32>(shift2)), seen2);
        s3 = select(vec4<f32>(), exp(s3 - vec4<f32>(shift3)), seen3);
        sum0 = sum0 * rescale0 + s0;
        sum1 = sum1 * rescale1 + s1;
        sum2 = sum2 * rescale2 + s2;
        sum3 = sum3 * rescale3 + s3;
        row_tile[load_slot + 0u] = s0;
        row_tile[load_slot + 144u] = s1;
        row_tile[load_slot + 288u] = s2;
        row_tile[load_slot + 432u] = s3;
        o0_0 *= rescale0;
        o0_1 *= rescale1;
        o0_2 *= rescale2;
        o0_3 *= rescale3;
        o1_0 *= rescale0;
        o1_1 *= rescale1;
        o1_2 *= rescale2;
        o1_3 *= rescale3;
        // o0 += row_tile · columns, elements 0 to 0 + 31 of the head.
        column_tile[permuted_slot + 0u] = load_v(value_base, first_key + lane_row + 0u, 0u + lane_column * 4u);
        column_tile[permuted_slot + 18u] = load_v(value_base, first_key + lane_row + 16u, 0u + lane_column * 4u);
        workgroupBarrier();
        for (var step = 0u; step < 8u; step += 1u) {
            let a0 = row_tile[row_slot + 0u + step];
            let a1 = row_tile[row_slot + 144u + step];
            let a2 = row_tile[row_slot + 288u + step];
            let a3 = row_tile[row_slot + 432u + step];
            let b0 = column_tile[step * 36u + 0u + lane_column];
            let b1 = column_tile[step * 36u + 9u + lane_column];
            let b2 = column_tile[step * 36u + 18u + lane_column];
            let b3 = column_tile[step * 36u + 27u + lane_column];
            o0_0 = fma(vec4<f32>(a0.x), b0, o0_0);
            o0_1 = fma(vec4<f32>(a1.x), b0, o0_1);
            o0_2 = fma(vec4<f32>(a2.x), b0, o0_2);
            o0_3 = fma(vec4<f32>(a3.x), b0, o0_3);
            o0_0 = fma(vec4<f32>(a0.y), b1, o0_0);
            o0_1 = fma(vec4<f32>(a1.y), b1, o0_1);
            o0_2 = fma(vec4<f32>(a2.y), b1, o0_2);
            o0_3 = fma(vec4<f32>(a3.y), b1, o0_3);
            o0_0 = fma(vec4<f32>(a0.z), b2, o0_0);
            o0_1 = fma(vec4<f32>(a1.z), b2, o0_1);
            o0_2 = fma(vec4<f32>(a2.z), b2, o0_2);
            o0_3 = fma(vec4<f32>(a3.z), b2, o0_3);
            o0_0 = fma(vec4<f32>(a0.w), b3, o0_0);
            o0_1 = fma(vec4<f32>(a1.w), b3, o0_1);
            o0_2 = fma(vec4<f32>(a2.w), b3, o0_2);
            o0_3 = fma(vec4<f32>(a3.w), b3, o0_3);
        }
        workgroupBarrier();
        // o1 += row_tile · columns, elements 32 to 32 + 31 of the head.
        column_tile[permuted_slot + 0u] = load_v(value_base, first_key + lane_row + 0u, 32u + lane_column * 4u);
        column_tile[permuted_slot + 18u] = load_v(value_base, first_key + lane_row + 16u, 32u + lane_column * 4u);
        workgroupBarrier();
        for (var step = 0u; step < 8u; step += 1u) {
            let a0 = row_tile[row_slot + 0u + step];
            let a1 = row_tile[row_slot + 144u + step];
            let a2 = row_tile[row_slot + 288u + step];
            let a3 = row_tile[row_slot + 432u + step];
            let b0 = column_tile[step * 36u + 0u + lane_column];
            let b1 = column_tile[step * 36u + 9u + lane_column];
            let b2 = column_tile[step * 36u + 18u + lane_column];
            let b3 = column_tile[step * 36u + 27u + lane_column];
            o1_0 = fma(vec4<f32>(a0.x), b0, o1_0);
            o1_1 = fma(vec4<f32>(a1.x), b0, o1_1);
            o1_2 = fma(vec4<f32>(a2.x), b0, o1_2);
            o1_3 = fma(vec4<f32>(a3.x), b0, o1_3);
            o1_0 = fma(vec4<f32>(a0.y), b1, o1_0);
            o1_1 = fma(vec4<f32>(a1.y), b1, o1_1);
            o1_2 = fma(vec4<f32>(a2.y), b1, o1_2);
            o1_3 = fma(vec4<f32>(a3.y), b1, o1_3);
            o1_0 = fma(vec4<f32>(a0.z), b2, o1_0);
            o1_1 = fma(vec4<f32>(a1.z), b2, o1_1);
            o1_2 = fma(vec4<f32>(a2.z), b2, o1_2);
            o1_3 = fma(vec4<f32>(a3.z), b2, o1_3);
            o1_0 = fma(vec4<f32>(a0.w), b3, o1_0);
            o1_1 = fma(vec4<f32>(a1.w), b3, o1_1);
            o1_2 = fma(vec4<f32>(a2.w), b3, o1_2);
            o1_3 = fma(vec4<f32>(a3.w), b3, o1_3);
        }
    }

    // The sums are spread over the row's invocations, as the maxima were.
    workgroupBarrier();
    row_maximum[(lane_row + 0u) * 2u + (lane_column >> 2u)][lane_column & 3u] = total(sum0);
    row_maximum[(lane_row + 16u) * 2u + (lane_column >> 2u)][lane_column & 3u] = total(sum1);
    row_maximum[(lane_row + 32u) * 2u + (lane_column >> 2u)][lane_column & 3u] = total(sum2);
    row_maximum[(lane_row + 48u) * 2u + (lane_column >> 2u)][lane_column & 3u] = total(sum3);
    workgroupBarrier();
    let total0 = total(row_maximum[(lane_row + 0u) * 2u] + row_maximum[(lane_row + 0u) * 2u + 1u]);
    let total1 = total(row_maximum[(lane_row + 16u) * 2u] + row_maximum[(lane_row + 16u) * 2u + 1u]);
    let total2 = total(row_maximum[(lane_row + 32u) * 2u] + row_maximum[(lane_row + 32u) * 2u + 1u]);
    let total3 = total(row_maximum[(lane_row + 48u) * 2u] + row_maximum[(lane_row + 48u) * 2u + 1u]);
    let normaliser0 = select(1.0 / total0, 0.0, total0 == 0.0);
    let normaliser1 = select(1.0 / total1, 0.0, total1 == 0.0);
    let normaliser2 = select(1.0 / total2, 0.0, total2 == 0.0);
    let normaliser3 = select(1.0 / total3, 0.0, total3 == 0.0);
    let query0 = first_query + lane_row + 0u;
    let query1 = first_query + lane_row + 16u;
    let query2 = first_query + lane_row + 32u;
    let query3 = first_query + lane_row + 48u;
    let row0 = ((batch * params.queries + query0) * params.heads + head) * HEAD_DIM;
    let row1 = ((batch * params.queries + query1) * params.heads + head) * HEAD_DIM;
    let row2 = ((batch * params.queries + query2) * params.heads + head) * HEAD_DIM;
    let row3 = ((batch * params.queries + query3) * params.heads + head) * HEAD_DIM;
    if (query0 < params.queries) { store_output(row0, 0u + lane_column * 4u, o0_0 * normaliser0); }
    if (query1 < params.queries) { store_output(row1, 0u + lane_column * 4u, o0_1 * normaliser1); }
    if (query2 < params.queries) { store_output(row2, 0u + lane_column * 4u, o0_2 * normaliser2); }
    if (query3 < params.queries) { store_output(row3, 0u + lane_column * 4u, o0_3 * normaliser3); }
    if (query0 < params.queries) { store_output(row0, 32u + lane_column * 4u, o1_0 * normaliser0); }
    if (query1 < params.queries) { store_output(row1, 32u + lane_column * 4u, o1_1 * normaliser1); }
    if (query2 < params.queries) { store_output(row2, 32u + lane_column * 4u, o1_2 * normaliser2); }
    if (query3 < params.queries) { store_output(row3, 32u + lane_column * 4u, o1_3 * normaliser3); }
    let lse_base = (batch * params.heads + head) * params.queries;
    if (lane_column == 0u && query0 < params.queries) { log_sum_exp[lse_base + query0] = log_of_sum(maximum0, total0); }
    if (lane_column == 0u && query1 < params.queries) { log_sum_exp[lse_base + query1] = log_of_sum(maximum1, total1); }
    if (lane_column == 0u && query2 < params.queries) { log_sum_exp[lse_base + query2] = log_of_sum(maximum2, total2); }
    if (lane_column == 0u && query3 < params.queries) { log_sum_exp[lse_base + query3] = log_of_sum(maximum3, total3); }
}

fn log_of_sum(maximum: f32, total: f32) -> f32 {
    // A sum of nothing has the logarithm -inf; its bits come from a variable, since no constant may hold them.
    var infinity = 0xff800000u;
    return select(maximum + log(total), bitcast<f32>(infinity), total == 0.0);
}
