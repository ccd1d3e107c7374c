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
    let upstream_base = params.upstream.x + batch * params.upstream.y + head * params.upstream.w;
    let terms_base = (batch * params.heads + head) * params.queries;
    @lanes
    // log_sum_exp and rowsum(upstream ∘ output).
    @rows let terms$i = row_terms[terms_base + min(first_query + lane_row + $tu, params.queries - 1u)];
    @chunks @rows var dq$c_$i = vec4<f32>();

    let end = key_end(first_query + ROWS);
    for (var first_key = 0u; first_key < end; first_key += COLUMNS) {
        @multiply s q:query_base:first_query k:key_base:first_key
        @multiply d upstream:upstream_base:first_query v:value_base:first_key
        let key = vec4<u32>(first_key) + every_column;
        let kept = keep4(batch, key);
        @rows let seen$i = kept & sees(vec4<u32>(first_query + lane_row + $tu), key);
        @rows let p$i = select(vec4<f32>(), exp(s$i * params.scale - vec4<f32>(terms$i.x)), seen$i);
        workgroupBarrier();
        @rows row_tile[load_slot + $su] = p$i * (d$i - vec4<f32>(terms$i.y)) * params.scale;
        @accumulate dq k:key_base:first_key
    }

    @rows let query$i = first_query + lane_row + $tu;
    @rows let row$i = ((batch * params.queries + query$i) * params.heads + head) * HEAD_DIM;
    @chunks @rows if (query$i < params.queries) { store_dq(row$i, $ku + lane_column * 4u, dq$c_$i); }
}
