// Computes rows and rounds each to f16 after dividing it by the power of two of its largest magnitude.

struct Params {
    rows: u32,
    columns: u32,
    // Vectors of four in a row, the last padded with zeros.
    vectors: u32,
    // Bounds of the exponents.
    lowest: i32,
    highest: i32,
    // What the kernels' own texts compute with.
    epsilon: f32,
    scale: f32,
    ignore: i32,
    // Of the inputs; of a rounded one's powers of two.
    offsets: array<u32, 3>,
}

var<immediate> params: Params;

// Invocations that share a row, or two rows of a tile: a power of two, at most as many as a workgroup has.
override TEAM: u32;

