// The order in which Jacobi's methods visit pairs, and when they stop; put before `svd.wgsl` and `eigen.wgsl`,
// which say what WORKGROUP is.
//
// A sweep visits every pair of 0..size once, in rounds of disjoint pairs, as in a round-robin tournament: of an even
// number of players one keeps its place and the others move round a circle. An odd size gets one more player, which
// is no row; its partner rests.

struct Params {
    batch: u32,
    size: u32,
    // size rounded up to even
    players: u32,
    first_round: u32,
    last_round: u32,
}

// Two words a matrix: converged, and whether the last sweep still turned something.
@group(0) @binding(0) var<storage, read_write> states: array<u32>;
var<immediate> params: Params;

var<workgroup> finished: u32;
var<workgroup> turned: atomic<u32>;

// Pair `index` of a round, smaller number first.
fn pair_of(round: u32, index: u32) -> vec2<u32> {
    let circle = params.players - 1u;
    let one = (round + index) % circle;
    var other = (round + circle - index) % circle;
    if (index == 0u) {
        other = circle;
    }
    return vec2<u32>(min(one, other), max(one, other));
}

// Opens a dispatch: true when the matrix has converged, that is, after a sweep without a noteworthy rotation.
fn is_finished(local: u32, matrix: u32) -> bool {
    if (local == 0u) {
        var converged = states[2u * matrix];
        if (params.first_round == 0u) {
            if (states[2u * matrix + 1u] == 0u) {
                converged = 1u;
                states[2u * matrix] = 1u;
            }
            states[2u * matrix + 1u] = 0u;
        }
        finished = converged;
        atomicStore(&turned, 0u);
    }
    return workgroupUniformLoad(&finished) == 1u;
}

// Closes a dispatch.
fn note_rotations(local: u32, matrix: u32) {
    workgroupBarrier();
    if (local == 0u && atomicLoad(&turned) == 1u) {
        states[2u * matrix + 1u] = 1u;
    }
}

// Jacobi's rotation that makes [[alpha, gamma], [gamma, beta]] diagonal, the smaller of the two angles: sine, tangent
// of the half angle, tangent. Used as p − s·(q + τ·p) and q + s·(p − τ·q), whose rounding errors shrink with the angle.
fn rotation(alpha: f32, beta: f32, gamma: f32) -> vec3<f32> {
    let cotangent = (beta - alpha) / (2.0 * gamma);
    // Beyond 1e6 the root is the cotangent itself, whose square may overflow.
    let square = min(cotangent * cotangent, 1e12);
    let magnitude = 1.0 / (abs(cotangent) + max(abs(cotangent), sqrt(1.0 + square)));
    let tangent = select(magnitude, -magnitude, cotangent < 0.0);
    let cosine = 1.0 / sqrt(1.0 + tangent * tangent);
    let sine = tangent * cosine;
    return vec3<f32>(sine, sine / (1.0 + cosine), tangent);
}
