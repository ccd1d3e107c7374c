// Gram = L·Lᵀ for both matrices of a pair, A's and B's, in place, columns `first..last` in this dispatch, one workgroup a pair.
// Gram matrices may be singular: a pivot below the tolerance is rounding, and its column becomes zero.

override WORKGROUP: u32;

@group(0) @binding(0) var<storage, read> table: array<u32>;
@group(0) @binding(3) var<storage, read_write> values: array<f32>;

// Pivots below this share of the largest diagonal element: 10⁻⁶ of a factor's norm.
const PIVOT_FLOOR: f32 = 1e-12;

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let pair = group.y * groups.x + group.x;
    if (pair >= params.pairs) {
        return;
    }
    let n = of_pair(pair, RANK);
    let work = of_pair(pair, WORK);
    let row = of_pair(pair, VALUES) + n + 1u;
    take_matrices(local, n, work);
    if (params.first == 0u && local < 2u) {
        var largest = 0.0;
        var trace = 0.0;
        for (var i = 0u; i < n; i += 1u) {
            let diagonal = element(local, i * n + i).x;
            largest = max(largest, diagonal);
            trace += diagonal;
        }
        values[row + local] = trace;
        values[row + 2u + local] = PIVOT_FLOOR * largest;
    }
    storageBarrier();
    workgroupBarrier();
    // Every invocation has a share of both matrices: `which` is 0 or 1.
    for (var k = params.first; k < min(params.last, n); k += 1u) {
        column(local, n, row, k);
        meet();
        let below = n - k - 1u;
        for (var index = local; index < 2u * below * below; index += WORKGROUP) {
            let which = index / (below * below);
            let i = k + 1u + index % below;
            let j = k + 1u + (index / below) % below;
            if (i >= j) {
                let change = multiply(element(which, k * n + i), element(which, k * n + j));
                set_element(which, j * n + i, add(element(which, j * n + i), -change));
            }
        }
        meet();
    }
    give_matrices_back(local, n, work);
}

// Column k of both factors. Its pivots are read by all before anyone writes.
fn column(local: u32, n: u32, row: u32, k: u32) {
    let which = local & 1u;
    let pivot = element(which, k * n + k);
    let root = square_root(pivot);
    var inverse = vec2<f32>();
    if (pivot.x > values[row + 2u + which]) {
        inverse = reciprocal(root);
    }
    meet();
    for (var i = local / 2u; i < n; i += WORKGROUP / 2u) {
        var value = vec2<f32>();
        if (i >= k) {
            value = multiply(element(which, k * n + i), inverse);
        }
        set_element(which, k * n + i, value);
    }
}
