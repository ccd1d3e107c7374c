// One-sided Jacobi (Hestenes) on the rows of w, one workgroup a matrix, rounds `first_round..last_round` of a sweep in
// this dispatch: rotates pairs of rows until all are orthogonal. The same rotations of the rows of `rotations` add up
// to X with Xᵀ·w₀ = w, hence w₀ = X·Σ·Yᵀ where Σ are the lengths of w's rows and Yᵀ the rows at length 1.
// A group of LANES invocations has a pair.

alias Sum = vec3<f32>;

@group(0) @binding(1) var<storage, read_write> w: array<f32>;
@group(0) @binding(2) var<storage, read_write> rotations: array<f32>;

// Cosines of rows below this need no further sweep: another one would turn by less, and converges quadratically.
const NOTEWORTHY: f32 = 1e-6;
// Cosines below this are left alone.
const NEGLIGIBLE: f32 = 1e-9;
// Squared lengths below this, beside entries of up to 2, are those of zero.
const SMALLEST: f32 = 1e-30;

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
    if (is_finished(local, matrix)) {
        return;
    }
    for (var round = params.first_round; round < params.last_round; round += 1u) {
        for (var first = 0u; first < params.players / 2u; first += WORKGROUP / LANES) {
            turn(local, matrix, round, first + local / LANES);
        }
        storageBarrier();
        workgroupBarrier();
    }
    note_rotations(local, matrix);
}

fn turn(local: u32, matrix: u32, round: u32, index: u32) {
    let n = params.size;
    let lane = local & (LANES - 1u);
    let pair = pair_of(round, index);
    let exists = index < params.players / 2u && pair.y < n;
    let p = (matrix * n + pair.x) * n;
    let q = (matrix * n + pair.y) * n;
    var products = vec3<f32>();
    if (exists) {
        for (var i = lane; i < n; i += LANES) {
            let x = w[p + i];
            let y = w[q + i];
            products += vec3<f32>(x * x, y * y, x * y);
        }
    }
    products = group_sum(local, products);
    let lengths = sqrt(products.x) * sqrt(products.y);
    let large_enough = products.x > SMALLEST && products.y > SMALLEST;
    if (!exists || !large_enough || abs(products.z) <= NEGLIGIBLE * lengths) {
        return;
    }
    if (lane == 0u && abs(products.z) > NOTEWORTHY * lengths) {
        atomicStore(&turned, 1u);
    }
    let turn = rotation(products.x, products.y, products.z);
    for (var i = lane; i < n; i += LANES) {
        let x = w[p + i];
        let y = w[q + i];
        w[p + i] = x - turn.x * (y + turn.y * x);
        w[q + i] = y + turn.x * (x - turn.y * y);
    }
    for (var i = lane; i < n; i += LANES) {
        let x = rotations[p + i];
        let y = rotations[q + i];
        rotations[p + i] = x - turn.x * (y + turn.y * x);
        rotations[q + i] = y + turn.x * (x - turn.y * y);
    }
}
