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
    @lanes
    @rows let key$i = first_key + lane_row + $tu;
    @rows let kept$i = keep(batch, key$i);
    @chunks @rows var dk$c_$i = vec4<f32>();
    @chunks @rows var dv$c_$i = vec4<f32>();

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
            @multiply s k:key_base:first_key q:query_base:first_query
            @multiply d v:value_base:first_key upstream:upstream_base:first_query
            let query = vec4<u32>(first_query) + every_column;
            let exists = query < vec4<u32>(params.queries);
            let place = vec4<u32>(terms_base) + min(query, vec4<u32>(params.queries - 1u));
            let t0 = row_terms[place.x];
            let t1 = row_terms[place.y];
            let t2 = row_terms[place.z];
            let t3 = row_terms[place.w];
            let lse = vec4<f32>(t0.x, t1.x, t2.x, t3.x);
            let delta = vec4<f32>(t0.y, t1.y, t2.y, t3.y);
            @rows let seen$i = vec4<bool>(kept$i) & exists & sees(query, vec4<u32>(key$i));
            @rows let p$i = select(vec4<f32>(), exp(s$i * params.scale - lse), seen$i);
            workgroupBarrier();
            @rows row_tile[load_slot + $su] = p$i;
            @accumulate dv upstream:upstream_base:first_query
            workgroupBarrier();
            @rows row_tile[load_slot + $su] = p$i * (d$i - delta) * params.scale;
            @accumulate dk q:query_base:first_query
        }
    }

    @rows let row$i = ((batch * params.keys + key$i) * params.kv_heads + kv_head) * HEAD_DIM;
    @chunks @rows if (key$i < params.keys) { store_dk(row$i, $ku + lane_column * 4u, dk$c_$i); }
    @chunks @rows if (key$i < params.keys) { store_dv(row$i, $ku + lane_column * 4u, dv$c_$i); }
}
