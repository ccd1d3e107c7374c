// For each row of x, 1 or −1, such that the row times it has its largest magnitude (the first of equals) positive.
// A group of LANES invocations has a row.

struct Params {
    rows: u32,
    length: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> signs: array<f32>;
var<immediate> params: Params;

const LANES: u32 = 32u;

var<workgroup> best: array<f32, 256>;
var<workgroup> best_at: array<u32, 256>;

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let row = (group.y * groups.x + group.x) * (256u / LANES) + local / LANES;
    let lane = local & (LANES - 1u);
    best[local] = 0.0;
    best_at[local] = lane;
    if (row < params.rows) {
        for (var i = lane; i < params.length; i += LANES) {
            let value = x[row * params.length + i];
            if (abs(value) > abs(best[local])) {
                best[local] = value;
                best_at[local] = i;
            }
        }
    }
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if (lane < half) {
            let mine = abs(best[local]);
            let other = abs(best[local + half]);
            if (other > mine || (other == mine && best_at[local + half] < best_at[local])) {
                best[local] = best[local + half];
                best_at[local] = best_at[local + half];
            }
        }
        workgroupBarrier();
    }
    if (lane == 0u && row < params.rows) {
        signs[row] = select(1.0, -1.0, best[local] < 0.0);
    }
}
