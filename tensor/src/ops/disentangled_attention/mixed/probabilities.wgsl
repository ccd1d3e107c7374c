// Scores of rounded operands to probabilities in f16: the position terms are looked up by bucket and added, with the powers of
// two of all operands, then the softmax of each row.
//
// A team of TEAM invocations takes a row; an invocation has four of its quads of four neighbouring columns, which stay in
// registers. A quad is one Philox block of the dropout mask.

struct Params {
    seed: vec2<u32>,
    stream: vec2<u32>,
    step: u32,
    threshold: u32,
    kept_scale: f32,
    rows: u32,
    sequence: u32,
    batch: u32,
    buckets: u32,
    mask_offset: u32,
    scale: f32,
    // −∞, which WGSL cannot spell.
    lowest: f32,
}

// [heads, batch, sequence, sequence].
@group(0) @binding(0) var<storage, read> scores: array<vec4<f32>>;
// Pairs of f16: inner products of queries with pk, then of keys with pq, [2, heads, batch, sequence, buckets].
@group(0) @binding(1) var<storage, read> terms: array<u32>;
// Of queries, then of keys, [2, heads, batch]; of pk and pq, [2, heads].
@group(0) @binding(2) var<storage, read> content_scales: array<f32>;
@group(0) @binding(3) var<storage, read> position_scales: array<f32>;
@group(0) @binding(4) var<storage, read> bucket_table: array<u32>;
@group(0) @binding(5) var<storage, read> mask: array<u32>;
@group(0) @binding(6) var<storage, read_write> probabilities: array<Halves>;
@group(0) @binding(7) var<storage, read_write> dropped: array<Halves>;
var<immediate> params: Params;

// A power of two, at most 256.
override TEAM: u32;
override MASK: bool;
override DROPOUT: bool;
// Element t of the table is t.
override IDENTITY: bool;

var<workgroup> scratch: array<f32, 256>;

// What the inner products of a row are multiplied by.
struct Factors {
    content: f32,
    content_to_position: f32,
    position_to_content: f32,
}

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let team_row = (group.y * groups.x + group.x) * (256u / TEAM) + local / TEAM;
    let lane = local % TEAM;
    // Teams without a row compute the last one and write nothing.
    let present = team_row < params.rows;
    let row = min(team_row, params.rows - 1u);
    let item = row / params.sequence % params.batch;
    let sees = is_token(item, row % params.sequence);
    let factors = factors_of(row);

    let a = scores_at(row, item, lane, factors, sees);
    let b = scores_at(row, item, lane + TEAM, factors, sees);
    let c = scores_at(row, item, lane + 2u * TEAM, factors, sees);
    let d = scores_at(row, item, lane + 3u * TEAM, factors, sees);
    let largest_by_column = max(max(a, b), max(c, d));
    let largest_pair = max(largest_by_column.xy, largest_by_column.zw);
    let largest = vec4<f32>(team_max(max(largest_pair.x, largest_pair.y), local, lane));

    let p = exp(a - largest);
    let q = exp(b - largest);
    let r = exp(c - largest);
    let s = exp(d - largest);
    let total = team_sum(dot((p + q) + (r + s), vec4<f32>(1.0)), local, lane);
    let normaliser = 1.0 / total;
    write(row, lane, p * normaliser, sees, present);
    write(row, lane + TEAM, q * normaliser, sees, present);
    write(row, lane + 2u * TEAM, r * normaliser, sees, present);
    write(row, lane + 3u * TEAM, s * normaliser, sees, present);
}

fn is_token(item: u32, position: u32) -> bool {
    if (MASK) {
        return mask[params.mask_offset + item * params.sequence + position] != 0u;
    }
    return true;
}

fn factors_of(row: u32) -> Factors {
    let matrices = params.rows / params.sequence;
    let matrix = row / params.sequence;
    let head = matrix / params.batch;
    let query = params.scale * content_scales[matrix];
    let key = content_scales[matrices + matrix];
    return Factors(
        query * key,
        query * position_scales[head],
        params.scale * key * position_scales[matrices / params.batch + head],
    );
}

// The scores of a quad; those that are not to be seen, and those behind the row's end, are the lowest.
fn scores_at(row: u32, item: u32, quad: u32, factors: Factors, sees: bool) -> vec4<f32> {
    let quads = params.sequence / 4u;
    let here = min(quad, quads - 1u);
    var sums = factors.content * scores[row * quads + here];
    let own_terms = row * params.buckets;
    let key = 4u * here;
    // Keys' terms lie behind those of queries.
    let keys_terms = (params.rows + row / params.sequence * params.sequence + key) * params.buckets;
    // The buckets of the quad's keys, which are farther and farther to the right.
    let nearest = row % params.sequence + (params.sequence - 1u) - key;
    for (var i = 0u; i < 4u; i += 1u) {
        var bucket = nearest - i;
        if (!IDENTITY) {
            bucket = bucket_table[bucket];
        }
        sums[i] += factors.content_to_position * term_at(own_terms + bucket)
            + factors.position_to_content * term_at(keys_terms + i * params.buckets + bucket);
    }
    var seen = vec4<bool>(sees && quad < quads);
    if (MASK) {
        for (var i = 0u; i < 4u; i += 1u) {
            seen[i] = seen[i] && is_token(item, key + i);
        }
    }
    return select(vec4<f32>(params.lowest), sums, seen);
}

fn term_at(place: u32) -> f32 {
    let pair = unpack2x16float(terms[place / 2u]);
    return select(pair.x, pair.y, (place & 1u) == 1u);
}

fn write(row: u32, quad: u32, value: vec4<f32>, sees: bool, present: bool) {
    let quads = params.sequence / 4u;
    if (!present || quad >= quads) {
        return;
    }
    // A row of padding has seen nothing, and what was computed of it is no number.
    let p = select(vec4<f32>(), value, sees);
    probabilities[row * quads + quad] = halves(p);
    if (DROPOUT) {
        dropped[row * quads + quad] = halves(p * kept_factors(row, quad));
    }
}
