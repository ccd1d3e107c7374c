//! Fusion: one adapter of the old rank from the old adapter and the base's evolution,
//! `Δ(α, β) = T_r(α·s·B·A + β·E)` per adapted weight, where T_r is the best approximation of rank r. It is computed from
//! factors only; no matrix of a weight's size is ever made.

use std::collections::BTreeMap;

use faer::Mat;
use lora::{Adapter, AdapterSet, Combination, Factors, LoraError, Result, kaiming_uniform};
use rayon::prelude::*;
use tensor::{Device, RandomKey, Tensor};

use crate::dense::{all_factors, from_tensor, from_tensors, product, qr, svd, to_tensor};
use crate::evolution::{Evolution, ModuleEvolution};

/// α and β of one module.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Coefficients {
    /// How much of the old adapter is kept.
    pub alpha: f64,
    /// How much of the base's evolution is added.
    pub beta: f64,
}

/// What fusion needs of one adapter and one evolution, made ready once for any number of coefficients.
///
/// With U = `[s·B | P]` and V = `[A ; Q]`, where E = P·Q, the product is `U·diag(α, β)·V`. The decompositions U = Q_u·R_u and
/// Vᵀ = Q_v·R_v do not depend on the coefficients; what does is a core of (r + k)² numbers, `R_u·diag(α, β)·R_vᵀ`, whose
/// singular values are those of the product. Decompositions are made in f64 on the CPU, the last products of Q_u and Q_v
/// with r columns each in f32 on the adapter's device.
#[derive(Debug)]
pub struct Fusion {
    adapter: AdapterSet,
    modules: BTreeMap<String, Prepared>,
}

#[derive(Debug)]
struct Prepared {
    /// Q_u `[outputs, p]`, p = min(outputs, r + k).
    left_basis: Tensor,
    /// Q_vᵀ `[q, inputs]`, q = min(inputs, r + k).
    right_basis: Tensor,
    /// R_u `[p, r + k]`.
    left: Mat<f64>,
    /// R_v `[q, r + k]`.
    right: Mat<f64>,
    rank: usize,
    scaling: f64,
}

/// One adapter at α and β: [`Fusion::new`] and [`Fusion::at`] in one.
///
/// # Errors
/// As theirs.
pub fn fuse(adapter: &AdapterSet, evolution: &Evolution, alpha: f64, beta: f64) -> Result<AdapterSet> {
    Fusion::new(adapter, evolution)?.at(alpha, beta)
}

impl Fusion {
    /// Makes an adapter and the evolution of its base ready. An adapter whose initial product is subtracted counts as the
    /// plain one of twice the rank that its file holds. DoRA's magnitudes and modules trained as a whole stay as they are.
    ///
    /// # Errors
    /// [`LoraError::Setting`] naming a module that the evolution lacks, whose shape is another there, or whose scaling is
    /// zero; [`LoraError::NotFinite`], or the device's own errors.
    pub fn new(adapter: &AdapterSet, evolution: &Evolution) -> Result<Self> {
        let subtracts = adapter.adapters().any(|part| adapter.subtracted_product(&part.module).is_some());
        let adapter = match subtracts {
            true => AdapterSet::combine(&[(adapter, 1.0)], Combination::Concatenation)?,
            false => adapter.clone(),
        };
        let parts: Vec<&Adapter> = adapter.adapters().collect();
        let factors = all_factors(&adapter)?;
        let a = from_tensors(&factors.iter().map(|factors| factors.a).collect::<Vec<_>>())?;
        let b = from_tensors(&factors.iter().map(|factors| factors.b).collect::<Vec<_>>())?;
        let modules = parts.into_par_iter().zip(a.into_par_iter().zip(b)).map(|(part, factors)| {
            let change = evolution.module(&part.module).ok_or_else(|| {
                refused(format!(
                    "the base's evolution was not measured for `{}`, which the adapter adapts",
                    part.module
                ))
            })?;
            Ok((part.module.clone(), Prepared::new(factors, part, change, adapter.device())?))
        });
        let modules = modules.collect::<Result<BTreeMap<_, _>>>()?;
        Ok(Fusion { adapter, modules })
    }

    /// The adapter at one α and β for all modules. Its factors are balanced: with U·Σ·Vᵀ of rank r,
    /// `B₀ = U·√(Σ/s)` and `A₀ = √(Σ/s)·Vᵀ`, so that `B₀ᵀ·B₀ = A₀·A₀ᵀ`. At (1, 0) the product is the old one, at (0, 0) zero
    /// with factors that are zero, see [`fill_idle_directions`].
    ///
    /// # Errors
    /// [`LoraError::NotFinite`], or the device's own errors.
    pub fn at(&self, alpha: f64, beta: f64) -> Result<AdapterSet> {
        self.with(|_| Coefficients { alpha, beta })
    }

    /// The adapter with coefficients that depend on the module's path.
    ///
    /// # Errors
    /// As [`Fusion::at`].
    pub fn with(&self, coefficients: impl Fn(&str) -> Coefficients + Sync) -> Result<AdapterSet> {
        let modules: Vec<(&String, &Prepared)> = self.modules.iter().collect();
        let small = modules.into_par_iter().map(|(module, prepared)| {
            let (left, right) = prepared.small_factors(coefficients(module), module)?;
            Ok((module, prepared, left, right))
        });
        let mut fused = self.adapter.clone();
        let device = self.adapter.device();
        for (module, prepared, left, right) in small.collect::<Result<Vec<_>>>()? {
            let b = prepared.left_basis.matmul(&to_tensor(left.as_ref(), device)?)?;
            let a = to_tensor(right.as_ref(), device)?.matmul(&prepared.right_basis)?;
            fused.set_factors(module, a, b)?;
        }
        Ok(fused)
    }
}

impl Prepared {
    fn new((a, b): (Mat<f64>, Mat<f64>), adapter: &Adapter, change: &ModuleEvolution, device: &Device) -> Result<Self> {
        let (left, right) = (&change.left, &change.right);
        let kept = left.shape()[1];
        if left.shape()[..] != [adapter.outputs, kept] || right.shape()[..] != [kept, adapter.inputs] {
            return Err(refused(format!(
                "the evolution of `{}` has factors {} and {}, the adapter maps {} inputs to {} outputs; measure it with \
                 this adapter",
                adapter.module,
                left.shape(),
                right.shape(),
                adapter.inputs,
                adapter.outputs
            )));
        }
        let scaling = f64::from(adapter.scaling);
        if scaling == 0.0 {
            return Err(refused(format!(
                "the adapter of `{}` has the scaling 0, so that nothing can be put into it",
                adapter.module
            )));
        }
        let (p, q) = (from_tensor(left)?, from_tensor(right)?);
        let (rank, width) = (adapter.rank, adapter.rank + kept);
        let u =
            Mat::from_fn(adapter.outputs, width, |i, j| if j < rank { scaling * b[(i, j)] } else { p[(i, j - rank)] });
        let v = Mat::from_fn(adapter.inputs, width, |i, j| if j < rank { a[(j, i)] } else { q[(j - rank, i)] });
        let ((left_basis, left), (right_basis, right)) = (qr(u), qr(v));
        Ok(Prepared {
            left_basis: to_tensor(left_basis.as_ref(), device)?,
            right_basis: to_tensor(right_basis.transpose(), device)?,
            left,
            right,
            rank,
            scaling,
        })
    }

    /// B₀ and A₀ in the two bases: `[p, r]` and `[r, q]`.
    fn small_factors(&self, Coefficients { alpha, beta }: Coefficients, module: &str) -> Result<(Mat<f64>, Mat<f64>)> {
        let weight = |column: usize| if column < self.rank { alpha } else { beta };
        let weighted = Mat::from_fn(self.left.nrows(), self.left.ncols(), |i, j| self.left[(i, j)] * weight(j));
        let core = product(weighted.as_ref(), self.right.transpose());
        let (x, sigma, y) = svd(core.as_ref(), module)?;
        // A weight smaller than the rank has fewer singular values; the columns beyond are zero.
        let root = |index: usize| sigma.get(index).map_or(0.0, |sigma| (sigma / self.scaling.abs()).sqrt());
        let sign = self.scaling.signum();
        let left =
            Mat::from_fn(
                self.left.nrows(),
                self.rank,
                |i, j| {
                    if j < sigma.len() { sign * x[(i, j)] * root(j) } else { 0.0 }
                },
            );
        let right =
            Mat::from_fn(self.rank, self.right.nrows(), |i, j| if i < sigma.len() { root(i) * y[(j, i)] } else { 0.0 });
        Ok((left, right))
    }
}

/// Directions whose two factors are smaller than this share of the module's largest count as idle.
const IDLE: f64 = 1e-6;

/// Lets every direction of an adapter learn. Where both the row of A and the column of B are zero, as fusion leaves them
/// when the product's rank is lower than the adapter's, neither has a gradient; such rows of A are drawn as for a fresh
/// adapter and such columns of B set to zero, so that the product stays.
///
/// # Errors
/// The device's own errors.
pub fn fill_idle_directions(adapter: &AdapterSet, seed: u64) -> Result<AdapterSet> {
    let mut filled = adapter.clone();
    let factors = all_factors(adapter)?;
    for ((part, factors), sizes) in adapter.adapters().zip(&factors).zip(direction_sizes(&factors)?) {
        let Adapter { rank, inputs, outputs, .. } = *part;
        let limit = IDLE * sizes.iter().copied().fold(0.0, f64::max);
        let idle: Vec<usize> = (0..rank).filter(|&row| sizes[row] <= limit).collect();
        if idle.is_empty() {
            continue;
        }
        let (mut a, mut b) = (factors.a.to_vec::<f32>()?, factors.b.to_vec::<f32>()?);
        let host = Device::cpu();
        let fresh = kaiming_uniform(&host, rank, inputs, RandomKey::named(seed, &part.a, 0))?.to_vec::<f32>()?;
        for row in idle {
            a[row * inputs..(row + 1) * inputs].copy_from_slice(&fresh[row * inputs..(row + 1) * inputs]);
            (0..outputs).for_each(|output| b[output * rank + row] = 0.0);
        }
        let a = Tensor::from_vec(&host, &[rank, inputs], a)?;
        filled.set_factors(&part.module, a, Tensor::from_vec(&host, &[outputs, rank], b)?)?;
    }
    Ok(filled)
}

/// For every adapter, the larger of the norms of A's row and B's column of each direction. Read together.
fn direction_sizes(factors: &[Factors<'_>]) -> Result<Vec<Vec<f64>>> {
    let mut squares = Vec::with_capacity(2 * factors.len());
    for factors in factors {
        squares.push(factors.a.square()?.sum(&[1], false)?);
        squares.push(factors.b.square()?.sum(&[0], false)?);
    }
    if squares.is_empty() {
        return Ok(Vec::new());
    }
    let squares = Tensor::concat(&squares.iter().collect::<Vec<_>>(), 0)?.to_vec::<f32>()?;
    let mut rest = squares.as_slice();
    let mut sizes = |factors: &Factors<'_>| {
        let rank = factors.a.shape()[0];
        let (of_a, others) = rest.split_at(rank);
        let (of_b, others) = others.split_at(rank);
        rest = others;
        of_a.iter().zip(of_b).map(|(a, b)| f64::from(a.max(*b)).sqrt()).collect()
    };
    Ok(factors.iter().map(&mut sizes).collect())
}

fn refused(message: String) -> LoraError {
    LoraError::Setting { setting: "fusion", message }
}
