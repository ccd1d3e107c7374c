// What the kernels of the small matrices share: the table of pairs. Put before each of them.
// Matrices of a pair of rank n are n x n. `left` and `right` hold columns: element (i, k) of L is at k·n + i.

struct Params {
    zero: u32,
    pairs: u32,
    // Side of a tile of Gram matrices.
    tile: u32,
    // A range of columns (Cholesky) or of rounds (Jacobi).
    first: u32,
    last: u32,
    sweeps: u32,
}

// A pair's line in the table.
const LINE: u32 = 7u;
const RANK: u32 = 0u;
// Where its matrices begin in the work buffers.
const WORK: u32 = 1u;
// Where its row of `values` begins: n singular values, the largest of them, two squared norms, two tolerances.
const VALUES: u32 = 2u;
// First record and number of records, of A and of B.
const A_RECORDS: u32 = 3u;
const A_COUNT: u32 = 4u;
const B_RECORDS: u32 = 5u;
const B_COUNT: u32 = 6u;

// A pair's row of `info`: exponents of A and B plus 1000, bits of the largest magnitudes in the frames of A and B.
const INFO: u32 = 4u;

var<immediate> params: Params;

fn of_pair(pair: u32, field: u32) -> u32 {
    return table[pair * LINE + field];
}
