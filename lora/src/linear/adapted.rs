//! The derivative of a linear layer with an adapter.

use autograd::{Var, record};
use tensor::{RandomKey, Result, Tensor};

use super::rows::Rows;
use super::{Linear, product};

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
    pub(super) fn with_factors(&self, x: &Var, a: &Var, b: &Var, bias: Option<&Var>, update: Update) -> Result<Var> {
        let rows = Rows::of_input(x, self.flatten(x)?, &self.weight)?;
        let Update { scaling, dropout, subtracted } = update;
        let h = Dropout::apply(dropout, &rows)?.matmul(&a.tensor().t()?)?;
        let mut output = product(&rows, &self.weight, bias.map(Var::tensor))?;
        output = output.matmul_accumulate(&h, &b.tensor().t()?, scaling)?;
        if let Some((a0, b0)) = &subtracted {
            output = output.matmul_accumulate(&rows.matmul(&a0.t()?)?, &b0.t()?, -scaling)?;
        }
        let output = output.reshape(&self.output_shape(x))?;
        let rule = AdaptedRule {
            x: rows,
            h,
            a: a.tensor().clone(),
            b: b.tensor().clone(),
            weight: self.weight.clone(),
            update: Update { scaling, dropout, subtracted },
            input_shape: x.shape().to_vec(),
            input_needs_gradient: x.requires_gradient(),
            bias_needs_gradient: bias.map(Var::requires_gradient),
        };
        let inputs: Vec<&Var> = [x, a, b].into_iter().chain(bias).collect();
        Ok(record("linear with adapter", &inputs, output, move |dy| rule.backward(dy)))
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
    x: Rows,
    h: Tensor,
    a: Tensor,
    b: Tensor,
    weight: Tensor,
    update: Update,
    input_shape: Vec<usize>,
    input_needs_gradient: bool,
    /// `None` without a bias.
    bias_needs_gradient: Option<bool>,
}

impl AdaptedRule {
    fn backward(self, dy: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let Update { scaling, dropout, .. } = self.update;
        let dy = dy.reshape(&[self.x.count(), self.weight.shape()[0]])?;
        let dbias = self.bias_needs_gradient.map(|wanted| wanted.then(|| dy.sum(&[0], false)).transpose());
        let dy = Rows::new(dy, &self.weight)?;
        let (left, right) = dy.beside(&self.h)?;
        let db = left.t()?.matmul_scaled(&right, scaling)?;
        drop(self.h);
        let g = dy.matmul(&self.b)?;
        let (left, right) = Dropout::apply(dropout, &self.x)?.beside(&g)?;
        let da = right.t()?.matmul_scaled(&left, scaling)?;
        drop((self.x, left));
        let dx = if self.input_needs_gradient {
            let mut dx = dy.matmul(&self.weight)?;
            if let Some((a0, b0)) = &self.update.subtracted {
                dx = dx.matmul_accumulate(&dy.matmul(b0)?, a0, -scaling)?;
            }
            dx = match dropout {
                None => dx.matmul_accumulate(&g, &self.a, scaling)?,
                Some(dropout) => dx.add(&dropout.of(&g.matmul_scaled(&self.a, scaling)?)?)?,
            };
            Some(dx.reshape(&self.input_shape)?)
        } else {
            None
        };
        [dx, Some(da), Some(db)].into_iter().map(Ok).chain(dbias).collect()
    }
}
