//! Disentangled attention in mixed precision: operands in 16 bits, each head of a sequence with one power of two, products of
//! these on tensor cores, sums and softmax in f32.
//!
//! What is lost against f32 is the rounding of q, k, v, pk, pq and dy, 2⁻¹¹ of an element or 2⁻²⁵ of its head's largest, and
//! of the probabilities and the scores' gradient, which are operands of products as well. No power of two of a model or a
//! gradient can overflow: rounded operands are below 2, so that inner products with positions are below 4·head_dim and a
//! score's gradient, with p at most 1, below 2·4·head_dim, which [`kernels::slope`] brings into the range of f16.
//!
//! On a GPU, where the extents suit ([`MixedDisentangledAttention::suits`]), [`kernels`] do it; elsewhere it is composed of
//! the operations in f32, of the rounded operands, with the same meaning.

mod kernels;
mod launch;
#[cfg(test)]
mod tests;

use super::problem::Problem;
use super::{DisentangledAttention, DisentangledOutput, PerOperand, back, by_head};
use crate::device::Backend;
use crate::dtype::DType;
use crate::error::Result;
use crate::tensor::Tensor;
use kernels::Kept;

/// Extents of sequences, and of rows of probabilities, must be multiples of this many elements: what a kernel reads at once.
const STEP: usize = 32;

/// Widths of heads must be multiples of this many elements: columns of the narrowest tile.
const HEAD_STEP: usize = 64;

/// The result of disentangled attention in mixed precision, and what its gradients need.
#[derive(Clone, Debug)]
pub struct MixedDisentangledAttention {
    output: Tensor,
    saved: Saved,
}

#[derive(Clone, Debug)]
enum Saved {
    /// Of rounded operands.
    Composed {
        attention: Box<DisentangledAttention>,
        probabilities: Tensor,
    },
    OfKernels(Box<Kept>),
}

impl MixedDisentangledAttention {
    /// Whether there are kernels for operands of these extents; with others this operation saves nothing. `buckets` are the rows
    /// of the position operands, which must both be there.
    pub fn suits([batch, sequence, heads, head_dim]: [usize; 4], buckets: usize) -> bool {
        (2 * STEP..=kernels::LONGEST_ROW).contains(&sequence)
            && [sequence, buckets].iter().all(|extent| extent.is_multiple_of(STEP))
            && head_dim.is_multiple_of(HEAD_STEP)
            && (1..=kernels::MOST_MATRICES).contains(&(batch * heads * head_dim))
    }

    /// As [`DisentangledAttention::forward`], of rounded operands.
    ///
    /// # Errors
    /// As [`DisentangledAttention::forward`].
    pub fn new(attention: &DisentangledAttention) -> Result<Self> {
        let problem = Problem::new("mixed_disentangled_attention", attention)?;
        let Problem { batch, sequence, heads, head_dim, .. } = problem;
        if let Backend::Gpu(gpu) = attention.query.device().backend()
            && Self::suits([batch, sequence, heads, head_dim], attention.buckets.count)
            && let (Some(position_key), Some(position_query)) = (&attention.position_key, &attention.position_query)
        {
            let (kept, output) = kernels::forward(gpu, &problem, [position_key, position_query])?;
            return Ok(MixedDisentangledAttention { output, saved: Saved::OfKernels(Box::new(kept)) });
        }
        let position = |x: &Option<Tensor>| x.as_ref().map(rounded_positions).transpose();
        let attention = DisentangledAttention {
            query: rounded(&attention.query)?,
            key: rounded(&attention.key)?,
            value: rounded(&attention.value)?,
            position_key: position(&attention.position_key)?,
            position_query: position(&attention.position_query)?,
            ..attention.clone()
        };
        let DisentangledOutput { output, probabilities } = attention.forward()?;
        Ok(MixedDisentangledAttention {
            output,
            saved: Saved::Composed { attention: Box::new(attention), probabilities },
        })
    }

    /// `[batch, sequence, heads, head_dim]`, f32, contiguous.
    pub fn output(&self) -> &Tensor {
        &self.output
    }

    /// The gradients that are `wanted`, see [`DisentangledAttention::backward`], given the gradient of the output, which is
    /// rounded like the operands.
    ///
    /// # Errors
    /// As [`DisentangledAttention::backward`].
    pub fn backward(&self, upstream: &Tensor, wanted: PerOperand<bool>) -> Result<PerOperand<Option<Tensor>>> {
        const NAME: &str = "mixed_disentangled_attention_backward";
        upstream.expect_dtype(NAME, DType::F32)?;
        upstream.expect_same_device(NAME, &self.output)?;
        upstream.expect_shape(NAME, self.output.shape())?;
        match (&self.saved, upstream.device().backend()) {
            (Saved::OfKernels(kept), Backend::Gpu(gpu)) => kernels::backward(gpu, kept, upstream, wanted),
            (Saved::OfKernels(_), Backend::Cpu) => unreachable!("kernels kept tensors of a GPU"),
            (Saved::Composed { attention, probabilities }, _) => {
                attention.backward(probabilities, &rounded(upstream)?, wanted)
            }
        }
    }
}

/// `[batch, sequence, heads, head_dim]` rounded head by head, in f32 again.
fn rounded(x: &Tensor) -> Result<Tensor> {
    back(&rounded_blocks(&by_head(x)?, 2)?)
}

/// `[buckets, heads, head_dim]` rounded head by head, in f32 again.
fn rounded_positions(x: &Tensor) -> Result<Tensor> {
    rounded_blocks(&x.permute(&[1, 0, 2])?, 1)?.permute(&[1, 0, 2])
}

/// Rounds to f16 what lies behind the first `axes`, each block divided by the power of two of its largest magnitude; in f32
/// again.
fn rounded_blocks(x: &Tensor, axes: usize) -> Result<Tensor> {
    let [blocks, each] = [&x.shape()[..axes], &x.shape()[axes..]].map(|extents| extents.iter().product());
    x.reshape(&[blocks, each])?.row_scaled()?.restored()?.reshape(x.shape())
}
