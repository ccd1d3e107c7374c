//! A linear layer with an adapter in training with mixed precision: all operands of its products have 16 bits.

use autograd::{Gradient, KeptRows, Operand, Totals, Var, record_accumulating};
use tensor::{
    Addends, FactorGradient, LowRankTerm, Projection, Result, RoundedFactor, Shape, Tensor, factor_gradients,
    projections,
};

use super::rows::bias_gradient;
use super::{Linear, product_onto};

impl Linear {
    /// `y = x·Wᵀ + bias + s·(x·Aᵀ)·Bᵀ` as one recorded operation, with an f16 weight. Besides x and dy, as in every layer in
    /// mixed precision, the factors are rounded to 16 bits, and so are their products with x and dy; sums and all results are
    /// f32. `rounded_a` and `rounded_b` are the values of `a` and `b`. See [`MixedRule`].
    pub(super) fn with_rounded_factors(
        &self,
        x: &Operand,
        [a, b]: [&Var; 2],
        [rounded_a, rounded_b]: [RoundedFactor; 2],
        bias: Option<&Var>,
        scaling: f32,
    ) -> Result<Var> {
        let rows = x.row_scaled()?;
        let h = only(projections(&[(&rows, &rounded_a)])?);
        let term = LowRankTerm { projection: &h, factor: &rounded_b, alpha: scaling };
        let addends = Addends { low_rank: Some(term), bias: bias.map(Var::tensor), onto: None };
        let output = rows.matmul_plus(&self.weight.t()?, addends)?.reshape(&self.output_shape(x))?;
        let rule = MixedRule {
            x: x.kept()?,
            h,
            a: rounded_a,
            b: rounded_b,
            weight: self.weight.clone(),
            scaling,
            input_shape: *x.shape(),
            input_needs_gradient: x.requires_gradient(),
            bias_needs_gradient: bias.is_some_and(Var::requires_gradient),
        };
        let inputs: Vec<Operand> = [x.clone(), a.into(), b.into()].into_iter().chain(bias.map(Operand::from)).collect();
        Ok(record_accumulating("linear with adapter", &inputs, output, move |dy, totals| rule.backward(dy, totals)))
    }
}

/// The projection that comes of one product.
fn only(mut projections: Vec<Projection>) -> Projection {
    // Proof: each product gives one.
    projections.pop().expect("a projection")
}

/// The derivative with `h = x·Aᵀ` and `g = dy·B`:
///
/// - `dB = s·dyᵀ·h`
/// - `dA = s·gᵀ·x`
/// - `dx = dy·W + s·g·A`
/// - the bias's gradient is the sum of dy's rows
struct MixedRule {
    x: KeptRows,
    h: Projection,
    a: RoundedFactor,
    b: RoundedFactor,
    weight: Tensor,
    scaling: f32,
    input_shape: Shape,
    input_needs_gradient: bool,
    bias_needs_gradient: bool,
}

impl MixedRule {
    /// The inputs are x, A, B and the bias.
    fn backward(self, dy: Gradient, totals: &mut Totals) -> Result<()> {
        if self.bias_needs_gradient {
            totals.add(3, bias_gradient(&dy)?)?;
        }
        let dy = dy.row_scaled()?;
        let (x, g) = (self.x.rows()?, only(projections(&[(&dy, &self.b)])?));
        let of_a = FactorGradient { matrix: &x, projection: &g, like: &self.a, alpha: self.scaling };
        let of_b = FactorGradient { matrix: &dy, projection: &self.h, like: &self.b, alpha: self.scaling };
        for (input, gradient) in (1..).zip(factor_gradients(&[of_a, of_b])?) {
            totals.add(input, gradient)?;
        }
        drop((x, self.h));
        if self.input_needs_gradient {
            let low_rank = Some(LowRankTerm { projection: &g, factor: &self.a, alpha: self.scaling });
            totals.update(0, |total| {
                product_onto(total, &self.input_shape, |onto| {
                    dy.matmul_plus(&self.weight, Addends { low_rank, bias: None, onto })
                })
            })?;
        }
        Ok(())
    }
}
