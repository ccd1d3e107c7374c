// S̃⁻¹ and S̃ from the frames, in the factors' own scale; one invocation an element of both. The identity where S̃ is
// not defined, which is counted.

override FLOOR: f32;

@group(0) @binding(0) var<storage, read> table: array<u32>;
@group(0) @binding(1) var<storage, read> frames: array<f32>;
@group(0) @binding(2) var<storage, read> values: array<f32>;
@group(0) @binding(3) var<storage, read> info: array<u32>;
@group(0) @binding(4) var<storage, read_write> matrices: array<f32>;
@group(0) @binding(5) var<storage, read_write> undefined: array<u32>;

// Base-2 logarithm of the largest entry that counts as usable, 1e30.
const LARGEST: f32 = 99.6;

// Whether a matrix n·largest²·2^shift stays in range; false for NaN and infinity.
fn fits(n: u32, largest: u32, shift: f32) -> bool {
    return largest < 0x7f800000u && log2(f32(n)) + 2.0 * log2(max(bitcast<f32>(largest), 1e-30)) + shift < LARGEST;
}

fn is_defined(pair: u32, n: u32, a_exponent: i32, b_exponent: i32) -> bool {
    // Zero factors have exponent −127, those that are not finite 128.
    if (min(a_exponent, b_exponent) < -126 || max(a_exponent, b_exponent) > 127) {
        return false;
    }
    let row = of_pair(pair, VALUES) + n;
    // A product this small beside its factors is their rounding.
    if (!(values[row] > 0.1 * FLOOR * sqrt(values[row + 1u]) * sqrt(values[row + 2u]))) {
        return false;
    }
    let shift = f32(a_exponent - b_exponent);
    return fits(n, info[pair * INFO + 2u], shift) && fits(n, info[pair * INFO + 3u], -shift);
}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let pair = id.y;
    let n = of_pair(pair, RANK);
    if (id.x >= n * n) {
        return;
    }
    let i = id.x / n;
    let j = id.x % n;
    let start = 2u * of_pair(pair, WORK);
    let a_exponent = i32(info[pair * INFO]) - 1000;
    let b_exponent = i32(info[pair * INFO + 1u]) - 1000;
    var inverse = select(0.0, 1.0, i == j);
    var metric = inverse;
    if (is_defined(pair, n, a_exponent, b_exponent)) {
        inverse = 0.0;
        metric = 0.0;
        for (var c = 0u; c < n; c += 1u) {
            inverse += frames[start + c * n + i] * frames[start + c * n + j];
            metric += frames[start + n * n + c * n + i] * frames[start + n * n + c * n + j];
        }
        // In two halves: 2^shift alone may leave the range.
        let shift = a_exponent - b_exponent;
        let half = shift / 2;
        inverse = inverse * power_of_two(half) * power_of_two(shift - half);
        metric = metric * power_of_two(-half) * power_of_two(half - shift);
    } else if (id.x == 0u) {
        undefined[pair] += 1u;
    }
    matrices[start + id.x] = inverse;
    matrices[start + n * n + id.x] = metric;
}
