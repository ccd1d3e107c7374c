// Reductions over a whole workgroup; put after `reduce.wgsl`, whose rules hold here too.

// The sum over the workgroup, for all invocations.
fn workgroup_sum(local: u32, value: Sum) -> Sum {
    partial[local] = value;
    workgroupBarrier();
    for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
        if (local < half) {
            partial[local] += partial[local + half];
        }
        workgroupBarrier();
    }
    let sum = partial[0];
    workgroupBarrier();
    return sum;
}

// The largest value of the workgroup, for all invocations.
fn workgroup_max(local: u32, value: Sum) -> Sum {
    partial[local] = value;
    workgroupBarrier();
    for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
        if (local < half) {
            partial[local] = max(partial[local], partial[local + half]);
        }
        workgroupBarrier();
    }
    let largest = partial[0];
    workgroupBarrier();
    return largest;
}

// The bits of the power of two at or below a positive number; 1 for 0 and subnormal numbers, and never so large that
// its reciprocal would be subnormal. Scaling by it is exact.
fn power_of_two_bits(value: f32) -> u32 {
    let exponent = bitcast<u32>(value) & 0x7f800000u;
    return select(min(exponent, 0x7e800000u), 0x3f800000u, exponent == 0u);
}

fn reciprocal_of_power_of_two(bits: u32) -> f32 {
    return bitcast<f32>(0x7f000000u - bits);
}
