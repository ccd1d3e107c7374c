// The values that Jacobi's rotations leave, sorted, and the row that each came from; one workgroup a matrix.
// EIGEN: the diagonal of w, smallest first. Otherwise the lengths of w's rows, largest first. Equal values keep the
// order of their rows. Sorts the bits as integers, so that NaN, too, has a place.

struct Params {
    batch: u32,
    size: u32,
}

alias Sum = f32;

@group(0) @binding(0) var<storage, read> w: array<f32>;
@group(0) @binding(1) var<storage, read> units: array<f32>;
@group(0) @binding(2) var<storage, read_write> values: array<f32>;
@group(0) @binding(3) var<storage, read_write> order: array<u32>;
var<immediate> params: Params;

override EIGEN: bool;

var<workgroup> found: array<f32, 256>;
var<workgroup> keys: array<u32, 256>;

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
    let n = params.size;
    let lane = local & (LANES - 1u);
    for (var first = 0u; first < n; first += WORKGROUP / LANES) {
        let i = first + local / LANES;
        let row = (matrix * n + i) * n;
        var squares = 0.0;
        if (i < n && !EIGEN) {
            for (var j = lane; j < n; j += LANES) {
                squares += w[row + j] * w[row + j];
            }
        }
        squares = group_sum(local, squares);
        if (i < n && lane == 0u) {
            found[i] = sqrt(squares);
            if (EIGEN) {
                found[i] = w[row + i];
            }
            let bits = bitcast<u32>(found[i]);
            let ascending = select(bits | 0x80000000u, ~bits, (bits & 0x80000000u) != 0u);
            keys[i] = select(~ascending, ascending, EIGEN);
        }
    }
    workgroupBarrier();
    for (var i = local; i < n; i += WORKGROUP) {
        var place = 0u;
        for (var j = 0u; j < n; j += 1u) {
            if (keys[j] < keys[i] || (keys[j] == keys[i] && j < i)) {
                place += 1u;
            }
        }
        order[matrix * n + place] = i;
        values[matrix * n + place] = found[i] * units[matrix];
    }
}
