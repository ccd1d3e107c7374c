// out[i] = f(x[offset + i]) over contiguous elements; four elements an invocation, a workgroup's width apart.
// Neighbouring invocations touch neighbouring words, and all four reads are under way before the first write, so that
// memory bandwidth is the only cost.

struct Params {
    count: u32,
    offset: u32,
    scale: f32,
    shift: f32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
var<immediate> params: Params;

// Which function; see `Unary` in mod.rs. Known when the pipeline is built, so one branch remains.
override OPERATION: u32;

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let first = linear_id(local, group, groups, 1024u);
    let a = value(first);
    let b = value(first + 256u);
    let c = value(first + 512u);
    let d = value(first + 768u);
    store(first, a);
    store(first + 256u, b);
    store(first + 512u, c);
    store(first + 768u, d);
}

// Beyond the end the last element is computed again, and not written.
fn value(i: u32) -> f32 {
    return apply(x[params.offset + min(i, params.count - 1u)]);
}

fn store(i: u32, value: f32) {
    if (i < params.count) {
        out[i] = value;
    }
}

fn apply(x: f32) -> f32 {
    switch OPERATION {
        case 0u: { return -x; }
        case 1u: { return abs(x); }
        case 2u: { return x * x; }
        case 3u: { return sqrt(x); }
        case 4u: { return inverseSqrt(x); }
        case 5u: { return 1.0 / x; }
        case 6u: { return exp(x); }
        case 7u: { return log(x); }
        case 8u: { return sin(x); }
        case 9u: { return cos(x); }
        case 10u: { return stable_tanh(x); }
        case 11u: { return sigmoid(x); }
        case 12u: { return x * sigmoid(x); }
        case 13u: { return 0.5 * x * (1.0 + erf(x * 0.70710678)); }
        // Some drivers make a maximum of a plain selection, which loses a NaN.
        case 14u: { return select(max(x, 0.0), x, is_nan(x)); }
        default: { return params.scale * x + params.shift; }
    }
}
