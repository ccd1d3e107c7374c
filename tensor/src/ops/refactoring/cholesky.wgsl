// Gram = L·Lᵀ for both matrices of a pair, in place, columns `first..last` in this dispatch, one workgroup a pair.
// Gram matrices may be singular: a pivot below the tolerance is rounding, and its column becomes zero.

override WORKGROUP: u32;

@group(0) @binding(0) var<storage, read> table: array<u32>;
@group(0) @binding(1) var<storage, read_write> left: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read_write> right: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read_write> values: array<f32>;

// Pivots below this share of the largest diagonal element: 10⁻⁶ of a factor's norm.
const PIVOT_FLOOR: f32 = 1e-12;

fn load(which: u32, at: u32) -> vec2<f32> {
    if (which == 0u) {
        return left[at];
    }
    return right[at];
}

fn store(which: u32, at: u32, value: vec2<f32>) {
    if (which == 0u) {
        left[at] = value;
    } else {
        right[at] = value;
    }
}

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
    if (params.first == 0u && local < 2u) {
        var largest = 0.0;
        var trace = 0.0;
        for (var i = 0u; i < n; i += 1u) {
            let diagonal = load(local, work + i * n + i).x;
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
        column(local, n, work, row, k);
        storageBarrier();
        workgroupBarrier();
        let below = n - k - 1u;
        for (var index = local; index < 2u * below * below; index += WORKGROUP) {
            let which = index / (below * below);
            let i = k + 1u + index % below;
            let j = k + 1u + (index / below) % below;
            if (i >= j) {
                let change = multiply(load(which, work + k * n + i), load(which, work + k * n + j));
                let at = work + j * n + i;
                store(which, at, add(load(which, at), -change));
            }
        }
        storageBarrier();
        workgroupBarrier();
    }
}

// Column k of both factors. Its pivots are read by all before anyone writes.
fn column(local: u32, n: u32, work: u32, row: u32, k: u32) {
    let which = local & 1u;
    let pivot = load(which, work + k * n + k);
    let root = square_root(pivot);
    var inverse = vec2<f32>();
    if (pivot.x > values[row + 2u + which]) {
        inverse = reciprocal(root);
    }
    storageBarrier();
    workgroupBarrier();
    for (var i = local / 2u; i < n; i += WORKGROUP / 2u) {
        let at = work + k * n + i;
        var value = vec2<f32>();
        if (i >= k) {
            value = multiply(load(which, at), inverse);
        }
        store(which, at, value);
    }
}
