//! How the change of a weight lies to what an adapter adds to it.

use lora::{Factors, Result};

use super::ModuleEvolution;
use crate::dense::{from_tensor, product, qr, sum_of_squares};

/// How the change E of a weight lies to an adapter's update B·A.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Alignment {
    /// Share of E's (kept) energy in the column space of B: how much of the change writes where the adapter writes. Around
    /// r/outputs for unrelated directions.
    pub outputs: f64,
    /// Share of E's (kept) energy in the row space of A: how much of the change reads what the adapter reads.
    pub inputs: f64,
    /// Cosine of the angle between E and B·A as vectors: positive where the update moved the base the adapter's way, so
    /// that the old adapter counts it twice.
    pub cosine: f64,
}

impl ModuleEvolution {
    /// How the change lies to the update of one adapter. All zero where either is zero.
    ///
    /// # Errors
    /// The device's own errors.
    pub fn alignment(&self, factors: &Factors<'_>) -> Result<Alignment> {
        let (a, b) = (from_tensor(factors.a)?, from_tensor(factors.b)?);
        let (left, right) = (from_tensor(&self.left)?, from_tensor(&self.right)?);
        let energy: f64 = self.statistics.singular_values.iter().map(|sigma| sigma.powi(2)).sum();
        // ⟨B·A, P·Q⟩ = tr((Bᵀ·P)·(Q·Aᵀ)).
        let (bp, qa) = (product(b.transpose(), left.as_ref()), product(right.as_ref(), a.transpose()));
        let (rank, kept) = (bp.nrows(), bp.ncols());
        let inner: f64 = (0..rank).map(|i| (0..kept).map(|j| bp[(i, j)] * qa[(j, i)]).sum::<f64>()).sum();
        let (gram_b, gram_a) = (product(b.transpose(), b.as_ref()), product(a.as_ref(), a.transpose()));
        let squared: f64 = (0..rank).map(|i| (0..rank).map(|j| gram_b[(i, j)] * gram_a[(j, i)]).sum::<f64>()).sum();
        if energy == 0.0 || squared <= 0.0 {
            return Ok(Alignment { outputs: 0.0, inputs: 0.0, cosine: 0.0 });
        }
        // P = U·√Σ and Q = √Σ·Vᵀ: scaled by √σᵢ once more, their columns and rows carry E's energy.
        let root = |index: usize| self.statistics.singular_values[index].max(0.0).sqrt();
        let share = |basis: faer::Mat<f64>, carrier: &faer::Mat<f64>| {
            let mut inside = product(basis.transpose(), carrier.as_ref());
            (0..inside.ncols()).for_each(|j| (0..inside.nrows()).for_each(|i| inside[(i, j)] *= root(j)));
            (sum_of_squares(inside.as_ref()) / energy).min(1.0)
        };
        let columns_of_right = right.transpose().to_owned();
        Ok(Alignment {
            outputs: share(range(b), &left),
            inputs: share(range(a.transpose().to_owned()), &columns_of_right),
            cosine: inner / (squared * energy).sqrt(),
        })
    }
}

/// Orthonormal columns for the range of `x`, without directions that are zero: QR would fill these up at random.
fn range(x: faer::Mat<f64>) -> faer::Mat<f64> {
    let largest = (0..x.ncols()).map(|j| norm_of(&x, j)).fold(0.0, f64::max);
    let kept: Vec<usize> = (0..x.ncols()).filter(|&j| norm_of(&x, j) > 1e-9 * largest).collect();
    let dense = faer::Mat::from_fn(x.nrows(), kept.len(), |i, j| x[(i, kept[j])]);
    qr(dense).0
}

fn norm_of(x: &faer::Mat<f64>, column: usize) -> f64 {
    (0..x.nrows()).map(|i| x[(i, column)].powi(2)).sum::<f64>().sqrt()
}
