var<workgroup> sums: array<f32, 256>;
var<workgroup> largest_of: array<MAXIMA, 256>;

// The sum over a row's team.
fn team_sum(value: f32, local: u32, lane: u32) -> f32 {
    sums[local] = value;
    workgroupBarrier();
    for (var width = TEAM; width > 1u; width = max(width / 4u, 1u)) {
        let step = max(width / 4u, 1u);
        if (lane < step) {
            var total = sums[local];
            for (var other = lane + step; other < width; other += step) {
                total += sums[local + other - lane];
            }
            sums[local] = total;
        }
        workgroupBarrier();
    }
    return sums[local - lane];
}

// The maximum over a row's team.
fn team_max(value: MAXIMA, local: u32, lane: u32) -> MAXIMA {
    largest_of[local] = value;
    workgroupBarrier();
    for (var width = TEAM; width > 1u; width = max(width / 4u, 1u)) {
        let step = max(width / 4u, 1u);
        if (lane < step) {
            var largest = largest_of[local];
            for (var other = lane + step; other < width; other += step) {
                largest = max(largest, largest_of[local + other - lane]);
            }
            largest_of[local] = largest;
        }
        workgroupBarrier();
    }
    return largest_of[local - lane];
}

// Bits of the largest |x|: magnitudes are in the order of their bits, NaN the largest.
fn magnitude(value: vec4<f32>) -> u32 {
    let bits = bitcast<vec4<u32>>(value) & vec4<u32>(0x7fffffffu);
    return max(max(bits.x, bits.y), max(bits.z, bits.w));
}

fn exponent_of(magnitude: u32) -> i32 {
    return clamp(i32(magnitude >> 23u) - 127, params.lowest, params.highest);
}

fn unpacked(words: vec2<u32>) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y));
}

