//! Weight-decomposed adaptation (DoRA, Liu et al., 2024, arXiv 2402.09353) of a linear layer.

use autograd::{Operand, Var};
use tensor::{DType, Result, Tensor};

use super::Linear;
use super::adapted::{Dropout, Update};

impl Linear {
    /// `y = x·Wᵀ + bias + c ⊙ v − u` with `u = D(x)·Wᵀ`, `v = u + s·D(x)·Aᵀ·Bᵀ`, `c = m / ‖W + s·B·A‖`, the norm taken of
    /// each row and, as section 4.3 of the paper proposes and PEFT does, constant for the gradient. Without dropout u is
    /// x·Wᵀ, and `y = c ⊙ v + bias`.
    ///
    /// Composed of recorded operations. The sum W + s·B·A is formed once, for the norm.
    pub(super) fn decomposed(
        &self,
        x: &Operand,
        [a, b, magnitude]: [&Var; 3],
        bias: Option<&Var>,
        update: Update,
    ) -> Result<Var> {
        let norms = row_norms(&self.weight, a.tensor(), b.tensor(), update.scaling)?;
        let ratio = magnitude.div(&Var::constant(norms))?;
        let inner = Update { dropout: None, ..update.clone() };
        let Some(Dropout { probability, key }) = update.dropout else {
            let y = self.with_factors(x, a, b, None, inner)?.mul(&ratio)?;
            return match bias {
                Some(bias) => y.add(bias),
                None => Ok(y),
            };
        };
        let frozen = Var::constant(self.weight.clone());
        let dropped = Operand::from(x.to_var()?.dropout(probability, key)?);
        let y = self.with_factors(&dropped, a, b, None, inner)?.mul(&ratio)?;
        y.sub(&self.plain(&dropped, &frozen, None)?)?.add(&self.plain(x, &frozen, bias)?)
    }
}

/// The length of each row of W + s·B·A, f32 `[outputs]`.
pub(crate) fn row_norms(weight: &Tensor, a: &Tensor, b: &Tensor, scaling: f32) -> Result<Tensor> {
    weight.cast(DType::F32)?.matmul_accumulate(b, a, scaling)?.square()?.sum(&[1], false)?.sqrt()
}
