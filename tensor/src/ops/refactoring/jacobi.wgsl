// One-sided Jacobi on the columns of M (matrix 0): rotates pairs of columns until all are orthogonal, which leaves U·Σ;
// the same rotations of the columns of L_B (matrix 1) leave L_B·V. Rounds `first..last` of a sweep in this dispatch,
// `sweeps` times over, until a sweep has turned nothing worth another. One workgroup a pair of factors, a group of LANES
// invocations a pair of columns; a sweep is a round-robin tournament. Columns are always turned in double.

override WORKGROUP: u32;
override LANES: u32;

@group(0) @binding(0) var<storage, read> table: array<u32>;
@group(0) @binding(3) var<storage, read_write> values: array<f32>;

// Of two columns p and q: their squared lengths and their product in f32, and once more in double the difference q² − p²
// of the squares and the product.
struct Products {
    rough: vec3<f32>,
    exact: vec4<f32>,
}

var<workgroup> rough_sums: array<vec3<f32>, WORKGROUP>;
var<workgroup> exact_sums: array<vec4<f32>, WORKGROUP>;
var<workgroup> turned: atomic<u32>;
var<workgroup> unfinished: u32;

// While cosines above this are found, products are sums in f32: off by some 10⁻⁷, which the next sweep makes good.
const ROUGH: f32 = 1e-3;
// After a sweep without cosines above this, another one would find them at the square of it: angles are exact to f32.
const NOTEWORTHY: f32 = 1e-7;
// Cosines below these are left alone, by f32 products and by double ones.
const ROUGHLY_NEGLIGIBLE: f32 = 3e-7;
const NEGLIGIBLE: f32 = 1e-12;
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
    take_matrices(local, n, work);
    // A part of a sweep cannot tell how far the whole is.
    var exact = params.sweeps == 1u;
    for (var sweep = 0u; sweep < params.sweeps; sweep += 1u) {
        if (local == 0u) {
            atomicStore(&turned, 0u);
        }
        workgroupBarrier();
        for (var round = params.first; round < min(params.last, players - 1u); round += 1u) {
            for (var first = 0u; first < players / 2u; first += WORKGROUP / LANES) {
                turn(local, n, pair_of(players, round, first + local / LANES), exact);
                meet();
            }
        }
        if (local == 0u) {
            unfinished = atomicLoad(&turned);
        }
        if (workgroupUniformLoad(&unfinished) == 0u) {
            if (exact) {
                break;
            }
            exact = true;
        }
    }
    note_lengths(local, n, of_pair(pair, VALUES));
    give_matrices_back(local, n, work);
}

// Pair `index` of a round, smaller number first; a player beyond n is no column, its partner rests. So do pairs beyond
// the last.
fn pair_of(players: u32, round: u32, index: u32) -> vec2<u32> {
    let circle = players - 1u;
    if (index >= players / 2u) {
        return vec2<u32>(players);
    }
    // Around the circle, of which no number here is past the second turn.
    var one = round + index;
    one -= select(0u, circle, one >= circle);
    var other = round + circle - index;
    other -= select(0u, circle, other >= circle);
    if (index == 0u) {
        other = circle;
    }
    return vec2<u32>(min(one, other), max(one, other));
}

fn turn(local: u32, n: u32, columns: vec2<u32>, exact: bool) {
    let lane = local % LANES;
    let exists = columns.y < n;
    let p = columns.x * n;
    let q = columns.y * n;
    var own = Products();
    if (exists) {
        for (var i = lane; i < n; i += LANES) {
            own = with_elements(own, element(0u, p + i), element(0u, q + i), exact);
        }
    }
    rough_sums[local] = own.rough;
    if (exact) {
        exact_sums[local] = own.exact;
    }
    workgroupBarrier();
    if (!exists) {
        return;
    }
    let found = sum_of(local - lane, exact);
    let lengths = sqrt(found.rough.x) * sqrt(found.rough.y);
    let product = abs(found.exact.z);
    let negligible = select(ROUGHLY_NEGLIGIBLE, NEGLIGIBLE, exact);
    if (min(found.rough.x, found.rough.y) <= SMALLEST || product <= negligible * lengths) {
        return;
    }
    if (lane == 0u && product > select(ROUGH, NOTEWORTHY, exact) * lengths) {
        atomicStore(&turned, 1u);
    }
    rotate(n, p, q, lane, rotation(found.exact.x, found.exact.z));
}

fn with_elements(sums: Products, x: vec2<f32>, y: vec2<f32>, exact: bool) -> Products {
    let rough = sums.rough + vec3<f32>(x.x * x.x, y.x * y.x, x.x * y.x);
    if (!exact) {
        return Products(rough, sums.exact);
    }
    return Products(rough, add_both(sums.exact, vec4<f32>(multiply(add(y, x), add(y, -x)), multiply(x, y))));
}

fn add_both(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(add(a.xy, b.xy), add(a.zw, b.zw));
}

// The sums of all lanes of a pair, the same for each of them; the second part from the first unless it is `exact`.
fn sum_of(first: u32, exact: bool) -> Products {
    var rough = rough_sums[first];
    for (var other = first + 1u; other < first + LANES; other += 1u) {
        rough += rough_sums[other];
    }
    if (!exact) {
        return Products(rough, vec4<f32>(rough.y - rough.x, 0.0, rough.z, 0.0));
    }
    var sum = exact_sums[first];
    for (var other = first + 1u; other < first + LANES; other += 1u) {
        sum = add_both(sum, exact_sums[other]);
    }
    return Products(rough, sum);
}

// Cosine and sine of the smaller angle that makes the columns orthogonal, from the difference of their squared lengths
// and their product. The angle is exact to f32, cosine² + sine² = 1 to double.
fn rotation(difference: f32, product: f32) -> vec4<f32> {
    let cotangent = difference / (2.0 * product);
    // Beyond 1e6 the root is the cotangent itself, whose square may overflow.
    let square = min(cotangent * cotangent, 1e12);
    let magnitude = 1.0 / (abs(cotangent) + max(abs(cotangent), sqrt(1.0 + square)));
    let tangent = select(magnitude, -magnitude, cotangent < 0.0);
    let square_of = add(vec2<f32>(1.0, 0.0), exact_product(tangent, tangent));
    // 1/√(1 + tangent²): a root in f32 and a step of Newton's.
    let root = inverseSqrt(square_of.x);
    let missing = add(vec2<f32>(1.0, 0.0), -multiply(exact_product(root, root), square_of));
    let cosine = fast_sum(root, 0.5 * root * missing.x);
    return vec4<f32>(cosine, multiply(cosine, vec2<f32>(tangent, 0.0)));
}

fn rotate(n: u32, p: u32, q: u32, lane: u32, turn: vec4<f32>) {
    for (var i = lane; i < n; i += LANES) {
        for (var which = 0u; which < 2u; which += 1u) {
            let x = element(which, p + i);
            let y = element(which, q + i);
            set_element(which, p + i, sum_of_products(turn.xy, x, -turn.zw, y));
            set_element(which, q + i, sum_of_products(turn.zw, x, turn.xy, y));
        }
    }
}

// The lengths of the columns, Σ, and after them the largest.
fn note_lengths(local: u32, n: u32, row: u32) {
    for (var c = local; c < n; c += WORKGROUP) {
        var square = 0.0;
        for (var i = 0u; i < n; i += 1u) {
            let x = element(0u, c * n + i).x;
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
