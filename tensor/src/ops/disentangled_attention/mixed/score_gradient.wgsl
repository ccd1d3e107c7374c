// The scores' gradient in f16: slope·p·(g − Σ p·g), where g is the gradient of the probabilities after dropout where these are
// kept, else 0. Also what it is to be multiplied by, for each matrix.
//
// Rows and quads are shared out as in the forward kernel.

struct Params {
    rows: u32,
    sequence: u32,
    value_scales_offset: u32,
    slope: f32,
    multiple: f32,
}

// f16 [heads, batch, sequence, sequence], before dropout and after it.
@group(0) @binding(0) var<storage, read> probabilities: array<vec2<u32>>;
@group(0) @binding(1) var<storage, read> dropped: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read> gradient: array<vec4<f32>>;
// [heads, batch].
@group(0) @binding(3) var<storage, read> value_scales: array<f32>;
@group(0) @binding(4) var<storage, read> upstream_scales: array<f32>;
@group(0) @binding(5) var<storage, read_write> result: array<Halves>;
@group(0) @binding(6) var<storage, read_write> result_scales: array<f32>;
var<immediate> params: Params;

// A power of two, at most 256.
override TEAM: u32;

var<workgroup> scratch: array<f32, 256>;

struct Quad {
    p: vec4<f32>,
    g: vec4<f32>,
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
    let a = quad_at(row, lane);
    let b = quad_at(row, lane + TEAM);
    let c = quad_at(row, lane + 2u * TEAM);
    let d = quad_at(row, lane + 3u * TEAM);
    let total = team_sum((dot(a.p, a.g) + dot(b.p, b.g)) + (dot(c.p, c.g) + dot(d.p, d.g)), local, lane);
    write(row, lane, a, total, present);
    write(row, lane + TEAM, b, total, present);
    write(row, lane + 2u * TEAM, c, total, present);
    write(row, lane + 3u * TEAM, d, total, present);
    if (present && lane == 0u && row % params.sequence == 0u) {
        let matrix = row / params.sequence;
        let value_scale = value_scales[params.value_scales_offset + matrix];
        result_scales[matrix] = params.multiple * value_scale * upstream_scales[matrix];
    }
}

// Behind the row's end all is 0.
fn quad_at(row: u32, quad: u32) -> Quad {
    let quads = params.sequence / 4u;
    let place = row * quads + min(quad, quads - 1u);
    let p = unpacked(probabilities[place]);
    let g = select(vec4<f32>(), gradient[place], unpacked(dropped[place]) != vec4<f32>());
    return Quad(select(vec4<f32>(), p, quad < quads), g);
}

fn unpacked(words: vec2<u32>) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y));
}

fn write(row: u32, quad: u32, value: Quad, total: f32, present: bool) {
    let quads = params.sequence / 4u;
    if (present && quad < quads) {
        result[row * quads + quad] = halves(params.slope * value.p * (value.g - vec4<f32>(total)));
    }
}
