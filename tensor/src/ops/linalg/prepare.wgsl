// Makes a square matrix ready for Jacobi's rotations, one workgroup a matrix: w = x / unit, where unit is the power of
// two at or below the largest magnitude (so that squares neither under- nor overflow), the rotations so far = identity.
// SYMMETRIC: w = (x + xᵀ) / (2·unit).

struct Params {
    batch: u32,
    size: u32,
    offset: u32,
}

alias Sum = f32;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> w: array<f32>;
@group(0) @binding(2) var<storage, read_write> rotations: array<f32>;
@group(0) @binding(3) var<storage, read_write> units: array<f32>;
// Two words a matrix: converged, and whether the last sweep still turned something.
@group(0) @binding(4) var<storage, read_write> states: array<u32>;
var<immediate> params: Params;

override SYMMETRIC: bool;

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
    let start = matrix * n * n;
    var largest = 0.0;
    for (var e = local; e < n * n; e += WORKGROUP) {
        largest = max(largest, abs(x[params.offset + start + e]));
    }
    let bits = power_of_two_bits(workgroup_max(local, largest));
    let scale = reciprocal_of_power_of_two(bits);
    for (var e = local; e < n * n; e += WORKGROUP) {
        var value = x[params.offset + start + e] * scale;
        if (SYMMETRIC) {
            value = 0.5 * (value + x[params.offset + start + e % n * n + e / n] * scale);
        }
        w[start + e] = value;
        rotations[start + e] = select(0.0, 1.0, e % n == e / n);
    }
    if (local == 0u) {
        units[matrix] = bitcast<f32>(bits);
        states[2u * matrix] = 0u;
        states[2u * matrix + 1u] = 1u;
    }
}
