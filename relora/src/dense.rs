//! Products and decompositions of small matrices in f64, each by one thread, so that nothing depends on how many there
//! are; whoever has many matrices gives each a task of its own.

use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack, StackReq};
use faer::linalg::householder;
use faer::linalg::matmul::matmul;
use faer::linalg::qr::no_pivoting::factor as householder_qr;
use faer::linalg::svd::{self, ComputeSvdVectors};
use faer::{Accum, Auto, Conj, Mat, MatRef, Par, Spec};
use lora::{AdapterSet, Factors, LoraError, Result};
use tensor::{Device, Tensor};

/// Runs `work` with the workspace that faer asks for.
fn with_stack<T>(need: StackReq, work: impl FnOnce(&mut MemStack) -> T) -> T {
    work(MemStack::new(&mut MemBuffer::new(need)))
}

fn settings<P: Auto<f64>>() -> Spec<P, f64> {
    Spec::default()
}

/// a·b.
pub fn product(a: MatRef<'_, f64>, b: MatRef<'_, f64>) -> Mat<f64> {
    let mut result = Mat::zeros(a.nrows(), b.ncols());
    if a.ncols() > 0 {
        matmul(result.as_mut(), Accum::Replace, a, b, 1.0, Par::Seq);
    }
    result
}

/// Thin QR of a `[m, n]`: Q `[m, k]` with orthonormal columns and R `[k, n]`, k = min(m, n).
pub fn qr(mut a: Mat<f64>) -> (Mat<f64>, Mat<f64>) {
    let (m, n) = (a.nrows(), a.ncols());
    let k = m.min(n);
    let block = householder_qr::recommended_block_size::<f64>(m, n);
    let mut coefficients = Mat::zeros(block, k);
    let need = householder_qr::qr_in_place_scratch::<f64>(m, n, block, Par::Seq, settings());
    with_stack(need, |stack| {
        householder_qr::qr_in_place(a.as_mut(), coefficients.as_mut(), Par::Seq, stack, settings())
    });
    let mut q = Mat::identity(m, k);
    let need = householder::apply_block_householder_sequence_on_the_left_in_place_scratch::<f64>(m, block, k);
    with_stack(need, |stack| {
        householder::apply_block_householder_sequence_on_the_left_in_place_with_conj(
            a.as_ref().subcols(0, k),
            coefficients.as_ref(),
            Conj::No,
            q.as_mut(),
            Par::Seq,
            stack,
        )
    });
    (q, Mat::from_fn(k, n, |i, j| if j < i { 0.0 } else { a[(i, j)] }))
}

/// Thin singular value decomposition a = U·diag(s)·Vᵀ: U `[m, k]`, s descending, V `[n, k]`, k = min(m, n).
///
/// # Errors
/// [`LoraError::NotFinite`] naming `what` where a holds NaN or infinity.
pub fn svd(a: MatRef<'_, f64>, what: &str) -> Result<(Mat<f64>, Vec<f64>, Mat<f64>)> {
    let (m, n) = (a.nrows(), a.ncols());
    let k = m.min(n);
    let refused = || LoraError::NotFinite {
        tensor: what.into(),
        message: "its singular values cannot be computed; look for NaN or infinity in the adapter or the weights"
            .into(),
    };
    let finite = (0..n).all(|j| (0..m).all(|i| a[(i, j)].is_finite()));
    if !finite {
        return Err(refused());
    }
    let (mut u, mut s, mut v) = (Mat::zeros(m, k), Diag::zeros(k), Mat::zeros(n, k));
    let thin = ComputeSvdVectors::Thin;
    with_stack(svd::svd_scratch::<f64>(m, n, thin, thin, Par::Seq, settings()), |stack| {
        let (u, v) = (Some(u.as_mut()), Some(v.as_mut()));
        svd::svd(a, s.as_mut(), u, v, Par::Seq, stack, settings())
    })
    .map_err(|_| refused())?;
    Ok((u, s.column_vector().iter().copied().collect(), v))
}

/// A tensor `[rows, columns]` in f64.
pub fn from_tensor(tensor: &Tensor) -> Result<Mat<f64>> {
    let (rows, columns) = (tensor.shape()[0], tensor.shape()[1]);
    let values = tensor.to_vec::<f32>()?;
    Ok(Mat::from_fn(rows, columns, |i, j| f64::from(values[i * columns + j])))
}

/// The factors of every adapter, in the adapters' order.
///
/// # Errors
/// [`LoraError::Setting`] naming a module whose factors are gone from the set.
pub fn all_factors(adapters: &AdapterSet) -> Result<Vec<Factors<'_>>> {
    let of_module = |module: &str| {
        let message = || format!("the factors of `{module}` are gone from the adapter set");
        adapters.factors(module).ok_or_else(|| LoraError::Setting { setting: "adapters", message: message() })
    };
    adapters.adapters().map(|adapter| of_module(&adapter.module)).collect()
}

/// Tensors of one device in f64. Read together: each reading waits for the device.
pub fn from_tensors(tensors: &[&Tensor]) -> Result<Vec<Mat<f64>>> {
    let flat: Vec<Tensor> =
        tensors.iter().map(|tensor| tensor.reshape(&[tensor.elements()])).collect::<tensor::Result<_>>()?;
    if flat.is_empty() {
        return Ok(Vec::new());
    }
    let values = Tensor::concat(&flat.iter().collect::<Vec<_>>(), 0)?.to_vec::<f32>()?;
    let mut rest = values.as_slice();
    let mut matrix = |tensor: &&Tensor| {
        let (rows, columns) = (tensor.shape()[0], tensor.shape()[1]);
        let (own, others) = rest.split_at(rows * columns);
        rest = others;
        Mat::from_fn(rows, columns, |i, j| f64::from(own[i * columns + j]))
    };
    Ok(tensors.iter().map(&mut matrix).collect())
}

/// A matrix as a tensor, f32.
pub fn to_tensor(matrix: MatRef<'_, f64>, device: &Device) -> Result<Tensor> {
    let (rows, columns) = (matrix.nrows(), matrix.ncols());
    let values = (0..rows * columns).map(|index| matrix[(index / columns, index % columns)] as f32).collect();
    Ok(Tensor::from_vec(device, &[rows, columns], values)?)
}

/// Σ aᵢⱼ².
pub fn sum_of_squares(a: MatRef<'_, f64>) -> f64 {
    (0..a.ncols()).map(|j| (0..a.nrows()).map(|i| a[(i, j)].powi(2)).sum::<f64>()).sum()
}
