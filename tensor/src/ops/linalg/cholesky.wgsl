// The lower factor L of a = L·Lᵀ in place, column by column with the update of what is right of it; one workgroup a
// matrix. Reads the lower triangle. A pivot that is not positive makes the whole matrix NaN.

struct Params {
    batch: u32,
    size: u32,
}

@group(0) @binding(0) var<storage, read_write> a: array<f32>;
var<immediate> params: Params;

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let matrix = group.y * groups.x + group.x;
    if (matrix >= params.batch) {
        return;
    }
    let n = params.size;
    let start = matrix * n * n;
    var failed = false;
    for (var k = 0u; k < n; k += 1u) {
        let pivot = a[start + k * n + k];
        failed = failed || pivot <= 0.0 || is_nan(pivot);
        let root = sqrt(max(pivot, 0.0));
        storageBarrier();
        workgroupBarrier();
        for (var i = k + local; i < n; i += 256u) {
            let x = start + i * n + k;
            a[x] = select(a[x] / root, root, i == k);
        }
        storageBarrier();
        workgroupBarrier();
        let rest = n - 1u - k;
        for (var e = local; e < rest * rest; e += 256u) {
            let i = k + 1u + e / rest;
            let j = k + 1u + e % rest;
            if (j <= i) {
                a[start + i * n + j] -= a[start + i * n + k] * a[start + j * n + k];
            }
        }
        storageBarrier();
        workgroupBarrier();
    }
    // From a variable: a constant NaN is not a valid expression.
    var nan_bits = 0x7fc00000u;
    for (var e = local; e < n * n; e += 256u) {
        if (failed) {
            a[start + e] = bitcast<f32>(nan_bits);
        } else if (e % n > e / n) {
            a[start + e] = 0.0;
        }
    }
}
