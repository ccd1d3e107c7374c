//! Scaled gradient descent: each factor's gradient divided by the other's Gram matrix.

use std::collections::BTreeMap;

use autograd::Gradients;
use lora::{Adapter, AdapterSet, GradientTransform, LoraError, Result};
use tensor::{Tensor, linalg};

use crate::pairs;

/// ScaledGD for adapters (Riemannian preconditioning; Zhang, Pilanci 2024, arXiv 2402.02347), a baseline:
/// ∇A ← (Bᵀ·B + ε·I)⁻¹·∇A and ∇B ← ∇B·(A·Aᵀ + ε·I)⁻¹.
///
/// Written with general operations, a few dispatches for each adapter: for comparisons, not for speed. Gram matrices are
/// in f32, so ε should not be below 10⁻⁷ of their norm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScaledGradients {
    epsilon: f32,
}

impl ScaledGradients {
    /// The method with this ε. The authors use 10⁻⁶.
    ///
    /// # Errors
    /// [`LoraError::Setting`] for an ε that is not positive and finite.
    pub fn new(epsilon: f32) -> Result<Self> {
        if epsilon > 0.0 && epsilon.is_finite() {
            return Ok(ScaledGradients { epsilon });
        }
        let message = format!("ε must be positive and finite, found {epsilon}");
        Err(LoraError::Setting { setting: "scaled_epsilon", message })
    }

    /// (G + ε·I)⁻¹ for Gram matrices `[count, rank, rank]`; noise below 0 in their eigenvalues counts as 0.
    fn inverses(&self, grams: &Tensor) -> Result<Tensor> {
        let (values, vectors) = linalg::symmetric_eigen(grams)?;
        let (count, rank) = (grams.shape()[0], grams.shape()[1]);
        let inverse = values.relu()?.affine(1.0, self.epsilon)?.reciprocal()?.reshape(&[count, 1, rank])?;
        Ok(vectors.mul(&inverse)?.matmul(&vectors.t()?)?)
    }
}

impl GradientTransform for ScaledGradients {
    fn apply(&mut self, adapters: &mut AdapterSet, gradients: &mut Gradients, _: u64) -> Result<()> {
        let pairs = pairs::pairs(adapters);
        // One batch of decompositions for all pairs of a rank.
        let mut by_rank: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (index, ..) in pairs::gradients(&pairs, gradients) {
            by_rank.entry(pairs[index].rank).or_default().push(index);
        }
        for (rank, indices) in by_rank {
            let grams = grams(adapters, &pairs, &indices, rank)?;
            let inverses = self.inverses(&grams)?;
            let mut new = Vec::new();
            for (place, &index) in indices.iter().enumerate() {
                let inverse = |place: usize| inverses.slice(0, place, place + 1)?.reshape(&[rank, rank]);
                let (of_b, of_a) = (inverse(2 * place)?, inverse(2 * place + 1)?);
                if let (Some(a), Some(b)) = (gradients.get(&pairs[index].a), gradients.get(&pairs[index].b)) {
                    new.push((index, (of_b.matmul(a)?, b.matmul(&of_a)?)));
                }
            }
            pairs::replace(&pairs, gradients, new);
        }
        Ok(())
    }
}

/// Bᵀ·B and A·Aᵀ of each pair in turn, `[2·pairs, rank, rank]`.
fn grams(adapters: &AdapterSet, pairs: &[Adapter], indices: &[usize], rank: usize) -> Result<Tensor> {
    let mut grams = Vec::with_capacity(2 * indices.len());
    for factors in indices.iter().filter_map(|&index| adapters.factors(&pairs[index].module)) {
        for gram in [factors.b.t()?.matmul(factors.b)?, factors.a.matmul(&factors.a.t()?)?] {
            grams.push(gram.reshape(&[1, rank, rank])?);
        }
    }
    let parts: Vec<&Tensor> = grams.iter().collect();
    Ok(Tensor::concat(&parts, 0)?)
}
