// Philox4x32-10, the same function as `philox.rs`; included by the kernels that need random words. `multiply_high` is appended
// to them as the device computes it.

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
