// Philox4x32-10, the same function as `philox.rs`; included by the kernels that need random words.

// High half of the 64-bit product, from 16-bit pieces: WGSL has no wider integers.
fn multiply_high(a: u32, b: u32) -> u32 {
    let a_low = a & 0xffffu;
    let a_high = a >> 16u;
    let b_low = b & 0xffffu;
    let b_high = b >> 16u;
    let cross = a_high * b_low;
    let other_cross = a_low * b_high;
    let carry = ((a_low * b_low) >> 16u) + (cross & 0xffffu) + (other_cross & 0xffffu);
    return a_high * b_high + (cross >> 16u) + (other_cross >> 16u) + (carry >> 16u);
}

// The four words of block `block`: those of elements 4·block to 4·block + 3.
fn philox(block: u32, step: u32, stream: vec2<u32>, seed: vec2<u32>) -> vec4<u32> {
    var counter = vec4<u32>(block, step, stream);
    var key = seed;
    for (var round = 0u; round < 10u; round += 1u) {
        counter = vec4<u32>(
            multiply_high(0xcd9e8d57u, counter.z) ^ counter.y ^ key.x,
            0xcd9e8d57u * counter.z,
            multiply_high(0xd2511f53u, counter.x) ^ counter.w ^ key.y,
            0xd2511f53u * counter.x,
        );
        key += vec2<u32>(0x9e3779b9u, 0xbb67ae85u);
    }
    return counter;
}
