// Generated: attention_forward_5x16
const HEAD_DIM: u32 = 5u;
const ROWS: u32 = 16u;
const COLUMNS: u32 = 32u;

@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(1) var<storage, read> k: array<f32>;
@group(0) @binding(2) var<storage, read> v: array<f32>;
@group(0) @binding(3) var<storage, read> key_mask: array<u32>;
@group(0) @binding(4) var<storage, read_write> output: array<f32>;
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
    var value = vec4<f32>(q[at], 0.0, 0.0, 0.0);
    if (column + 1u < HEAD_DIM) { value.y = q[at + 1u]; }
    if (column + 2u < HEAD_DIM) { value.z = q[at + 2u]; }
    if (column + 3u < HEAD_DIM) { value.w = q[at + 3u]; }
    return value;
}

fn load_k(base: u32, row: u32, column: u32) -> vec4<f32> {
    if (row >= params.keys || column >= HEAD_DIM) {
        return vec4<f32>();
    }
    let at = base + row * params.k.z + column;
    var value = vec4<f32>(k[at], 0.0, 0.0, 0.0);
    if (column + 1u < HEAD_DIM) { value.y = k[at + 1u]; }
    if (column + 2u < HEAD_DIM) { value.z = k[at + 2u]; }
    if (column + 3u < HEAD_DIM) { value.w = k[at + 3u]; }
    return value;
}

fn load_v(base: u32, row: u32, column: u32) -> vec4<f32> {
    if (row >= params.keys || column >= HEAD_DIM) {
        return vec4<f32>();
    }
    let at = base + row * params.v.z + column;
    var value = vec4<f32>(v[at], 0.0, 0.0, 0.0);
    if (column + 1u < HEAD_DIM) { value.y = v[at + 1u]; }
    if (column + 2u < HEAD_DIM) { value.z = v[at + 2u]; }
    if (column + 3u < HEAD_DIM) { value.w = v[at + 3u]; }
    return value;
}

fn store_output(row_start: u32, column: u32, value: vec4<f32>) {
    if (column + 0u < HEAD_DIM) { output[row_start + column + 0u] = value.x; }
    if (column + 1u < HEAD_DIM) { output[row_start + column + 1u] = value.y; }
    if (column + 2u < HEAD_DIM) { output[row_start + column + 2u] = value.z; }
    if (column + 3u < HEAD_DIM) { output[row_start + column + 3u] = value.w; }
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
    var sum0 = vec4<f32>();
    var o0_0 = vec4<f32>();

    let end = key_end(first_query + ROWS);
    for (var first_key = 0u; first_key < end; first_key += COLUMNS) {
        // s = rows · columnsᵀ over head_dim, 32 elements at a time.
        var s0 = vec4<f32>();
        for (var chunk = 0u; chunk < HEAD_DIM; chunk += 32u) {
            workgroupBarrier();
            row_tile[load_slot + 0u] = load_q(query_base, first_query + lane_row + 0u, chunk + lane_column * 4u);
            column_tile[load_slot + 0u] = load_k(key_base, first_key + lane_row + 0u, chunk + lane_column * 4u);
            column_tile[load_slot + 144u] = load_k(key_base, first_key + lane_row + 16u, chunk + lane_column * 4u);
            workgroupBarrier();
            for (var step = 0u; step < min(8u, (HEAD_DIM - chunk + 3u) / 4u); step += 1u) {
                let a0 = row_tile[row_slot + 0u + step];
                let b0 = column_tile[column_slot + 0u + step];
                let b1 = column_tile[column_slot + 72u + step];
                let b2 = column_tile[column_slot + 144u + step];
                let b3 = column_tile[column_slot + 216u + step];
                let x = vec4<f32>(b0.x, b1.x, b2.x, b3.x);
                s0 = fma(vec4<f32>(a0.x), x, s0);
                let y = vec4<f32>(b0.y, b1.y, b2.y, b3.y);
                s0 = fma(vec4<f32>(a0.y), y, s0);
                let z = vec4<f32>(b0.z, b1.z, b2.z, b3.z);
                s0 = fma(vec4<f32>(a0.z), z, s0);
                let w = vec4<f32>(b0.w, b1.w, b2.w, b3.w);
                s0 = fma(vec4<f32>(a0.w), w, s0);
            }
        }
        let key = vec4<u32>(first_key) + every_column;
        let kept = keep4(batch, key);
        let seen0 = kept & sees(vec4<u32>(first_query + lane_row + 0u), key);
        s0 = select(vec4<f32>(LOWEST), s0 * params.scale, seen0);
        row_maximum[(lane_row + 0u) * 2u + (lane_column >> 2u)][lane_column & 3u] = largest(s0, s0);
        workgroupBarrier();
        let shift0 = max(maximum0, largest(row_maximum[(lane_row + 0u) * 2u], row_maximum[(lane_row + 0u) * 2u + 1u]));
        let rescale0 = exp(maximum0 - shift0);
        maximum0 = shift0;
        s0 = select(vec4<f32>(), exp(s0 - vec4<f32>(shift0)), seen0);
        sum0 = sum0 * rescale0 + s0;
        row_tile[load_slot + 0u] = s0;
        o0_0 *= rescale0;
        // o0 += row_tile · columns, elements 0 to 0 + 31 of the head.
        column_tile[permuted_slot + 0u] = load_v(value_base, first_key + lane_row + 0u, 0u + lane_column * 4u);
        column_tile[permuted_slot + 18u] = load_v(value_base, first_key + lane_row + 16u, 0u + lane_column * 4u);
        workgroupBarrier();
        for (var step = 0u; step < 8u; step += 1u) {
            let a0 = row_tile[row_slot + 0u + step];
            let b0 = column_tile[step * 36u + 0u + lane_column];
            let b1 = column_tile[step * 36u + 9u + lane_column];
            let b2 = column_tile[step * 36u + 18u + lane_column];
            let b3 = column_tile[step * 36u + 27u + lane_column];
            o0_0 = fma(vec4<f32>(a0.x), b0, o0_0);
            o0_0 = fma(vec4<f32>(a0.y), b1, o0_0);
            o0_0 = fma(vec4<f32>(a0.z), b2, o0_0);
            o0_0 = fma(vec4<f32>(a0.w), b3, o0_0);
        }
    }

    // The sums are spread over the row's invocations, as the maxima were.
    workgroupBarrier();
    row_maximum[(lane_row + 0u) * 2u + (lane_column >> 2u)][lane_column & 3u] = total(sum0);
    workgroupBarrier();
    let total0 = total(row_maximum[(lane_row + 0u) * 2u] + row_maximum[(lane_row + 0u) * 2u + 1u]);
    let normaliser0 = select(1.0 / total0, 0.0, total0 == 0.0);
    let query0 = first_query + lane_row + 0u;
    let row0 = ((batch * params.queries + query0) * params.heads + head) * HEAD_DIM;
    if (query0 < params.queries) { store_output(row0, 0u + lane_column * 4u, o0_0 * normaliser0); }
    let lse_base = (batch * params.heads + head) * params.queries;
    if (lane_column == 0u && query0 < params.queries) { log_sum_exp[lse_base + query0] = log_of_sum(maximum0, total0); }
}

fn log_of_sum(maximum: f32, total: f32) -> f32 {
    // A sum of nothing has the logarithm -inf; its bits come from a variable, since no constant may hold them.
    var infinity = 0xff800000u;
    return select(maximum + log(total), bitcast<f32>(infinity), total == 0.0);
}
