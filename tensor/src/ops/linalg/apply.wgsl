// x ← H₀·H₁·…·x, the reflections `first..last` of `factor.wgsl` in this dispatch, last one first; one workgroup a
// matrix. Both are stored by columns. TRIANGULAR: column j of x began as a multiple of unit vector j, so that
// reflection k only changes columns from k on.

struct Params {
    batch: u32,
    rows: u32,
    factor_columns: u32,
    columns: u32,
    first: u32,
    last: u32,
}

alias Sum = f32;

@group(0) @binding(0) var<storage, read> w: array<f32>;
@group(0) @binding(1) var<storage, read> tau: array<f32>;
@group(0) @binding(2) var<storage, read_write> target_columns: array<f32>;
var<immediate> params: Params;

override TRIANGULAR: bool;

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let matrix = group.y * groups.x + group.x;
    if (matrix >= params.batch) {
        return;
    }
    let lane = local & (LANES - 1u);
    for (var step = params.first; step < params.last; step += 1u) {
        let k = params.first + (params.last - 1u - step);
        let v = (matrix * params.factor_columns + k) * params.rows;
        let factor = tau[matrix * min(params.rows, params.factor_columns) + k];
        for (var column = select(0u, k, TRIANGULAR); column < params.columns; column += WORKGROUP / LANES) {
            let j = column + local / LANES;
            let x = (matrix * params.columns + j) * params.rows;
            var dot = 0.0;
            if (j < params.columns) {
                if (lane == 0u) {
                    dot = target_columns[x + k];
                }
                for (var i = k + 1u + lane; i < params.rows; i += LANES) {
                    dot += w[v + i] * target_columns[x + i];
                }
            }
            dot = factor * group_sum(local, dot);
            if (j < params.columns) {
                if (lane == 0u) {
                    target_columns[x + k] -= dot;
                }
                for (var i = k + 1u + lane; i < params.rows; i += LANES) {
                    target_columns[x + i] -= dot * w[v + i];
                }
            }
        }
        storageBarrier();
        workgroupBarrier();
    }
}
