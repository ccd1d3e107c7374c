//! The layer normalisation of a sum: `layer_norm(x + D(y))` with dropout D, as blocks end that normalise after their residual.
//! For mixed precision: what its readers multiply comes rounded besides, and so does y's gradient.
//!
//! One pass over memory each way, in place of four. Rows that do not suit the kernels, and all on the CPU, are computed by the
//! operations that this one stands for.

mod gpu;
#[cfg(test)]
mod tests;

use super::norm::layer_norm_backward;
use crate::device::Backend;
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::RowScaled;
use crate::ops::random::RandomKey;
use crate::shape::Shape;
use crate::tensor::Tensor;

/// A residual's sum and its layer normalisation.
#[derive(Clone, Debug)]
pub struct ResidualNorm {
    /// `x + D(y)`, f32.
    pub sum: Tensor,
    /// The norm, f32.
    pub normed: Tensor,
    /// The norm as rows along the last axis, rounded as by [`Tensor::row_scaled`].
    pub rounded: RowScaled,
}

/// Probability of dropout, below 1, and the key of its mask; see [`Tensor::dropout`].
pub type Dropout = Option<(f32, RandomKey)>;

impl ResidualNorm {
    /// Of `x` and `y`, f32 of one shape `[.., hidden]`; weight and bias `[hidden]`, see [`Tensor::layer_norm`].
    ///
    /// # Errors
    /// As [`Tensor::layer_norm`] and [`Tensor::dropout`].
    pub fn new(
        [x, y]: [&Tensor; 2],
        dropout: Dropout,
        [weight, bias]: [&Tensor; 2],
        epsilon: f32,
    ) -> Result<ResidualNorm> {
        const NAME: &str = "residual_norm";
        for operand in [x, y, weight, bias] {
            operand.expect_dtype(NAME, DType::F32)?;
            operand.expect_same_device(NAME, x)?;
        }
        y.expect_shape(NAME, x.shape())?;
        let hidden = x.shape().last().copied().unwrap_or(1);
        weight.expect_shape(NAME, &[hidden])?;
        bias.expect_shape(NAME, &[hidden])?;
        let operands = [x.contiguous()?, y.contiguous()?, weight.contiguous()?, bias.contiguous()?];
        if let Backend::Gpu(gpu) = x.device().backend()
            && gpu::suits(&operands, dropout)
        {
            return gpu::forward(gpu, &operands, dropout, epsilon);
        }
        let sum = x.add(&dropped(y, dropout)?)?;
        let normed = sum.layer_norm(weight, bias, epsilon)?;
        let rounded = normed.as_rows()?.row_scaled()?;
        Ok(ResidualNorm { sum, normed, rounded })
    }

    /// The gradient with respect to x, see [`layer_norm_backward`], and that with respect to y, rounded as rows along its last
    /// axis, given that of the norm.
    ///
    /// # Errors
    /// As [`layer_norm_backward`].
    pub fn backward(
        sum: &Tensor,
        weight: &Tensor,
        epsilon: f32,
        dropout: Dropout,
        upstream: &Tensor,
    ) -> Result<(Tensor, RowScaled)> {
        const NAME: &str = "residual_norm_backward";
        for operand in [sum, weight, upstream] {
            operand.expect_dtype(NAME, DType::F32)?;
            operand.expect_same_device(NAME, sum)?;
        }
        upstream.expect_shape(NAME, sum.shape())?;
        weight.expect_shape(NAME, &[sum.shape().last().copied().unwrap_or(1)])?;
        let operands = [sum.contiguous()?, upstream.contiguous()?, weight.contiguous()?];
        if let Backend::Gpu(gpu) = sum.device().backend()
            && gpu::suits(&operands, dropout)
        {
            return gpu::backward(gpu, &operands, dropout, epsilon);
        }
        let dx = layer_norm_backward(sum, weight, epsilon, upstream, None)?;
        let dy = dropped(&dx, dropout)?.as_rows()?.row_scaled()?;
        Ok((dx, dy))
    }
}

fn dropped(x: &Tensor, dropout: Dropout) -> Result<Tensor> {
    match dropout {
        Some((probability, key)) => x.dropout(probability, key),
        None => Ok(x.clone()),
    }
}

/// Rows and columns of a tensor's rows along its last axis.
fn rows_of(x: &Tensor) -> [usize; 2] {
    let columns = x.shape().last().copied().unwrap_or(1);
    [x.elements() / columns.max(1), columns]
}

fn uninitialised(like: &Tensor, shape: &Shape, dtype: DType) -> Result<Tensor> {
    Tensor::uninitialised(like.device(), "residual_norm", *shape, dtype)
}
