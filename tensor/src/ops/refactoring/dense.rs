//! S̃ of one pair in f64, by QR and SVD: what the CPU backend computes and what kernels are compared with.

use faer::diag::Diag;
use faer::linalg::matmul::matmul;
use faer::linalg::qr::no_pivoting::factor as householder_qr;
use faer::linalg::svd::{self, ComputeSvdVectors};
use faer::{Accum, Mat, MatRef, Par};

use crate::ops::linalg::{settings, with_stack};

/// S̃ and S̃⁻¹ of one pair of factors, and the singular values they come from.
#[derive(Clone, Debug)]
pub struct DenseRefactoring {
    /// S̃ `[rank, rank]`, row-major.
    pub s: Vec<f64>,
    /// S̃⁻¹ `[rank, rank]`, row-major.
    pub inverse: Vec<f64>,
    /// The singular values of B·A, descending: `rank` of them, those beyond its extents 0.
    pub singular_values: Vec<f64>,
}

/// S̃ = (A·Aᵀ)⁻¹ # (Bᵀ·B) and its inverse in f64, from A `[rank, inputs]` and B `[outputs, rank]`, row-major; the
/// equations are at [`crate::Refactoring`]. Singular values below `floor`·σ₁ count for less. `None` where S̃ is not
/// defined: B·A is zero to the factors' rounding, a factor is not finite, or the rank is 0.
pub fn dense_refactoring(rank: usize, a: &[f64], b: &[f64], floor: f64) -> Option<DenseRefactoring> {
    if rank == 0 {
        return None;
    }
    // Scaled to entries of at most 1: products of 1e-200 would vanish.
    let (a_scale, b_scale) = (largest(a)?, largest(b)?);
    let inputs = a.len() / rank;
    // Columns of both are those of Aᵀ and B.
    let r_a = triangle(Mat::from_fn(inputs, rank, |i, j| a[j * inputs + i] / a_scale), rank);
    let r_b = triangle(Mat::from_fn(b.len() / rank, rank, |i, j| b[i * rank + j] / b_scale), rank);
    let (u, sigma, v) = full_svd(product(r_a.as_ref(), r_b.transpose()).as_ref())?;
    // A product this small beside its factors is their rounding.
    let noise = 0.1 * floor * norm(&r_a) * norm(&r_b);
    let top = sigma.first().copied().filter(|&sigma| sigma > noise)?;
    let lowest = floor * top;
    let weight = |i: usize| {
        let clamped = sigma[i].max(lowest);
        sigma[i] * sigma[i] / (clamped * clamped * clamped)
    };
    let metric = |frame: Mat<f64>, scale: f64| {
        let weighted = Mat::from_fn(rank, rank, |i, k| frame[(i, k)] * weight(k));
        let product = product(weighted.as_ref(), frame.transpose());
        (0..rank * rank)
            .map(|index| (index / rank, index % rank))
            .map(|(i, j)| scale * 0.5 * (product[(i, j)] + product[(j, i)]))
            .collect()
    };
    Some(DenseRefactoring {
        s: metric(product(r_b.transpose(), v.as_ref()), b_scale / a_scale),
        inverse: metric(product(r_a.transpose(), u.as_ref()), a_scale / b_scale),
        singular_values: sigma.iter().map(|sigma| sigma * a_scale * b_scale).collect(),
    })
}

fn norm(x: &Mat<f64>) -> f64 {
    let squares = (0..x.ncols()).flat_map(|j| (0..x.nrows()).map(move |i| x[(i, j)] * x[(i, j)]));
    squares.sum::<f64>().sqrt()
}

/// The largest magnitude; `None` for zero matrices and those that are not finite.
fn largest(x: &[f64]) -> Option<f64> {
    let largest = x.iter().fold(0.0f64, |largest, x| largest.max(x.abs()));
    (largest > 0.0 && x.iter().all(|x| x.is_finite())).then_some(largest)
}

fn product(left: MatRef<'_, f64>, right: MatRef<'_, f64>) -> Mat<f64> {
    let mut product = Mat::zeros(left.nrows(), right.ncols());
    matmul(product.as_mut(), Accum::Replace, left, right, 1.0, Par::Seq);
    product
}

/// R of the QR decomposition of `x` `[length, rank]`, with rows of zeros where `length` is less than `rank`.
fn triangle(mut x: Mat<f64>, rank: usize) -> Mat<f64> {
    let (length, columns) = (x.nrows(), x.ncols());
    let block = householder_qr::recommended_block_size::<f64>(length, columns);
    let mut coefficients = Mat::zeros(block, length.min(columns));
    let need = householder_qr::qr_in_place_scratch::<f64>(length, columns, block, Par::Seq, settings());
    with_stack(need, |stack| {
        householder_qr::qr_in_place(x.as_mut(), coefficients.as_mut(), Par::Seq, stack, settings())
    });
    Mat::from_fn(rank, rank, |i, j| if i < length && i <= j { x[(i, j)] } else { 0.0 })
}

/// U, the singular values in descending order, and V of a square matrix.
fn full_svd(x: MatRef<'_, f64>) -> Option<(Mat<f64>, Vec<f64>, Mat<f64>)> {
    let n = x.nrows();
    let (mut u, mut s, mut v) = (Mat::zeros(n, n), Diag::zeros(n), Mat::zeros(n, n));
    let full = ComputeSvdVectors::Full;
    with_stack(svd::svd_scratch::<f64>(n, n, full, full, Par::Seq, settings()), |stack| {
        svd::svd(x, s.as_mut(), Some(u.as_mut()), Some(v.as_mut()), Par::Seq, stack, settings())
    })
    .ok()?;
    Some((u, s.column_vector().iter().copied().collect(), v))
}
