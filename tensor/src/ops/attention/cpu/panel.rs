//! Inner products of eight rows with sixteen columns, held in registers: the two shapes of matrix product that
//! attention is made of. The rows of the block are separate variables: as one array indexed in a loop the compiler
//! leaves them in memory, at a twentieth of the speed.

use crate::cpu::math::fused;

/// Columns of a block: queries of a panel, or elements of a head.
pub(super) const LANES: usize = 16;

/// Rows of a block.
pub(super) const ROWS: usize = 8;

/// One block of results.
pub(super) type Block = [[f32; LANES]; ROWS];

#[inline(always)]
fn add(row: &mut [f32; LANES], factor: f32, b: &[f32; LANES]) {
    for (out, b) in row.iter_mut().zip(b) {
        *out = fused(factor, *b, *out);
    }
}

/// Adds `Σ_k a[i·stride + k] · b[k·b_stride + column + j]` to `block[i][j]`, for k below `depth`: rows of `a` are
/// contiguous in k.
// Not inlined: next to other code the compiler mixes the rows up with shuffles.
#[inline(never)]
pub(super) fn multiply_rows(
    block: &mut Block,
    (a, stride): (&[f32], usize),
    depth: usize,
    (b, b_stride, column): (&[f32], usize, usize),
) {
    let [mut c0, mut c1, mut c2, mut c3, mut c4, mut c5, mut c6, mut c7] = *block;
    let [r0, r1, r2, r3, r4, r5, r6, r7]: [&[f32]; ROWS] = std::array::from_fn(|i| &a[i * stride..][..depth]);
    let mut rows = b.chunks_exact(b_stride);
    for k in 0..depth {
        let Some(b) = rows.next() else { break };
        // Proof: the slice taken has LANES elements.
        let b: &[f32; LANES] = b[column..][..LANES].try_into().expect("sixteen elements");
        add(&mut c0, r0[k], b);
        add(&mut c1, r1[k], b);
        add(&mut c2, r2[k], b);
        add(&mut c3, r3[k], b);
        add(&mut c4, r4[k], b);
        add(&mut c5, r5[k], b);
        add(&mut c6, r6[k], b);
        add(&mut c7, r7[k], b);
    }
    *block = [c0, c1, c2, c3, c4, c5, c6, c7];
}

/// Adds `Σ_k a[k·stride + column + i] · b[k][j]` to `block[i][j]`, for k over `b`: columns of `a` are contiguous in i.
#[inline(never)]
pub(super) fn multiply_columns(block: &mut Block, a: &[f32], stride: usize, column: usize, b: &[[f32; LANES]]) {
    let [mut c0, mut c1, mut c2, mut c3, mut c4, mut c5, mut c6, mut c7] = *block;
    for (a, b) in a.chunks_exact(stride).zip(b) {
        // Proof: the slice taken has ROWS elements.
        let a: &[f32; ROWS] = a[column..][..ROWS].try_into().expect("eight elements");
        add(&mut c0, a[0], b);
        add(&mut c1, a[1], b);
        add(&mut c2, a[2], b);
        add(&mut c3, a[3], b);
        add(&mut c4, a[4], b);
        add(&mut c5, a[5], b);
        add(&mut c6, a[6], b);
        add(&mut c7, a[7], b);
    }
    *block = [c0, c1, c2, c3, c4, c5, c6, c7];
}

/// The blocks of a matrix whose number of rows is a multiple of [`ROWS`].
pub(super) fn blocks(rows: &mut [[f32; LANES]]) -> impl Iterator<Item = &mut Block> {
    // Proof: every chunk has ROWS rows.
    rows.chunks_exact_mut(ROWS).map(|block| block.try_into().expect("a block of rows"))
}
