// One-sided Jacobi on the columns of M (rows of `product`): rotates pairs of columns until all are orthogonal, which
// leaves U·Σ; the same rotations of the columns of L_B (rows of `right`) leave L_B·V. Rounds `first..last` of a sweep in
// this dispatch, `sweeps` times over, until a sweep has turned nothing worth another. One workgroup a pair of factors, a
// group of LANES invocations a pair of columns; a sweep is a round-robin tournament.

override WORKGROUP: u32;
override LANES: u32;

@group(0) @binding(0) var<storage, read> table: array<u32>;
@group(0) @binding(1) var<storage, read_write> product: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read_write> right: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read_write> values: array<f32>;

var<workgroup> squares_p: array<vec2<f32>, WORKGROUP>;
var<workgroup> squares_q: array<vec2<f32>, WORKGROUP>;
var<workgroup> products: array<vec2<f32>, WORKGROUP>;
var<workgroup> turned: atomic<u32>;
var<workgroup> unfinished: u32;

// Cosines below this are left alone.
const NEGLIGIBLE: f32 = 1e-12;
// After a sweep without cosines above this, another one would find them at the square of it: angles are exact to f32.
const NOTEWORTHY: f32 = 1e-7;
// Squared lengths below this, beside entries of around 1, are zero.
const SMALLEST: f32 = 1e-30;

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
    let players = n + (n & 1u);
    for (var sweep = 0u; sweep < params.sweeps; sweep += 1u) {
        if (local == 0u) {
            atomicStore(&turned, 0u);
        }
        workgroupBarrier();
        for (var round = params.first; round < min(params.last, players - 1u); round += 1u) {
            for (var first = 0u; first < players / 2u; first += WORKGROUP / LANES) {
                turn(local, n, work, players, round, first + local / LANES);
            }
            storageBarrier();
            workgroupBarrier();
        }
        if (local == 0u) {
            unfinished = atomicLoad(&turned);
        }
        if (workgroupUniformLoad(&unfinished) == 0u) {
            break;
        }
    }
    note_lengths(local, n, work, of_pair(pair, VALUES));
}

// Pair `index` of a round, smaller number first; a player beyond n is no column, its partner rests.
fn pair_of(players: u32, round: u32, index: u32) -> vec2<u32> {
    let circle = players - 1u;
    let one = (round + index) % circle;
    var other = (round + circle - index) % circle;
    if (index == 0u) {
        other = circle;
    }
    return vec2<u32>(min(one, other), max(one, other));
}

fn turn(local: u32, n: u32, work: u32, players: u32, round: u32, index: u32) {
    let lane = local % LANES;
    let columns = pair_of(players, round, index);
    let exists = index < players / 2u && columns.y < n;
    let p = work + columns.x * n;
    let q = work + columns.y * n;
    var pp = vec2<f32>();
    var qq = vec2<f32>();
    var pq = vec2<f32>();
    if (exists) {
        for (var i = lane; i < n; i += LANES) {
            let x = product[p + i];
            let y = product[q + i];
            pp = add(pp, multiply(x, x));
            qq = add(qq, multiply(y, y));
            pq = add(pq, multiply(x, y));
        }
    }
    squares_p[local] = pp;
    squares_q[local] = qq;
    products[local] = pq;
    workgroupBarrier();
    pp = vec2<f32>();
    qq = vec2<f32>();
    pq = vec2<f32>();
    let team = local - lane;
    for (var other = team; other < team + LANES; other += 1u) {
        pp = add(pp, squares_p[other]);
        qq = add(qq, squares_q[other]);
        pq = add(pq, products[other]);
    }
    workgroupBarrier();
    let lengths = sqrt(pp.x) * sqrt(qq.x);
    if (!exists || pp.x <= SMALLEST || qq.x <= SMALLEST || abs(pq.x) <= NEGLIGIBLE * lengths) {
        return;
    }
    if (lane == 0u && abs(pq.x) > NOTEWORTHY * lengths) {
        atomicStore(&turned, 1u);
    }
    rotate(n, p, q, lane, rotation(add(qq, -pp).x, pq.x));
}

// Cosine and sine of the smaller angle that makes the columns orthogonal, from the difference of their squared lengths
// and their product. The angle is exact to f32, cosine² + sine² = 1 to double.
fn rotation(difference: f32, product: f32) -> vec4<f32> {
    let cotangent = difference / (2.0 * product);
    // Beyond 1e6 the root is the cotangent itself, whose square may overflow.
    let square = min(cotangent * cotangent, 1e12);
    let magnitude = 1.0 / (abs(cotangent) + max(abs(cotangent), sqrt(1.0 + square)));
    let tangent = select(magnitude, -magnitude, cotangent < 0.0);
    let cosine = reciprocal(square_root(add(vec2<f32>(1.0, 0.0), exact_product(tangent, tangent))));
    return vec4<f32>(cosine, multiply(cosine, vec2<f32>(tangent, 0.0)));
}

fn rotate(n: u32, p: u32, q: u32, lane: u32, turn: vec4<f32>) {
    for (var i = lane; i < n; i += LANES) {
        let x = product[p + i];
        let y = product[q + i];
        product[p + i] = add(multiply(turn.xy, x), -multiply(turn.zw, y));
        product[q + i] = add(multiply(turn.zw, x), multiply(turn.xy, y));
        let v = right[p + i];
        let w = right[q + i];
        right[p + i] = add(multiply(turn.xy, v), -multiply(turn.zw, w));
        right[q + i] = add(multiply(turn.zw, v), multiply(turn.xy, w));
    }
}

// The lengths of the columns, Σ, and after them the largest.
fn note_lengths(local: u32, n: u32, work: u32, row: u32) {
    for (var c = local; c < n; c += WORKGROUP) {
        var square = 0.0;
        for (var i = 0u; i < n; i += 1u) {
            let x = product[work + c * n + i].x;
            square += x * x;
        }
        values[row + c] = sqrt(square);
    }
    storageBarrier();
    workgroupBarrier();
    if (local == 0u) {
        var largest = 0.0;
        for (var c = 0u; c < n; c += 1u) {
            largest = max(largest, values[row + c]);
        }
        values[row + n] = largest;
    }
}
