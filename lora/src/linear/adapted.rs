//! The derivative of a linear layer with an adapter.

use autograd::{Gradient, Operand, Totals, Var, record_accumulating};
use tensor::{RandomKey, Result, Shape, Tensor};

use super::rows::{KeptInput, Rows, bias_gradient};
use super::{Linear, product_onto};

/// What an adapter does to a layer besides its factors.
#[derive(Clone, Default)]
pub(super) struct Update {
    /// The factor s of s·B·A.
    pub scaling: f32,
    pub dropout: Option<Dropout>,
    /// Frozen factors A₀ and B₀ whose product s·B₀·A₀ is taken out of the weight.
    pub subtracted: Option<(Tensor, Tensor)>,
}

/// One place's dropout in one pass.
#[derive(Clone, Copy)]
pub(super) struct Dropout {
    pub probability: f32,
    pub key: RandomKey,
}

impl Dropout {
    pub fn apply(dropout: Option<Self>, x: &Rows) -> Result<Rows> {
        match dropout {
            Some(dropout) => Ok(Rows::Exact(dropout.of(&x.restored()?)?)),
            None => Ok(x.clone()),
        }
    }

    fn of(self, x: &Tensor) -> Result<Tensor> {
        x.dropout(self.probability, self.key)
    }
}

impl Linear {
    /// The layer with its adapter as one recorded operation; see [`AdaptedRule`].
    pub(super) fn with_factors(
        &self,
        x: &Operand,
        a: &Var,
        b: &Var,
        bias: Option<&Var>,
        update: Update,
    ) -> Result<Var> {
        let rows = Rows::of_input(x, &self.weight)?;
        let Update { scaling, dropout, subtracted } = update;
        let h = Dropout::apply(dropout, &rows)?.matmul(&a.tensor().t()?)?;
        let mut output = rows.product(&self.weight, bias.map(Var::tensor))?;
        output = output.matmul_accumulate(&h, &b.tensor().t()?, scaling)?;
        if let Some((a0, b0)) = &subtracted {
            output = output.matmul_accumulate(&rows.matmul(&a0.t()?)?, &b0.t()?, -scaling)?;
        }
        let output = output.reshape(&self.output_shape(x))?;
        let rule = AdaptedRule {
            x: KeptInput::new(x, &rows)?,
            h,
            a: a.tensor().clone(),
            b: b.tensor().clone(),
            weight: self.weight.clone(),
            update: Update { scaling, dropout, subtracted },
            input_shape: *x.shape(),
            input_needs_gradient: x.requires_gradient(),
            bias_needs_gradient: bias.is_some_and(Var::requires_gradient),
        };
        let inputs: Vec<Operand> = [x.clone(), a.into(), b.into()].into_iter().chain(bias.map(Operand::from)).collect();
        Ok(record_accumulating("linear with adapter", &inputs, output, move |dy, totals| rule.backward(dy, totals)))
    }
}

/// The derivative of `y = x·Wᵀ + bias + s·h·Bᵀ − s·(x·A₀ᵀ)·B₀ᵀ` with `h = D(x)·Aᵀ`, D being dropout (which is its own
/// adjoint). The last term is there only where an initial product is subtracted: it belongs to the weight, so nothing of it
/// is dropped.
///
/// - `g = dy·B`, of shape `[rows, rank]`
/// - `dB = s·dyᵀ·h`
/// - `dA = s·gᵀ·D(x)`
/// - `dx = dy·W + s·D(g·A) − s·(dy·B₀)·A₀`
/// - the bias's gradient is the sum of dy's rows
///
/// x is shared with the layer's siblings and D(x) is computed again, so that dropout costs no memory. W + s·B·A is never
/// formed.
struct AdaptedRule {
    x: KeptInput,
    h: Tensor,
    a: Tensor,
    b: Tensor,
    weight: Tensor,
    update: Update,
    input_shape: Shape,
    input_needs_gradient: bool,
    bias_needs_gradient: bool,
}

impl AdaptedRule {
    /// The inputs are x, A, B and the bias.
    fn backward(self, dy: Gradient, totals: &mut Totals) -> Result<()> {
        let Update { scaling, dropout, .. } = self.update;
        if self.bias_needs_gradient {
            totals.add(3, bias_gradient(&dy)?)?;
        }
        let dy = Rows::of_gradient(dy, &self.weight)?;
        let (left, right) = dy.beside(&self.h)?;
        totals.add(2, left.t()?.matmul_scaled(&right, scaling)?)?;
        drop(self.h);
        let g = dy.matmul(&self.b)?;
        let (left, right) = Dropout::apply(dropout, &self.x.into_rows()?)?.beside(&g)?;
        totals.add(1, right.t()?.matmul_scaled(&left, scaling)?)?;
        drop(left);
        if self.input_needs_gradient {
            totals.update(0, |total| {
                product_onto(total, &self.input_shape, |onto| {
                    let mut dx = dy.matmul_onto(&self.weight, onto)?;
                    if let Some((a0, b0)) = &self.update.subtracted {
                        dx = dx.matmul_accumulate(&dy.matmul(b0)?, a0, -scaling)?;
                    }
                    match dropout {
                        None => dx.matmul_accumulate(&g, &self.a, scaling),
                        Some(dropout) => dx.add(&dropout.of(&g.matmul_scaled(&self.a, scaling)?)?),
                    }
                })
            })?;
        }
        Ok(())
    }
}
