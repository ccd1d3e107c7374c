struct Params {
    // Of the matrix.
    rows: u32,
    columns: u32,
    // The thin operand's columns, and those of them that are no padding.
    padded_rank: u32,
    rank: u32,
    // Of the powers of two.
    first_offset: u32,
    second_offset: u32,
    alpha: f32,
    accumulate: u32,
}
