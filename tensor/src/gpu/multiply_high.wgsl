
// High half of the 64-bit product, from 16-bit pieces.
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
