//! The largest singular values and vectors of a matrix by random projection with power iterations (Halko, Martinsson and
//! Tropp, 2011, algorithms 4.4 and 5.1), on any device.

use lora::Result;
use tensor::linalg::{GPU_SIZE_LIMIT, qr, svd};
use tensor::{Device, RandomKey, Tensor};

/// Columns of the projection beyond the rank, which make the last singular values accurate.
const OVERSAMPLING: usize = 8;

/// Power iterations at the most. A spectrum so flat that these do not suffice has no low-rank part to find.
const MOST_POWER_ITERATIONS: usize = 4;

/// Power iterations end when the energy of the projection grows by less than this share of the whole.
const SETTLED: f64 = 1e-3;

/// Probes of the error bound, which holds with a probability of 1 − 10⁻ᴾᴿᴼᴮᴱˢ.
const PROBES: usize = 6;

/// `E ≈ u·diag(sigma)·vt`.
pub struct LowRank {
    /// U `[m, k]`.
    pub u: Tensor,
    /// Singular values `[k]`, descending.
    pub sigma: Tensor,
    /// Vᵀ `[k, n]`.
    pub vt: Tensor,
    /// Bound of the largest singular value of the difference.
    pub spectral_error_bound: f64,
    /// Power iterations done.
    pub power_iterations: usize,
}

/// The best approximation of `e` `[m, n]` of a rank that random projection finds; `norm` is ‖e‖_F.
///
/// # Errors
/// The device's own errors.
pub fn low_rank(e: &Tensor, rank: usize, norm: f64, key: RandomKey) -> Result<LowRank> {
    let (m, n) = (e.shape()[0], e.shape()[1]);
    let width = (rank + OVERSAMPLING).min(m).min(n);
    let transposed = e.t()?;
    let sketch = Tensor::random_normal(e.device(), &[n, width], 0.0, 1.0, key)?;
    let mut basis = orthonormal(&e.matmul(&sketch)?)?;
    let (mut energy, mut power_iterations) = (0.0, 0);
    let projected = loop {
        // Eᵀ·Q, whose energy is that of the part of E in the range of Q.
        let projected = transposed.matmul(&basis)?;
        let gained = energy_of(&projected)? - energy;
        energy += gained;
        let whole = norm * norm;
        let settled = gained <= SETTLED * whole || whole - energy <= 1e-9 * whole;
        if settled || width == m.min(n) || power_iterations == MOST_POWER_ITERATIONS {
            break projected;
        }
        power_iterations += 1;
        basis = orthonormal(&e.matmul(&orthonormal(&projected)?)?)?;
    };
    // The larger extent first: QR of Eᵀ·Q leaves a small matrix for the singular values.
    let (q, r) = qr(&decomposable(&projected)?)?;
    let (left, sigma, right) = svd(&r.t()?.contiguous()?)?;
    let [sigma, vt] = [sigma, right.matmul(&q.t()?)?].map(|part| part.to_device(e.device()));
    let (u, sigma, vt) = (basis.matmul(&left.to_device(e.device())?)?, sigma?, vt?);
    let (u, sigma, vt) = (u.slice(1, 0, rank)?, sigma.slice(0, 0, rank)?, vt.slice(0, 0, rank)?);
    let spectral_error_bound = error_bound(e, &u, &sigma, &vt, key)?;
    Ok(LowRank { u, sigma, vt, spectral_error_bound, power_iterations })
}

/// 10·√(2/π)·max‖(E − U·Σ·Vᵀ)·ω‖ over standard normal ω.
fn error_bound(e: &Tensor, u: &Tensor, sigma: &Tensor, vt: &Tensor, key: RandomKey) -> Result<f64> {
    let probes = Tensor::random_normal(e.device(), &[e.shape()[1], PROBES], 0.0, 1.0, RandomKey { step: 1, ..key })?;
    let approximated = u.matmul(&vt.matmul(&probes)?.mul(&sigma.unsqueeze(1)?)?)?;
    let squares = e.matmul(&probes)?.sub(&approximated)?.square()?.sum(&[0], false)?;
    let largest = squares.to_vec::<f32>()?.into_iter().fold(0.0, f32::max);
    Ok(10.0 * (2.0 / std::f64::consts::PI).sqrt() * f64::from(largest).sqrt())
}

/// Σ xᵢ² in f64.
fn energy_of(x: &Tensor) -> Result<f64> {
    Ok(x.to_vec::<f32>()?.into_iter().map(|x| f64::from(x).powi(2)).sum())
}

/// Orthonormal columns with the range of `y`.
fn orthonormal(y: &Tensor) -> Result<Tensor> {
    Ok(qr(&decomposable(y)?)?.0.to_device(y.device())?)
}

/// `a` where it can be decomposed: on a GPU decompositions have a largest size, beyond which the host takes over.
fn decomposable(a: &Tensor) -> Result<Tensor> {
    let fits = a.device().is_cpu() || a.shape()[0].min(a.shape()[1]) <= GPU_SIZE_LIMIT;
    if fits { Ok(a.clone()) } else { Ok(a.to_device(&Device::cpu())?) }
}
