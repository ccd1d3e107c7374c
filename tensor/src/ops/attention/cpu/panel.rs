//! Inner products of eight rows with sixteen columns, held in registers: the two shapes of matrix product that
//! attention is made of. The loops have constant extents, so that the compiler keeps the block in vector registers.

use crate::cpu::math::fused;

/// Columns of a block: queries of a panel, or elements of a head.
pub(super) const LANES: usize = 16;

/// Rows of a block.
pub(super) const ROWS: usize = 8;

/// One block of results.
pub(super) type Block = [[f32; LANES]; ROWS];

/// `block[i][j] + Σ_k a[i·stride + k] · b[k][j]`, for k over `b`: rows of `a` are contiguous in k.
#[inline(always)]
pub(super) fn multiply_rows<'b>(
    mut block: Block,
    a: &[f32],
    stride: usize,
    depth: usize,
    b: impl Iterator<Item = &'b [f32; LANES]>,
) -> Block {
    let rows: [&[f32]; ROWS] = std::array::from_fn(|i| &a[i * stride..][..depth]);
    for (k, b) in b.take(depth).enumerate() {
        for (out, row) in block.iter_mut().zip(&rows) {
            let a = row[k];
            for (out, b) in out.iter_mut().zip(b) {
                *out = fused(a, *b, *out);
            }
        }
    }
    block
}

/// `block[i][j] + Σ_k a[k·stride + column + i] · b[k][j]`, for k over `b`: columns of `a` are contiguous in i.
#[inline(always)]
pub(super) fn multiply_columns(mut block: Block, a: &[f32], stride: usize, column: usize, b: &[[f32; LANES]]) -> Block {
    for (a, b) in a.chunks_exact(stride).zip(b) {
        let a = &a[column..][..ROWS];
        for (out, a) in block.iter_mut().zip(a) {
            for (out, b) in out.iter_mut().zip(b) {
                *out = fused(*a, *b, *out);
            }
        }
    }
    block
}

/// The sixteen elements from `column` on of each row of a matrix.
#[inline(always)]
pub(super) fn panel_columns(matrix: &[f32], stride: usize, column: usize) -> impl Iterator<Item = &[f32; LANES]> {
    matrix.chunks_exact(stride).map(move |row| {
        // Proof: the slice taken has LANES elements.
        row[column..][..LANES].try_into().expect("sixteen elements")
    })
}
