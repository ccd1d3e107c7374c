//! By faer in f64, one matrix a task. Each matrix is done by one thread, so that nothing depends on their number.

use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack, StackReq};
use faer::linalg::cholesky::llt::factor as llt;
use faer::linalg::evd::{self, ComputeEigenvectors};
use faer::linalg::householder;
use faer::linalg::qr::no_pivoting::factor as householder_qr;
use faer::linalg::svd::{self, ComputeSvdVectors};
use faer::{Auto, Conj, Mat, Par, Spec};
use rayon::prelude::*;

use crate::error::{Result, TensorError};
use crate::shape::Shape;
use crate::tensor::Tensor;

/// Runs `work` with the workspace that faer asks for.
pub(in crate::ops) fn with_stack<T>(need: StackReq, work: impl FnOnce(&mut MemStack) -> T) -> T {
    work(MemStack::new(&mut MemBuffer::new(need)))
}

/// faer's own settings.
pub(in crate::ops) fn settings<P: Auto<f64>>() -> Spec<P, f64> {
    Spec::default()
}

/// Applies `decompose` to every matrix `[m, n]` of the batch; it returns `N` row-major results of the given shapes,
/// which come out one matrix after the other. A matrix with NaN or infinity gets NaN for all of them.
fn each_matrix<const N: usize>(
    a: &Tensor,
    shapes: [&[usize]; N],
    decompose: impl Fn(usize, &Mat<f64>) -> Result<[Vec<f32>; N]> + Sync,
) -> Result<[Vec<f32>; N]> {
    let (m, n) = (a.shape()[a.rank() - 2], a.shape()[a.rank() - 1]);
    let a = a.contiguous()?;
    let results: Vec<[Vec<f32>; N]> = a
        .cpu_slice::<f32>()?
        .par_chunks(m * n)
        .enumerate()
        .map(|(index, values)| {
            if values.iter().all(|x| x.is_finite()) {
                decompose(index, &Mat::from_fn(m, n, |i, j| f64::from(values[i * n + j])))
            } else {
                Ok(shapes.map(|shape| vec![f32::NAN; shape.iter().product()]))
            }
        })
        .collect::<Result<_>>()?;
    let gather = |which: usize| results.iter().flat_map(|result| &result[which]).copied().collect();
    Ok(std::array::from_fn(gather))
}

/// Matrices or vectors of one shape, one after the other, as `[batch, ..]`. No extent is 0.
fn stacked(shape: &[usize], values: Vec<f32>) -> Result<Tensor> {
    let batch = values.len() / shape.iter().product::<usize>();
    Ok(Tensor::from_cpu_vec(Shape::new(&[&[batch], shape].concat())?, values))
}

fn row_major(rows: usize, columns: usize, value: impl Fn(usize, usize) -> f64) -> Vec<f32> {
    (0..rows * columns).map(|index| value(index / columns, index % columns) as f32).collect()
}

/// −1 where the largest magnitude of `column`, the first of equals, is negative, else 1. Magnitudes are compared as
/// f32, so that symmetric vectors do not turn on the last bits of f64.
fn sign_of(column: impl Iterator<Item = f64>) -> f64 {
    let largest = column.fold(0.0f32, |best, x| if (x as f32).abs() > best.abs() { x as f32 } else { best });
    if largest < 0.0 { -1.0 } else { 1.0 }
}

/// Q `[batch, m, k]` and R `[batch, k, n]`.
pub(super) fn qr(a: &Tensor) -> Result<(Tensor, Tensor)> {
    let (m, n) = (a.shape()[a.rank() - 2], a.shape()[a.rank() - 1]);
    let k = m.min(n);
    let [q, r] = each_matrix(a, [&[m, k], &[k, n]], |_, matrix| {
        let mut factored = matrix.clone();
        let block = householder_qr::recommended_block_size::<f64>(m, n);
        let mut coefficients = Mat::zeros(block, k);
        let need = householder_qr::qr_in_place_scratch::<f64>(m, n, block, Par::Seq, settings());
        with_stack(need, |stack| {
            householder_qr::qr_in_place(factored.as_mut(), coefficients.as_mut(), Par::Seq, stack, settings())
        });
        let mut q = Mat::identity(m, k);
        let need = householder::apply_block_householder_sequence_on_the_left_in_place_scratch::<f64>(m, block, k);
        with_stack(need, |stack| {
            householder::apply_block_householder_sequence_on_the_left_in_place_with_conj(
                factored.as_ref().subcols(0, k),
                coefficients.as_ref(),
                Conj::No,
                q.as_mut(),
                Par::Seq,
                stack,
            )
        });
        let sign = |i: usize| if factored[(i, i)] < 0.0 { -1.0 } else { 1.0 };
        let r = row_major(k, n, |i, j| if j < i { 0.0 } else { sign(i) * factored[(i, j)] });
        Ok([row_major(m, k, |i, j| sign(j) * q[(i, j)]), r])
    })?;
    Ok((stacked(&[m, k], q)?, stacked(&[k, n], r)?))
}

/// L `[batch, n, n]`.
pub(super) fn cholesky(a: &Tensor) -> Result<Tensor> {
    let n = a.shape()[a.rank() - 1];
    let refused = |index: usize| TensorError::InvalidArgument {
        operation: "cholesky",
        message: format!("matrix {index} of the batch is not positive definite"),
    };
    let [l] = each_matrix(a, [&[n, n]], |index, matrix| {
        let mut l = matrix.clone();
        let need = llt::cholesky_in_place_scratch::<f64>(n, Par::Seq, settings());
        with_stack(need, |stack| llt::cholesky_in_place(l.as_mut(), Default::default(), Par::Seq, stack, settings()))
            .map_err(|_| refused(index))?;
        Ok([row_major(n, n, |i, j| if j > i { 0.0 } else { l[(i, j)] })])
    })?;
    // NaN and infinity in the input are not positive definite either.
    match l.chunks(n * n).position(|matrix| matrix[0].is_nan()) {
        Some(index) => Err(refused(index)),
        None => stacked(&[n, n], l),
    }
}

/// Eigenvalues `[batch, n]` and vectors `[batch, n, n]`.
pub(super) fn symmetric_eigen(a: &Tensor) -> Result<(Tensor, Tensor)> {
    let n = a.shape()[a.rank() - 1];
    let [values, vectors] = each_matrix(a, [&[n], &[n, n]], |index, matrix| {
        let symmetric = Mat::from_fn(n, n, |i, j| 0.5 * (matrix[(i, j)] + matrix[(j, i)]));
        let (mut values, mut vectors) = (Diag::zeros(n), Mat::zeros(n, n));
        let need = evd::self_adjoint_evd_scratch::<f64>(n, ComputeEigenvectors::Yes, Par::Seq, settings());
        with_stack(need, |stack| {
            let (values, vectors) = (values.as_mut(), Some(vectors.as_mut()));
            evd::self_adjoint_evd(symmetric.as_ref(), values, vectors, Par::Seq, stack, settings())
        })
        .map_err(|_| not_converged("symmetric_eigen", index))?;
        let signs: Vec<f64> = (0..n).map(|j| sign_of((0..n).map(|i| vectors[(i, j)]))).collect();
        let sorted = values.column_vector().iter().map(|&value| value as f32).collect();
        Ok([sorted, row_major(n, n, |i, j| signs[j] * vectors[(i, j)])])
    })?;
    Ok((stacked(&[n], values)?, stacked(&[n, n], vectors)?))
}

/// U `[batch, m, k]`, singular values `[batch, k]`, Vᵀ `[batch, k, n]`.
pub(super) fn svd(a: &Tensor) -> Result<(Tensor, Tensor, Tensor)> {
    let (m, n) = (a.shape()[a.rank() - 2], a.shape()[a.rank() - 1]);
    let k = m.min(n);
    let [u, s, vt] = each_matrix(a, [&[m, k], &[k], &[k, n]], |index, matrix| {
        let (mut u, mut s, mut v) = (Mat::zeros(m, k), Diag::zeros(k), Mat::zeros(n, k));
        let thin = ComputeSvdVectors::Thin;
        with_stack(svd::svd_scratch::<f64>(m, n, thin, thin, Par::Seq, settings()), |stack| {
            let (u, v) = (Some(u.as_mut()), Some(v.as_mut()));
            svd::svd(matrix.as_ref(), s.as_mut(), u, v, Par::Seq, stack, settings())
        })
        .map_err(|_| not_converged("svd", index))?;
        let signs: Vec<f64> = (0..k).map(|j| sign_of((0..m).map(|i| u[(i, j)]))).collect();
        Ok([
            row_major(m, k, |i, j| signs[j] * u[(i, j)]),
            s.column_vector().iter().map(|&value| value as f32).collect(),
            row_major(k, n, |i, j| signs[i] * v[(j, i)]),
        ])
    })?;
    Ok((stacked(&[m, k], u)?, stacked(&[k], s)?, stacked(&[k, n], vt)?))
}

fn not_converged(operation: &'static str, index: usize) -> TensorError {
    TensorError::InvalidArgument { operation, message: format!("matrix {index} of the batch did not converge") }
}
