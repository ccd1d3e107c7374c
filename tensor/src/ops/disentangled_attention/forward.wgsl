// Scores to probabilities, in place: the position terms are looked up by bucket and added, then the softmax of each row.
//
// A team of TEAM invocations takes a row; an invocation keeps to its own quads of four neighbouring columns, so that it
// reads back only what it wrote itself. A quad is one Philox block of the dropout mask.

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

// Inner products of queries with pk, and of keys with pq: [heads, batch * sequence, buckets].
@group(0) @binding(0) var<storage, read> content_to_position: array<f32>;
@group(0) @binding(1) var<storage, read> position_to_content: array<f32>;
@group(0) @binding(2) var<storage, read> bucket_table: array<u32>;
@group(0) @binding(3) var<storage, read> mask: array<u32>;
@group(0) @binding(4) var<storage, read_write> scores: array<f32>;
@group(0) @binding(5) var<storage, read_write> kept: array<f32>;
var<immediate> params: Params;

// A power of two, at most 256.
override TEAM: u32;
override CONTENT_TO_POSITION: bool;
override POSITION_TO_CONTENT: bool;
override MASK: bool;
override DROPOUT: bool;

var<workgroup> scratch: array<f32, 256>;

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let team_row = (group.y * groups.x + group.x) * (256u / TEAM) + local / TEAM;
    let lane = local % TEAM;
    // Teams without a row do nothing but wait at the barriers.
    let columns = select(0u, params.sequence, team_row < params.rows);
    let row = min(team_row, params.rows - 1u);
    let start = row * params.sequence;
    let item = row / params.sequence % params.batch;
    let sees = is_token(item, row % params.sequence);

    var largest = params.lowest;
    for (var quad = lane; 4u * quad < columns; quad += TEAM) {
        for (var column = 4u * quad; column < min(columns, 4u * quad + 4u); column += 1u) {
            let seen = sees && is_token(item, column);
            let value = select(params.lowest, params.scale * score(row, column), seen);
            scores[start + column] = value;
            largest = max(largest, value);
        }
    }
    largest = team_max(largest, local, lane);

    var total = 0.0;
    for (var quad = lane; 4u * quad < columns; quad += TEAM) {
        for (var column = 4u * quad; column < min(columns, 4u * quad + 4u); column += 1u) {
            let value = exp(scores[start + column] - largest);
            scores[start + column] = value;
            total += value;
        }
    }
    total = team_sum(total, local, lane);

    let normaliser = 1.0 / total;
    for (var quad = lane; 4u * quad < columns; quad += TEAM) {
        var factors = vec4<f32>(1.0);
        if (DROPOUT) {
            factors = kept_factors(row, quad);
        }
        for (var i = 0u; i < min(4u, columns - 4u * quad); i += 1u) {
            let place = start + 4u * quad + i;
            // A row of padding has seen nothing, and what was computed of it is no number.
            let value = select(0.0, scores[place] * normaliser, sees);
            scores[place] = value;
            if (DROPOUT) {
                kept[place] = value * factors[i];
            }
        }
    }
}

fn is_token(item: u32, position: u32) -> bool {
    if (MASK) {
        return mask[params.mask_offset + item * params.sequence + position] != 0u;
    }
    return true;
}

fn score(row: u32, key: u32) -> f32 {
    let sequence = params.sequence;
    let bucket = bucket_table[row % sequence + (sequence - 1u) - key];
    var sum = scores[row * sequence + key];
    if (CONTENT_TO_POSITION) {
        sum += content_to_position[row * params.buckets + bucket];
    }
    if (POSITION_TO_CONTENT) {
        let key_row = row / sequence * sequence + key;
        sum += position_to_content[key_row * params.buckets + bucket];
    }
    return sum;
}
