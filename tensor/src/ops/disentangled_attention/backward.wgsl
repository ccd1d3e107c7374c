// The scores' gradient, in place of the gradient of the probabilities after dropout:
// scale·p·(g − Σ p·g), where g is that gradient with dropout's mask and factor. Also the probabilities after dropout.
//
// Rows and quads are shared out as in the forward kernel.

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
    probabilities_offset: u32,
    scale: f32,
    lowest: f32,
}

@group(0) @binding(0) var<storage, read> probabilities: array<f32>;
@group(0) @binding(1) var<storage, read_write> gradient: array<f32>;
@group(0) @binding(2) var<storage, read_write> kept: array<f32>;
var<immediate> params: Params;

// A power of two, at most 256.
override TEAM: u32;
override DROPOUT: bool;

var<workgroup> scratch: array<f32, 256>;

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let row = (group.y * groups.x + group.x) * (256u / TEAM) + local / TEAM;
    let lane = local % TEAM;
    // Teams without a row do nothing but wait at the barriers.
    let columns = select(0u, params.sequence, row < params.rows);
    let start = row * params.sequence;

    var total = 0.0;
    for (var quad = lane; 4u * quad < columns; quad += TEAM) {
        var factors = vec4<f32>(1.0);
        if (DROPOUT) {
            factors = kept_factors(row, quad);
        }
        for (var i = 0u; i < min(4u, columns - 4u * quad); i += 1u) {
            let place = start + 4u * quad + i;
            let p = probabilities[params.probabilities_offset + place];
            var g = gradient[place];
            if (DROPOUT) {
                g *= factors[i];
                gradient[place] = g;
                kept[place] = p * factors[i];
            }
            total += p * g;
        }
    }
    total = team_sum(total, local, lane);

    for (var quad = lane; 4u * quad < columns; quad += TEAM) {
        for (var i = 0u; i < min(4u, columns - 4u * quad); i += 1u) {
            let place = start + 4u * quad + i;
            let p = probabilities[params.probabilities_offset + place];
            gradient[place] = params.scale * p * (gradient[place] - total);
        }
    }
}
