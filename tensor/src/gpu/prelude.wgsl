// Functions that every kernel may call. Appended to each kernel's source.

// Position of an invocation in a grid made by `linear_grid`, which folds long rows of workgroups into y.
fn linear_id(local: u32, group: vec3<u32>, groups: vec3<u32>, workgroup_size: u32) -> u32 {
    return (group.y * groups.x + group.x) * workgroup_size + local;
}

// The low and high halves of a word as bf16 numbers.
fn unpack_bf16(word: u32) -> vec2<f32> {
    return vec2<f32>(bitcast<f32>(word << 16u), bitcast<f32>(word & 0xffff0000u));
}

// Rounds to the nearest bf16, ties to even; a NaN stays a NaN.
fn bf16_bits(value: f32) -> u32 {
    let bits = bitcast<u32>(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return (bits >> 16u) | 0x40u;
    }
    return (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
}

// True for NaN; comparisons with NaN may be optimised away, bits may not.
fn is_nan(value: f32) -> bool {
    return (bitcast<u32>(value) & 0x7fffffffu) > 0x7f800000u;
}

// 1 / (1 + e^-x); e^-x may overflow to infinity, whose reciprocal is the right 0.
fn sigmoid(x: f32) -> f32 {
    return 1.0 / (1.0 + exp(-x));
}

// tanh by the same two pieces as the CPU's (`cpu/math.rs`): drivers' own tanh may overflow or lose digits near 0.
fn stable_tanh(x: f32) -> f32 {
    let a = abs(x);
    let z = x * x;
    if (a < 0.625) {
        let p = (((-5.7049887e-3 * z + 2.0639089e-2) * z - 5.373971e-2) * z + 1.3331442e-1) * z - 3.333328e-1;
        return p * z * x + x;
    }
    if (is_nan(x)) {
        return x;
    }
    return sign(x) * (1.0 - 2.0 / (exp(2.0 * min(a, 20.0)) + 1.0));
}

// erf by the same two pieces as the CPU's (`cpu/math.rs`); absolute error below 3e-7.
fn erf(x: f32) -> f32 {
    let a = abs(x);
    let z = x * x;
    if (a < 0.9) {
        var p = 1.0 / 685440.0;
        p = p * z - 1.0 / 75600.0;
        p = p * z + 1.0 / 9360.0;
        p = p * z - 1.0 / 1320.0;
        p = p * z + 1.0 / 216.0;
        p = p * z - 1.0 / 42.0;
        p = p * z + 0.1;
        p = p * z - 1.0 / 3.0;
        return 1.1283791671 * (p * z * x + x);
    }
    if (is_nan(x)) {
        return x;
    }
    if (a > 10.0) {
        return sign(x);
    }
    let t = 1.0 / (1.0 + 0.5 * a);
    var q = 0.17087277;
    q = q * t - 0.82215223;
    q = q * t + 1.4885159;
    q = q * t - 1.13520398;
    q = q * t + 0.27886807;
    q = q * t - 0.18628806;
    q = q * t + 0.09678418;
    q = q * t + 0.37409196;
    q = q * t + 1.00002368;
    return sign(x) * (1.0 - t * exp(q * t - z - 1.26551223));
}

// Rounds to the nearest f16, ties to even; beyond the range infinity, a NaN stays a NaN. In integers, since the
// rounding of pack2x16float is the driver's choice.
fn f16_bits(value: f32) -> u32 {
    let bits = bitcast<u32>(value);
    let sign = (bits >> 16u) & 0x8000u;
    let magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {
        return sign | 0x7e00u;
    }
    if (magnitude >= 0x477ff000u) {
        return sign | 0x7c00u;
    }
    if (magnitude >= 0x38800000u) {
        let rebased = magnitude - 0x38000000u;
        return sign | ((rebased + 0xfffu + ((rebased >> 13u) & 1u)) >> 13u);
    }
    // Subnormal in f16: shift the full significand to units of 2^-24.
    let exponent = magnitude >> 23u;
    if (exponent < 101u) {
        return sign;
    }
    let significand = (magnitude & 0x7fffffu) | 0x800000u;
    let shift = 126u - exponent;
    let floor = significand >> shift;
    let rest = significand & ((1u << shift) - 1u);
    let halfway = 1u << (shift - 1u);
    let up = rest > halfway || (rest == halfway && (floor & 1u) == 1u);
    return sign | (floor + select(0u, 1u, up));
}

// 2^exponent as f32, 0 below the normal range; exponent ≤ 127.
fn power_of_two(exponent: i32) -> f32 {
    if (exponent < -126) {
        return 0.0;
    }
    return bitcast<f32>(u32(exponent + 127) << 23u);
}
