// Householder reflections that turn a matrix into R, one workgroup a matrix, columns `first..last` in this dispatch.
// The matrix is stored by columns, each contiguous: w[column][row]. Column k is replaced by R's entries above and on
// the diagonal and, below, by the vector v of H = I − τ·v·vᵀ, whose first entry is 1.
//
// Householder and not Gram–Schmidt: the reflections are orthogonal to rounding whatever the matrix, so Q is, too, for
// dependent and for zero columns. Each column is scaled by a power of two, so that no square under- or overflows.
// Groups of LANES invocations share a column, so that neighbours touch neighbouring words.

struct Params {
    batch: u32,
    rows: u32,
    columns: u32,
    first: u32,
    last: u32,
}

alias Sum = f32;

@group(0) @binding(0) var<storage, read_write> w: array<f32>;
@group(0) @binding(1) var<storage, read_write> tau: array<f32>;
var<immediate> params: Params;

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
    let start = matrix * params.columns * params.rows;
    for (var k = params.first; k < params.last; k += 1u) {
        let v = start + k * params.rows;
        let factor = reflect(local, v, k);
        if (local == 0u) {
            tau[matrix * min(params.rows, params.columns) + k] = factor;
        }
        storageBarrier();
        workgroupBarrier();
        for (var column = k + 1u; column < params.columns; column += WORKGROUP / LANES) {
            let j = column + local / LANES;
            let x = start + j * params.rows;
            var dot = 0.0;
            if (j < params.columns) {
                if (lane == 0u) {
                    dot = w[x + k];
                }
                for (var i = k + 1u + lane; i < params.rows; i += LANES) {
                    dot += w[v + i] * w[x + i];
                }
            }
            dot = factor * group_sum(local, dot);
            if (j < params.columns) {
                if (lane == 0u) {
                    w[x + k] -= dot;
                }
                for (var i = k + 1u + lane; i < params.rows; i += LANES) {
                    w[x + i] -= dot * w[v + i];
                }
            }
        }
        storageBarrier();
        workgroupBarrier();
    }
}

// Makes the reflection of the column at `x` from row k on; returns τ, which is 0 where there is nothing to reflect.
fn reflect(local: u32, x: u32, k: u32) -> f32 {
    var largest = 0.0;
    for (var i = k + local; i < params.rows; i += WORKGROUP) {
        largest = max(largest, abs(w[x + i]));
    }
    let bits = power_of_two_bits(workgroup_max(local, largest));
    let scale = reciprocal_of_power_of_two(bits);
    let head = w[x + k] * scale;
    var squares = 0.0;
    for (var i = k + 1u + local; i < params.rows; i += WORKGROUP) {
        let scaled = w[x + i] * scale;
        squares += scaled * scaled;
    }
    squares = workgroup_sum(local, squares);
    if (squares == 0.0) {
        // What is left below may be too small to square; beside the head it is nothing.
        for (var i = k + 1u + local; i < params.rows; i += WORKGROUP) {
            w[x + i] = 0.0;
        }
        return 0.0;
    }
    let norm = sqrt(head * head + squares);
    let diagonal = select(-norm, norm, head < 0.0);
    let pivot = head - diagonal;
    for (var i = k + 1u + local; i < params.rows; i += WORKGROUP) {
        w[x + i] = w[x + i] * scale / pivot;
    }
    if (local == 0u) {
        w[x + k] = diagonal * bitcast<f32>(bits);
    }
    return (diagonal - head) / diagonal;
}
