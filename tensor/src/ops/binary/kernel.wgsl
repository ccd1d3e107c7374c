// out[i] = f(a[…], b[…]) with broadcasting; four elements of the result an invocation, a workgroup's width apart, all
// read before the first is written.
// DENSE: both operands are contiguous in the result's order. Otherwise positions come from extents and strides of
// axes that the host merged as far as they go.

struct Params {
    count: u32,
    rank: u32,
    a_offset: u32,
    b_offset: u32,
    extents: array<u32, 6>,
    a_strides: array<u32, 6>,
    b_strides: array<u32, 6>,
}

@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
var<immediate> params: Params;

// Which function; see `Binary` in mod.rs.
override OPERATION: u32;
override DENSE: bool;

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let first = linear_id(local, group, groups, 1024u);
    let p = value(first);
    let q = value(first + 256u);
    let r = value(first + 512u);
    let s = value(first + 768u);
    store(first, p);
    store(first + 256u, q);
    store(first + 512u, r);
    store(first + 768u, s);
}

fn store(i: u32, value: f32) {
    if (i < params.count) {
        out[i] = value;
    }
}

// Beyond the end the last element is computed again, and not written.
fn value(position: u32) -> f32 {
    let i = min(position, params.count - 1u);
    var a_index = params.a_offset;
    var b_index = params.b_offset;
    if (DENSE) {
        a_index += i;
        b_index += i;
    } else {
        var rest = i;
        for (var axis = params.rank; axis > 0u; axis -= 1u) {
            let extent = params.extents[axis - 1u];
            let here = rest % extent;
            rest /= extent;
            a_index += here * params.a_strides[axis - 1u];
            b_index += here * params.b_strides[axis - 1u];
        }
    }
    return apply(a[a_index], b[b_index]);
}

fn apply(a: f32, b: f32) -> f32 {
    switch OPERATION {
        case 0u: { return a + b; }
        case 1u: { return a - b; }
        case 2u: { return a * b; }
        case 3u: { return a / b; }
        case 4u: { return select(b, a, a > b || is_nan(a)); }
        case 5u: { return select(b, a, a < b || is_nan(a)); }
        case 6u: { return select(0.0, 1.0, a < b); }
        case 7u: { return select(0.0, 1.0, a == b); }
        case 8u: {
            let s = sigmoid(a);
            return b * (s * (1.0 + a * (1.0 - s)));
        }
        case 9u: {
            let cumulative = 0.5 * (1.0 + erf(a * 0.70710678));
            return b * (cumulative + a * (0.3989423 * exp(-0.5 * a * a)));
        }
        case 10u: { return b * (1.0 - a * a); }
        case 11u: { return b * a * (1.0 - a); }
        default: { return a * sigmoid(a) * b; }
    }
}
