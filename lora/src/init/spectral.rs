//! Initialisers that take the weight apart. They compute on the CPU, in f64 inside the decompositions, so that every
//! device begins with the same factors and no kernel's size limit applies.

use tensor::linalg::{qr, svd};
use tensor::{DType, Device, RandomKey, Tensor};

use super::setting;
use crate::adapter::Adapter;
use crate::error::Result;

/// Columns of the randomised decomposition beyond the rank, which make its last singular values accurate.
const OVERSAMPLING: usize = 8;

/// PiSSA: A = √(Σ_r/s)·V_rᵀ and B = U_r·√(Σ_r/s), so that s·B·A is the best approximation of rank r.
pub(super) fn principal(
    weight: &Tensor,
    adapter: &Adapter,
    iterations: Option<usize>,
    key: RandomKey,
) -> Result<(Tensor, Tensor)> {
    let (host, rank) = (on_host(weight, adapter)?, adapter.rank);
    if adapter.scaling <= 0.0 {
        return Err(setting(format!("`pissa` needs a positive scaling, and that of `{}` is not", adapter.module)));
    }
    let (u, sigma, vt) = match iterations {
        None => svd(&host)?,
        Some(iterations) => randomised_svd(&host, rank, iterations, key)?,
    };
    let root = sigma.slice(0, 0, rank)?.affine(1.0 / adapter.scaling, 0.0)?.sqrt()?;
    let a = vt.slice(0, 0, rank)?.mul(&root.unsqueeze(1)?)?;
    let b = u.slice(1, 0, rank)?.mul(&root)?;
    Ok((a.to_device(weight.device())?, b.to_device(weight.device())?))
}

/// OLoRA: B = Q_r and A = R_r, the first columns and rows of W = Q·R. The first columns of Q are those of the first columns
/// of W, and R_r = Q_rᵀ·W.
pub(super) fn orthonormal(weight: &Tensor, adapter: &Adapter) -> Result<(Tensor, Tensor)> {
    let host = on_host(weight, adapter)?;
    let (q, _) = qr(&host.slice(1, 0, adapter.rank)?.contiguous()?)?;
    let a = q.t()?.matmul(&host)?;
    Ok((a.to_device(weight.device())?, q.to_device(weight.device())?))
}

fn on_host(weight: &Tensor, adapter: &Adapter) -> Result<Tensor> {
    let smaller = adapter.inputs.min(adapter.outputs);
    if adapter.rank > smaller {
        let message = format!(
            "the weight of `{}` has rank {smaller} at most and cannot be taken apart into factors of rank {}; lower the \
             rank there with rank_pattern",
            adapter.module, adapter.rank
        );
        return Err(setting(message));
    }
    Ok(weight.to_device(&Device::cpu())?.cast(DType::F32)?)
}

/// The largest singular values and their vectors by random projection with power iterations (Halko, Martinsson and Tropp,
/// 2011, algorithms 4.4 and 5.1).
fn randomised_svd(a: &Tensor, rank: usize, iterations: usize, key: RandomKey) -> Result<(Tensor, Tensor, Tensor)> {
    let (rows, columns) = (a.shape()[0], a.shape()[1]);
    let width = (rank + OVERSAMPLING).min(rows).min(columns);
    let sketch = Tensor::random_normal(a.device(), &[columns, width], 0.0, 1.0, key)?;
    let mut basis = qr(&a.matmul(&sketch)?)?.0;
    for _ in 0..iterations {
        let other = qr(&a.t()?.matmul(&basis)?)?.0;
        basis = qr(&a.matmul(&other)?)?.0;
    }
    let (u, sigma, vt) = svd(&basis.t()?.matmul(a)?)?;
    Ok((basis.matmul(&u)?, sigma, vt))
}
