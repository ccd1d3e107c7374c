// Two-sided Jacobi on a symmetric matrix, one workgroup a matrix, rounds `first_round..last_round` of a sweep in this
// dispatch: w ← JᵀwJ until w is diagonal. A round's rotations are found first; then every pair of pairs is a 2×2 block
// of w that one invocation turns from both sides, with its mirror image; the rows of `rotations` turn likewise and
// become the eigenvectors.

override WORKGROUP: u32;

@group(0) @binding(1) var<storage, read_write> w: array<f32>;
@group(0) @binding(2) var<storage, read_write> rotations: array<f32>;

// Entries below this, beside a largest one of at least 1/2, need no further sweep.
const NOTEWORTHY: f32 = 1.5e-8;
// Entries below this are left alone.
const NEGLIGIBLE: f32 = 1e-30;

// Of each pair: sine, tangent of the half angle, tangent.
var<workgroup> turns: array<vec3<f32>, 128>;

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
    let n = params.size;
    let pairs = params.players / 2u;
    let start = matrix * n * n;
    for (var round = params.first_round; round < params.last_round; round += 1u) {
        for (var index = local; index < pairs; index += WORKGROUP) {
            turns[index] = find_turn(start, pair_of(round, index));
        }
        workgroupBarrier();
        for (var e = local; e < pairs * pairs; e += WORKGROUP) {
            let row = e / pairs;
            let column = e % pairs;
            if (row < column) {
                turn_block(start, pair_of(round, row), pair_of(round, column), turns[row], turns[column]);
            } else if (row == column) {
                turn_diagonal(start, pair_of(round, row), turns[row]);
            }
        }
        for (var e = local; e < pairs * n; e += WORKGROUP) {
            let pair = pair_of(round, e / n);
            if (pair.y < n) {
                let turn = turns[e / n];
                let p = start + pair.x * n + e % n;
                let q = start + pair.y * n + e % n;
                let turned_pair = turn_two(rotations[p], rotations[q], turn);
                rotations[p] = turned_pair.x;
                rotations[q] = turned_pair.y;
            }
        }
        storageBarrier();
        workgroupBarrier();
    }
    note_rotations(local, matrix);
}

fn find_turn(start: u32, pair: vec2<u32>) -> vec3<f32> {
    let n = params.size;
    if (pair.y >= n) {
        return vec3<f32>();
    }
    let gamma = w[start + pair.x * n + pair.y];
    if (abs(gamma) <= NEGLIGIBLE) {
        return vec3<f32>();
    }
    if (abs(gamma) > NOTEWORTHY) {
        atomicStore(&turned, 1u);
    }
    return rotation(w[start + pair.x * n + pair.x], w[start + pair.y * n + pair.y], gamma);
}

fn turn_two(x: f32, y: f32, turn: vec3<f32>) -> vec2<f32> {
    return vec2<f32>(x - turn.x * (y + turn.y * x), y + turn.x * (x - turn.y * y));
}

fn turn_diagonal(start: u32, pair: vec2<u32>, turn: vec3<f32>) {
    let n = params.size;
    if (pair.y >= n) {
        return;
    }
    let upper = start + pair.x * n + pair.y;
    let lower = start + pair.y * n + pair.x;
    let change = turn.z * w[upper];
    w[start + pair.x * n + pair.x] -= change;
    w[start + pair.y * n + pair.y] += change;
    w[upper] = 0.0;
    w[lower] = 0.0;
}

// The block of rows `rows` and columns `columns`, and its mirror image. A pair whose second number is no row has the
// identity as its rotation; what would be its row reads as 0 and is not written.
fn turn_block(start: u32, rows: vec2<u32>, columns: vec2<u32>, row_turn: vec3<f32>, column_turn: vec3<f32>) {
    let n = params.size;
    let both_rows = rows.y < n;
    let both_columns = columns.y < n;
    var upper = vec2<f32>(w[start + rows.x * n + columns.x], 0.0);
    var lower = vec2<f32>();
    if (both_columns) {
        upper.y = w[start + rows.x * n + columns.y];
    }
    if (both_rows) {
        lower.x = w[start + rows.y * n + columns.x];
    }
    if (both_rows && both_columns) {
        lower.y = w[start + rows.y * n + columns.y];
    }
    let left = turn_two(upper.x, lower.x, row_turn);
    let right = turn_two(upper.y, lower.y, row_turn);
    upper = turn_two(left.x, right.x, column_turn);
    lower = turn_two(left.y, right.y, column_turn);
    write_both(start, rows.x, columns.x, upper.x);
    if (both_columns) {
        write_both(start, rows.x, columns.y, upper.y);
    }
    if (both_rows) {
        write_both(start, rows.y, columns.x, lower.x);
    }
    if (both_rows && both_columns) {
        write_both(start, rows.y, columns.y, lower.y);
    }
}

fn write_both(start: u32, i: u32, j: u32, value: f32) {
    w[start + i * params.size + j] = value;
    w[start + j * params.size + i] = value;
}
