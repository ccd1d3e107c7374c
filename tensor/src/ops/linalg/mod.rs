//! Decompositions of small dense matrices, batched over all leading axes: QR, Cholesky, symmetric eigenvalues,
//! singular values. Tensors in, tensors out: on a GPU nothing waits for the host.
//!
//! The CPU computes in f64 and rounds the factors at the end. Kernels compute in f32; their residuals and departures
//! from orthonormality stay around 10⁻⁶ of the matrix's norm, whatever its scale, rank or spectrum (subnormal numbers
//! count as zeros there). Signs are fixed by a convention, so that both backends choose the same factors wherever
//! the matrix determines them up to sign and rounding does not decide which component is the largest.

mod cpu;
mod gpu;
mod householder;
#[cfg(test)]
mod tests;

// For the other operations that decompose matrices.
pub(super) use cpu::{settings, with_stack};
pub(super) use gpu::{BUDGET, at_most_invocations};

use crate::device::Backend;
use crate::dtype::DType;
use crate::error::{Result, TensorError};
use crate::tensor::Tensor;

/// The largest smaller extent of a matrix on a GPU, where one workgroup has to keep pace with it.
pub const GPU_SIZE_LIMIT: usize = 256;

/// Thin QR: a = Q·R with a `[.., m, n]`, Q `[.., m, k]`, R `[.., k, n]`, k = min(m, n).
///
/// QᵀQ = I to rounding for every matrix, dependent and zero columns included. R is upper triangular (trapezoidal for
/// m < n), its diagonal is not negative. Any matrix with a NaN or an infinity has NaN in its factors.
///
/// # Errors
/// [`TensorError::Shape`] for fewer than two axes or, on a GPU, min(m, n) > 256; [`TensorError::DType`] for other types
/// than f32, or the device's own errors.
pub fn qr(a: &Tensor) -> Result<(Tensor, Tensor)> {
    let (m, n) = check("qr", a)?;
    let k = m.min(n);
    let shapes = (shape_of(a, &[m, k]), shape_of(a, &[k, n]));
    if a.elements() == 0 {
        return Ok((zeros(a, &shapes.0)?, zeros(a, &shapes.1)?));
    }
    let (q, r) = match a.device().backend() {
        Backend::Cpu => cpu::qr(a)?,
        Backend::Gpu(gpu) => gpu::qr(gpu, a)?,
    };
    Ok((unflatten(&q, &shapes.0)?, unflatten(&r, &shapes.1)?))
}

/// Cholesky: a = L·Lᵀ with a `[.., n, n]` symmetric and positive definite, L `[.., n, n]` lower triangular with a
/// positive diagonal. Only the lower triangle of a is read.
///
/// A matrix that is not positive definite (to the backend's rounding) is an error on the CPU. A GPU cannot tell the
/// host without a wait: there that matrix's L is all NaN, and the others of the batch are right.
///
/// # Errors
/// [`TensorError::InvalidArgument`] on the CPU, with the batch index of the first matrix that is not positive
/// definite; [`TensorError::Shape`] for matrices that are not square or, on a GPU, n > 256; [`TensorError::DType`] for
/// other types than f32, or the device's own errors.
pub fn cholesky(a: &Tensor) -> Result<Tensor> {
    check_square("cholesky", a)?;
    if a.elements() == 0 {
        return zeros(a, a.shape());
    }
    let l = match a.device().backend() {
        Backend::Cpu => cpu::cholesky(a)?,
        Backend::Gpu(gpu) => gpu::cholesky(gpu, a)?,
    };
    unflatten(&l, a.shape())
}

/// Eigenvalues and vectors of symmetric matrices: a·V = V·diag(λ) with a `[.., n, n]`, λ `[.., n]` ascending,
/// V `[.., n, n]` orthogonal, one vector a column. (a + aᵀ)/2 is decomposed.
///
/// The component of the largest magnitude in each vector, the first of equals, is positive. Any matrix with a NaN or
/// an infinity has NaN in its results.
///
/// # Errors
/// [`TensorError::Shape`] for matrices that are not square or, on a GPU, n > 256; [`TensorError::DType`] for other
/// types than f32, or the device's own errors.
pub fn symmetric_eigen(a: &Tensor) -> Result<(Tensor, Tensor)> {
    let n = check_square("symmetric_eigen", a)?;
    let values_shape = shape_of(a, &[n]);
    if a.elements() == 0 {
        return Ok((zeros(a, &values_shape)?, zeros(a, a.shape())?));
    }
    let (values, vectors) = match a.device().backend() {
        Backend::Cpu => cpu::symmetric_eigen(a)?,
        Backend::Gpu(gpu) => gpu::symmetric_eigen(gpu, a)?,
    };
    Ok((values.reshape(&values_shape)?, unflatten(&vectors, a.shape())?))
}

/// Thin singular value decomposition: a = U·diag(s)·Vᵀ with a `[.., m, n]`, U `[.., m, k]`, s `[.., k]` descending and
/// not negative, Vᵀ `[.., k, n]`, k = min(m, n). In this order: (U, s, Vᵀ).
///
/// UᵀU = VᵀV = I to rounding for every matrix: vectors of singular values that are zero complete the others. The
/// component of the largest magnitude in each column of U, the first of equals, is positive. Any matrix with a NaN or
/// an infinity has NaN in its factors.
///
/// # Errors
/// As [`qr`].
pub fn svd(a: &Tensor) -> Result<(Tensor, Tensor, Tensor)> {
    let (m, n) = check("svd", a)?;
    let k = m.min(n);
    let shapes = (shape_of(a, &[m, k]), shape_of(a, &[k]), shape_of(a, &[k, n]));
    if a.elements() == 0 {
        return Ok((zeros(a, &shapes.0)?, zeros(a, &shapes.1)?, zeros(a, &shapes.2)?));
    }
    let (u, s, vt) = match a.device().backend() {
        Backend::Cpu => cpu::svd(a)?,
        Backend::Gpu(gpu) => gpu::svd(gpu, a)?,
    };
    Ok((unflatten(&u, &shapes.0)?, s.reshape(&shapes.1)?, unflatten(&vt, &shapes.2)?))
}

/// Type, rank and size; returns the two extents of the matrices.
fn check(operation: &'static str, a: &Tensor) -> Result<(usize, usize)> {
    a.expect_dtype(operation, DType::F32)?;
    let wrong = |expected: String| Err(TensorError::Shape { operation, expected, found: *a.shape() });
    let [.., m, n] = a.shape()[..] else {
        return wrong("at least two axes".into());
    };
    if !a.device().is_cpu() && m.min(n) > GPU_SIZE_LIMIT {
        return wrong(format!("rows or columns of at most {GPU_SIZE_LIMIT} on a GPU; the CPU takes larger ones"));
    }
    Ok((m, n))
}

fn check_square(operation: &'static str, a: &Tensor) -> Result<usize> {
    match check(operation, a)? {
        (m, n) if m == n => Ok(n),
        _ => Err(TensorError::Shape { operation, expected: "square matrices".into(), found: *a.shape() }),
    }
}

/// The leading axes of `a` followed by other last ones.
fn shape_of(a: &Tensor, last: &[usize]) -> Vec<usize> {
    [&a.shape()[..a.rank() - 2], last].concat()
}

fn zeros(a: &Tensor, shape: &[usize]) -> Result<Tensor> {
    Tensor::zeros(a.device(), shape, DType::F32)
}

/// `[batch, rows, columns]`, possibly a transposed view, with the leading axes back in place; never copies.
fn unflatten(x: &Tensor, shape: &[usize]) -> Result<Tensor> {
    if x.is_contiguous() {
        return x.reshape(shape);
    }
    let mut transposed = shape.to_vec();
    transposed.swap(shape.len() - 2, shape.len() - 1);
    x.t()?.reshape(&transposed)?.t()
}
