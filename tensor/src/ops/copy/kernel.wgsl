// Copies strided elements into row-major order, converting their type on the way.
// One invocation writes one 32-bit word of the result: one element, or two of a 16-bit type. 16-bit elements are read
// from the word that holds them, so no 16-bit storage feature is needed.

struct Params {
    count: u32,
    rank: u32,
    offset: u32,
    extents: array<u32, 6>,
    strides: array<u32, 6>,
}

@group(0) @binding(0) var<storage, read> source: array<u32>;
@group(0) @binding(1) var<storage, read_write> target_words: array<u32>;
var<immediate> params: Params;

// Types: 0 f32, 1 f16, 2 bf16, 3 u32, 4 i32.
override SOURCE: u32;
override TARGET: u32;

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let word = linear_id(local, group, groups, 256u);
    if (TARGET == 1u || TARGET == 2u) {
        if (word >= (params.count + 1u) / 2u) {
            return;
        }
        var bits = converted(2u * word);
        if (2u * word + 1u < params.count) {
            bits |= converted(2u * word + 1u) << 16u;
        }
        target_words[word] = bits;
    } else {
        if (word >= params.count) {
            return;
        }
        target_words[word] = converted(word);
    }
}

// Bits of element `index` of the result.
fn converted(index: u32) -> u32 {
    var rest = index;
    var position = params.offset;
    for (var axis = params.rank; axis > 0u; axis -= 1u) {
        let extent = params.extents[axis - 1u];
        position += (rest % extent) * params.strides[axis - 1u];
        rest /= extent;
    }
    if (SOURCE == 1u || SOURCE == 2u) {
        let half_bits = (source[position / 2u] >> (16u * (position & 1u))) & 0xffffu;
        if (SOURCE == TARGET) {
            return half_bits;
        }
        if (SOURCE == 2u) {
            return half_bits << 16u;
        }
        return bitcast<u32>(unpack2x16float(half_bits).x);
    }
    let bits = source[position];
    if (SOURCE == TARGET || (SOURCE >= 3u && TARGET >= 3u)) {
        return bits;
    }
    var value = bitcast<f32>(bits);
    if (SOURCE == 3u) {
        value = f32(bits);
    } else if (SOURCE == 4u) {
        value = f32(bitcast<i32>(bits));
    }
    switch TARGET {
        case 0u: { return bitcast<u32>(value); }
        case 1u: { return f16_bits(value); }
        case 2u: { return bf16_bits(value); }
        case 3u: { return to_u32(value); }
        default: { return bitcast<u32>(to_i32(value)); }
    }
}

// Conversions beyond a type's range differ between drivers, so the range is cut here.
fn to_u32(value: f32) -> u32 {
    if (is_nan(value) || value <= 0.0) {
        return 0u;
    }
    if (value >= 4294967040.0) {
        return select(4294967040u, 0xffffffffu, value > 4294967040.0);
    }
    return u32(value);
}

fn to_i32(value: f32) -> i32 {
    if (is_nan(value)) {
        return 0;
    }
    if (value >= 2147483520.0) {
        return select(2147483520, 2147483647, value > 2147483520.0);
    }
    if (value <= -2147483648.0) {
        return bitcast<i32>(0x80000000u);
    }
    return i32(value);
}
