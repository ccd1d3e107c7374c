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
    @lanes
    @rows var maximum$i = LOWEST;
    @rows var sum$i = vec4<f32>();
    @chunks @rows var o$c_$i = vec4<f32>();

    let end = key_end(first_query + ROWS);
    for (var first_key = 0u; first_key < end; first_key += COLUMNS) {
        @multiply s q:query_base:first_query k:key_base:first_key
        let key = vec4<u32>(first_key) + every_column;
        let kept = keep4(batch, key);
        @rows let seen$i = kept & sees(vec4<u32>(first_query + lane_row + $tu), key);
        @rows s$i = select(vec4<f32>(LOWEST), s$i * params.scale, seen$i);
        @rows row_maximum[(lane_row + $tu) * 2u + (lane_column >> 2u)][lane_column & 3u] = largest(s$i, s$i);
        workgroupBarrier();
        @rows let shift$i = max(maximum$i, largest(row_maximum[(lane_row + $tu) * 2u], row_maximum[(lane_row + $tu) * 2u + 1u]));
        @rows let rescale$i = exp(maximum$i - shift$i);
        @rows maximum$i = shift$i;
        @rows s$i = select(vec4<f32>(), exp(s$i - vec4<f32>(shift$i)), seen$i);
        @rows sum$i = sum$i * rescale$i + s$i;
        @rows row_tile[load_slot + $su] = s$i;
        @chunks @rows o$c_$i *= rescale$i;
        @accumulate o v:value_base:first_key
    }

    // The sums are spread over the row's invocations, as the maxima were.
    workgroupBarrier();
    @rows row_maximum[(lane_row + $tu) * 2u + (lane_column >> 2u)][lane_column & 3u] = total(sum$i);
    workgroupBarrier();
    @rows let total$i = total(row_maximum[(lane_row + $tu) * 2u] + row_maximum[(lane_row + $tu) * 2u + 1u]);
    @rows let normaliser$i = select(1.0 / total$i, 0.0, total$i == 0.0);
    @rows let query$i = first_query + lane_row + $tu;
    @rows let row$i = ((batch * params.queries + query$i) * params.heads + head) * HEAD_DIM;
    @chunks @rows if (query$i < params.queries) { store_output(row$i, $ku + lane_column * 4u, o$c_$i * normaliser$i); }
    let lse_base = (batch * params.heads + head) * params.queries;
    @rows if (lane_column == 0u && query$i < params.queries) { log_sum_exp[lse_base + query$i] = log_of_sum(maximum$i, total$i); }
}

fn log_of_sum(maximum: f32, total: f32) -> f32 {
    // A sum of nothing has the logarithm -inf; its bits come from a variable, since no constant may hold them.
    var infinity = 0xff800000u;
    return select(maximum + log(total), bitcast<f32>(infinity), total == 0.0);
}
