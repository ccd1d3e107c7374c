// Generated: attention_key_value_gradient_64x64_aligned
const HEAD_DIM: u32 = 64u;
const ROWS: u32 = 64u;
const COLUMNS: u32 = 32u;

@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> v: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> upstream: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> row_terms: array<vec2<f32>>;
@group(0) @binding(5) var<storage, read> key_mask: array<u32>;
@group(0) @binding(6) var<storage, read_write> dk: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> dv: array<vec4<f32>>;

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

fn load_upstream(base: u32, row: u32, column: u32) -> vec4<f32> {
    if (row >= params.queries || column >= HEAD_DIM) {
        return vec4<f32>();
    }
    let at = base + row * params.upstream.z + column;
    return upstream[at >> 2u];
}

fn store_dk(row_start: u32, column: u32, value: vec4<f32>) {
    if (column < HEAD_DIM) { dk[(row_start + column) >> 2u] = value; }
}

fn store_dv(row_start: u32, column: u32, value: vec4<f32>) {
    if (column < HEAD_DIM) { dv[(row_start + column) >> 2u] = value; }
}

@compute @workgroup_size(128)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let id = linear_id(0u, group, groups, 1u);
    let matrices = params.batch * params.kv_heads;
    if (id >= matrices * params.row_blocks) {
        return;
    }
    // Under a causal mask the first block has the most to do: it starts first.
    let first_key = id / matrices * ROWS;
    let batch = id % matrices / params.kv_heads;
    let kv_head = id % params.kv_heads;
    let heads_per_group = params.heads / params.kv_heads;
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
    let key0 = first_key + lane_row + 0u;
    let key1 = first_key + lane_row + 16u;
    let key2 = first_key + lane_row + 32u;
    let key3 = first_key + lane_row + 48u;
    let kept0 = keep(batch, key0);
    let kept1 = keep(batch, key1);
    let kept2 = keep(batch, key2);
    let kept3 = keep(batch, key3);
    var dk0_0 = vec4<f32>();
    var dk0_1 = vec4<f32>();
    var dk0_2 = vec4<f32>();
    var dk0_3 = vec4<f32>();
    var dk1_0 = vec4<f32>();
    var dk1_1 = vec4<f32>();
    var dk1_2 = vec4<f32>();
    var dk1_3 = vec4<f32>();
    var dv0_0 = vec4<f32>();
    var dv0_1 = vec4<f32>();
    var dv0_2 = vec4<f32>();
    var dv0_3 = vec4<f32>();
    var dv1_0 = vec4<f32>();
    var dv1_1 = vec4<f32>();
    var dv1_2 = vec4<f32>();
    var dv1_3 = vec4<f32>();

    // Queries before this see none of the block's keys.
    var start = 0u;
    if (first_key > params.query_offset) {
        start = (first_key - params.query_offset) / COLUMNS * COLUMNS;
    }
    for (var head = kv_head * heads_per_group; head < (kv_head + 1u) * heads_per_group; head += 1u) {
        let query_base = params.q.x + batch * params.q.y + head * params.q.w;
        let upstream_base = params.upstream.x + batch * params.upstream.y + head * params.upstream.w;
        let terms_base = (batch * params.heads + head) * params.queries;
        for (var first_query = start; first_query < params.queries; first_query += COLUMNS) {
        // s = rows · columnsᵀ over head_dim, 32 elements at a time.
        var s0 = vec4<f32>();
        var s1 = vec4<f32>();
        var s2 = vec4<f32>();
        var s3 = vec4<f32>();
        for (var chunk = 0u; chunk < HEAD_DIM; chunk += 32u) {
            workgroupBarrier();
            row_tile[load_slot + 0u] = load_k(key_base, first_key + lane_row + 0u, chunk + lane_column * 4u);
            row_tile[load_slot + 144u] = load_k(key_base, first_key + lane_row + 16u, chunk + lane_column * 4u);
            row_tile[load_slot + 288u] = load_k(key_base, first_key + lane_row + 32u, chunk + lane_column * 4u);
            row_tile[load_slot + 432u] = load_k(key_base, first_key + lane_row + 48u, chunk + lane_column * 4u);
            column_tile[load_slot + 0u] = load_q(query_base, first_query + lane_row + 0u, chunk + lane_column * 4u);
            column_tile[load_slot + 144u] = load_q(query_base, first_query + lane_row + 16u, chunk + lane_column * 4u);
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
        // d = rows · columnsᵀ over head_dim, 32 elements at a time.
        var d0 = vec4<f32>();
        var d1 = vec4<f32>();
        var d2 = vec4<f32>();
        var d3 = vec4<f32>();
        for (var chunk = 0u; chunk < HEAD_DIM; chunk += 32u) {
            workgroupBarrier();
            row_tile[load_slot + 0u] = load_v(value_base, first_key + lane_row + 0u, chunk + lane_column * 4u);
            row_tile[load_slot + 144u] = load_v(value_base, first_key + lane_row + 16u, chunk + lane_column * 4u);
            row_tile[load_slot + 288u] = load_v(value_base, first_key + lane_row + 32u, chunk + lane_column * 4u);
            row_tile[load_slot + 432u] = load_v(value_base, first_key + lane_row + 48u, chunk + lane_column * 4u);
            column_tile[load_slot + 0u] = load_upstream(upstream_base, first_query + lane_row + 0u, chunk + lane_column * 4u);
            column_tile[load_slot + 144u] = load_upstream(upstream_base, first_query + lane_row + 16u, chunk + lane_column * 4u);
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
                d0 = fma(vec4<f32>(a0.x), x, d0);
                d1 = fma(vec4<f32>(a1.x), x, d1);
                d2 = fma(vec4<f32>(a2.x), x, d2);
                d3 = fma(vec4<f32>(a3.x), x, d3);
                let y = vec4<f32>(b0.y, b1.y, b2.y, b3.y);
                d0 = fma(vec4<f32>(a0.y), y, d0);
                d1 = fma(vec4<f32>(a1.y), y, d1);
                d2 = fma(vec4<f32>(a2.y), y, d2);
                d3 = fma(vec4<f32>(a3.y), y, d3);
                let z = vec4<f32>(b0.z, b1.z, b2.z, b3.z);
                d0 = fma(vec4<f32>(a0.z), z, d0);
                d1 = fma(vec4<f32>(a1.z), z, d1);
                d2 = fma(vec4<f32>(a2.z), z, d2);
                d3 = fma(vec4<f32>(a3.z), z, d3);
                let w = vec4<f32>(b0.w, b1.w, b2.w, b3.w);
                d0 = fma(vec4<f32>(a0.w), w, d0);
                d1 = fma(vec4<f32>(a1.w), w, d1);
                d2 = fma(vec4<f32>(a2.w), w, d2);
                d3 = fma(vec4<f32>(a3.w), w, d3);
            }
        }
            let query = vec4<u32>(first_query) + every_column;
            let exists = query < vec4<u32>(params.queries);
            let place = vec4<u32>(terms_base) + min(query, vec4<u32>(params.queries - 1u));
            let t0 = row_terms[place.x];
            let t1 = row_terms[place.y];
            let t2 = row_terms[place.z];
            let t3 = row_terms[place.w];
            let lse = vec4<f32>(t0.x, t1.x, t2.x, t3.x);
            let delta = vec4<f32>(t0.y, t1.y, t2.y, t3.y);
            let seen0 = vec4<bool>(kept0) & exists & sees(query, vec4<u32>(key0));
            let seen1 = vec4<bool>(kept1) & exists & sees(query, vec4<u32>(key1));
            let seen2 = vec4<bool>(kept2) & exists & sees(query, vec4<u32>(key2));
            let seen3 = vec4<bool>(kept3) & exists & sees(query, vec4<u32>(key3));
            let p0 = select(vec4<f32>(), exp(s0 * params.scale - lse), seen0);
            let p1 = select(vec4<f32>(), exp(s1 * params.scale - lse), seen1);
            let p2 = select(vec4<f32>(), exp(s2 * params.scale - lse), seen2);
            let p3 = select(vec4<f32>(), exp(s3 * params.scale - lse), seen3);
            workgroupBarrier();
            row_tile[load_slot + 0u] = p0;
            row_tile[load_slot + 144u] = p1;
            row_tile[load_slot + 288u] = p2;
            row_tile[load_slot + 432u] = p3;
        // dv0 += row_tile · columns, elements 0 to 0 + 31 of the head.
        column_tile[permuted_slot + 0u] = load_upstream(upstream_base, first_query + lane_row + 0u, 0u + lane_column * 4u);
        column_tile[permuted_slot + 18u] = load_upstream(upstream_base, first_query + lane_row + 16u, 0u + lane_column * 4u);
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
            dv0_0 = fma(vec4<f32>(a0.x), b0, dv0_0);
            dv0_1 = fma(vec4<f32>(a1.x), b0, dv0_1);
            dv0_2 = fma(vec4<f32>(a2.x), b0, dv0_2);
            dv0_3 = fma(vec4<f32>(a3.x), b0, dv0_3);
            dv0_0 = fma(vec4<f32>(a0.y), b1, dv0_0);
            dv0_1 = fma(vec4<f32>(a1.y), b1, dv0_1);
            dv0_2 = fma(vec4<f32>(a2.y), b1, dv0_2);
            dv0_3 = fma(vec4<f32>(a3.y), b1, dv0_3);
            dv0_0 = fma(vec4<f32>(a0.z), b2, dv0_0);
            dv0_1 = fma(vec4<f32>(a1.z), b2, dv0_1);
            dv0_2 = fma(vec4<f32>(a2.z), b2, dv0_2);
            dv0_3 = fma(vec4<f32>(a3.z), b2, dv0_3);
            dv0_0 = fma(vec4<f32>(a0.w), b3, dv0_0);
            dv0_1 = fma(vec4<f32>(a1.w), b3, dv0_1);
            dv0_2 = fma(vec4<f32>(a2.w), b3, dv0_2);
            dv0_3 = fma(vec4<f32>(a3.w), b3, dv0_3);
        }
        workgroupBarrier();
        // dv1 += row_tile · columns, elements 32 to 32 + 31 of the head.
        column_tile[permuted_slot + 0u] = load_upstream(upstream_base, first_query + lane_row + 0u, 32u + lane_column * 4u);
        column_tile[permuted_slot + 18u] = load_upstream(upstream_base, first_query + lane_row + 16u, 32u + lane_column * 4u);
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
            dv1_0 = fma(vec4<f32>(a0.x), b0, dv1_0);
            dv1_1 = fma(vec4<f32>(a1.x), b0, dv1_1);
            dv1_2 = fma(vec4<f32>(a2.x), b0, dv1_2);
            dv1_3 = fma(vec4<f32>(a3.x), b0, dv1_3);
            dv1_0 = fma(vec4<f32>(a0.y), b1, dv1_0);
            dv1_1 = fma(vec4<f32>(a1.y), b1, dv1_1);
            dv1_2 = fma(vec4<f32>(a2.y), b1, dv1_2);
            dv1_3 = fma(vec4<f32>(a3.y), b1, dv1_3);
            dv1_0 = fma(vec4<f32>(a0.z), b2, dv1_0);
            dv1_1 = fma(vec4<f32>(a1.z), b2, dv1_1);
            dv1_2 = fma(vec4<f32>(a2.z), b2, dv1_2);
            dv1_3 = fma(vec4<f32>(a3.z), b2, dv1_3);
            dv1_0 = fma(vec4<f32>(a0.w), b3, dv1_0);
            dv1_1 = fma(vec4<f32>(a1.w), b3, dv1_1);
            dv1_2 = fma(vec4<f32>(a2.w), b3, dv1_2);
            dv1_3 = fma(vec4<f32>(a3.w), b3, dv1_3);
        }
            workgroupBarrier();
            row_tile[load_slot + 0u] = p0 * (d0 - delta) * params.scale;
            row_tile[load_slot + 144u] = p1 * (d1 - delta) * params.scale;
            row_tile[load_slot + 288u] = p2 * (d2 - delta) * params.scale;
            row_tile[load_slot + 432u] = p3 * (d3 - delta) * params.scale;
        // dk0 += row_tile · columns, elements 0 to 0 + 31 of the head.
        column_tile[permuted_slot + 0u] = load_q(query_base, first_query + lane_row + 0u, 0u + lane_column * 4u);
        column_tile[permuted_slot + 18u] = load_q(query_base, first_query + lane_row + 16u, 0u + lane_column * 4u);
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
            dk0_0 = fma(vec4<f32>(a0.x), b0, dk0_0);
            dk0_1 = fma(vec4<f32>(a1.x), b0, dk0_1);
            dk0_2 = fma(vec4<f32>(a2.x), b0, dk0_2);
            dk0_3 = fma(vec4<f32>(a3.x), b0, dk0_3);
            dk0_0 = fma(vec4<f32>(a0.y), b1, dk0_0);
            dk0_1 = fma(vec4<f32>(a1.y), b1, dk0_1);
            dk0_2 = fma(vec4<f32>(a2.y), b1, dk0_2);
            dk0_3 = fma(vec4<f32>(a3.y), b1, dk0_3);
            dk0_0 = fma(vec4<f32>(a0.z), b2, dk0_0);
            dk0_1 = fma(vec4<f32>(a1.z), b2, dk0_1);
            dk0_2 = fma(vec4<f32>(a2.z), b2, dk0_2);
            dk0_3 = fma(vec4<f32>(a3.z), b2, dk0_3);
            dk0_0 = fma(vec4<f32>(a0.w), b3, dk0_0);
            dk0_1 = fma(vec4<f32>(a1.w), b3, dk0_1);
            dk0_2 = fma(vec4<f32>(a2.w), b3, dk0_2);
            dk0_3 = fma(vec4<f32>(a3.w), b3, dk0_3);
        }
        workgroupBarrier();
        // dk1 += row_tile · columns, elements 32 to 32 + 31 of the head.
        column_tile[permuted_slot + 0u] = load_q(query_base, first_query + lane_row + 0u, 32u + lane_column * 4u);
        column_tile[permuted_slot + 18u] = load_q(query_base, first_query + lane_row + 16u, 32u + lane_column * 4u);
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
            dk1_0 = fma(vec4<f32>(a0.x), b0, dk1_0);
            dk1_1 = fma(vec4<f32>(a1.x), b0, dk1_1);
            dk1_2 = fma(vec4<f32>(a2.x), b0, dk1_2);
            dk1_3 = fma(vec4<f32>(a3.x), b0, dk1_3);
            dk1_0 = fma(vec4<f32>(a0.y), b1, dk1_0);
            dk1_1 = fma(vec4<f32>(a1.y), b1, dk1_1);
            dk1_2 = fma(vec4<f32>(a2.y), b1, dk1_2);
            dk1_3 = fma(vec4<f32>(a3.y), b1, dk1_3);
            dk1_0 = fma(vec4<f32>(a0.z), b2, dk1_0);
            dk1_1 = fma(vec4<f32>(a1.z), b2, dk1_1);
            dk1_2 = fma(vec4<f32>(a2.z), b2, dk1_2);
            dk1_3 = fma(vec4<f32>(a3.z), b2, dk1_3);
            dk1_0 = fma(vec4<f32>(a0.w), b3, dk1_0);
            dk1_1 = fma(vec4<f32>(a1.w), b3, dk1_1);
            dk1_2 = fma(vec4<f32>(a2.w), b3, dk1_2);
            dk1_3 = fma(vec4<f32>(a3.w), b3, dk1_3);
        }
        }
    }

    let row0 = ((batch * params.keys + key0) * params.kv_heads + kv_head) * HEAD_DIM;
    let row1 = ((batch * params.keys + key1) * params.kv_heads + kv_head) * HEAD_DIM;
    let row2 = ((batch * params.keys + key2) * params.kv_heads + kv_head) * HEAD_DIM;
    let row3 = ((batch * params.keys + key3) * params.kv_heads + kv_head) * HEAD_DIM;
    if (key0 < params.keys) { store_dk(row0, 0u + lane_column * 4u, dk0_0); }
    if (key1 < params.keys) { store_dk(row1, 0u + lane_column * 4u, dk0_1); }
    if (key2 < params.keys) { store_dk(row2, 0u + lane_column * 4u, dk0_2); }
    if (key3 < params.keys) { store_dk(row3, 0u + lane_column * 4u, dk0_3); }
    if (key0 < params.keys) { store_dk(row0, 32u + lane_column * 4u, dk1_0); }
    if (key1 < params.keys) { store_dk(row1, 32u + lane_column * 4u, dk1_1); }
    if (key2 < params.keys) { store_dk(row2, 32u + lane_column * 4u, dk1_2); }
    if (key3 < params.keys) { store_dk(row3, 32u + lane_column * 4u, dk1_3); }
    if (key0 < params.keys) { store_dv(row0, 0u + lane_column * 4u, dv0_0); }
    if (key1 < params.keys) { store_dv(row1, 0u + lane_column * 4u, dv0_1); }
    if (key2 < params.keys) { store_dv(row2, 0u + lane_column * 4u, dv0_2); }
    if (key3 < params.keys) { store_dv(row3, 0u + lane_column * 4u, dv0_3); }
    if (key0 < params.keys) { store_dv(row0, 32u + lane_column * 4u, dv1_0); }
    if (key1 < params.keys) { store_dv(row1, 32u + lane_column * 4u, dv1_1); }
    if (key2 < params.keys) { store_dv(row2, 32u + lane_column * 4u, dv1_2); }
    if (key3 < params.keys) { store_dv(row3, 32u + lane_column * 4u, dv1_3); }
}
