//! The checked problem, and the products with the position operands.

use super::{DisentangledAttention, back};
use crate::dtype::DType;
use crate::error::{Result, TensorError};
use crate::ops::dropout::Rule;
use crate::ops::random::RandomKey;
use crate::tensor::Tensor;

/// Checked operands and their extents.
pub(super) struct Problem<'a> {
    pub batch: usize,
    pub sequence: usize,
    pub heads: usize,
    pub head_dim: usize,
    pub operands: &'a DisentangledAttention,
    /// Contiguous.
    pub key_mask: Option<Tensor>,
    pub dropout: Option<(Rule, RandomKey)>,
}

impl<'a> Problem<'a> {
    pub fn new(name: &'static str, operands: &'a DisentangledAttention) -> Result<Self> {
        let DisentangledAttention { query, key, value, position_key, position_query, buckets, .. } = operands;
        let &[batch, sequence, heads, head_dim] = &query.shape()[..] else {
            let expected = "q as [batch, sequence, heads, head_dim]".into();
            return Err(TensorError::Shape { operation: name, expected, found: *query.shape() });
        };
        for tensor in [Some(query), Some(key), Some(value), position_key.as_ref(), position_query.as_ref()] {
            let Some(tensor) = tensor else { continue };
            tensor.expect_dtype(name, DType::F32)?;
            tensor.expect_same_device(name, query)?;
        }
        key.expect_shape(name, query.shape())?;
        value.expect_shape(name, query.shape())?;
        for position in [position_key, position_query].into_iter().flatten() {
            position.expect_shape(name, &[buckets.count, heads, head_dim])?;
        }
        let wrong = |message: String| Err(TensorError::InvalidArgument { operation: name, message });
        if buckets.sequence != sequence && query.elements() > 0 {
            return wrong(format!(
                "the table of buckets is for sequences of {}, the operands have {sequence}",
                buckets.sequence
            ));
        }
        buckets.table.expect_same_device(name, query)?;
        if let Some(mask) = &operands.key_mask {
            mask.expect_dtype(name, DType::U32)?;
            mask.expect_same_device(name, query)?;
            mask.expect_shape(name, &[batch, sequence])?;
        }
        if !operands.scale.is_finite() {
            return wrong(format!("the scale is {}; a finite number is needed", operands.scale));
        }
        let largest = sequence.max(buckets.count).max(4).saturating_mul(2 * heads * batch * sequence);
        if u32::try_from(largest).is_err() {
            return wrong(format!(
                "{batch} sequences of {sequence} with {heads} heads have too many scores: batch fewer"
            ));
        }
        let dropout = operands.dropout.filter(|(probability, _)| *probability != 0.0);
        let dropout = dropout.map(|(probability, key)| Ok((Rule::new(name, probability)?, key))).transpose()?;
        let key_mask = operands.key_mask.as_ref().map(Tensor::contiguous).transpose()?;
        Ok(Problem { batch, sequence, heads, head_dim, operands, key_mask, dropout })
    }

    pub fn check_backward(&self, name: &'static str, probabilities: &Tensor, upstream: &Tensor) -> Result<()> {
        for tensor in [probabilities, upstream] {
            tensor.expect_dtype(name, DType::F32)?;
            tensor.expect_same_device(name, &self.operands.query)?;
        }
        upstream.expect_shape(name, self.operands.query.shape())?;
        probabilities.expect_shape(name, &self.probabilities_shape())
    }

    pub fn probabilities_shape(&self) -> [usize; 4] {
        [self.heads, self.batch, self.sequence, self.sequence]
    }

    /// True when there is nothing to compute.
    pub fn is_empty(&self) -> bool {
        self.operands.query.elements() == 0
    }

    /// Rows of scores: one for each head, batch element and query.
    pub fn rows(&self) -> usize {
        self.heads * self.batch * self.sequence
    }

    /// Inner products of every row of `content` `[heads, batch, sequence, head_dim]` with every row of `position`:
    /// `[heads, batch·sequence, buckets]`.
    pub fn meet(&self, content: &Tensor, position: &Tensor) -> Result<Tensor> {
        self.flat(content)?.matmul(&position.permute(&[1, 2, 0])?)
    }

    /// `[heads, batch, sequence, head_dim]` as `[heads, batch·sequence, head_dim]`.
    fn flat(&self, x: &Tensor) -> Result<Tensor> {
        x.reshape(&[self.heads, self.batch * self.sequence, self.head_dim])
    }

    /// One side's share of the backward pass.
    pub fn side<'s>(&'s self, dscores: &'s Tensor, sums: &'s Option<Tensor>, position: Option<&'s Tensor>) -> Side<'s> {
        Side { problem: self, dscores, sums: sums.as_ref(), position }
    }
}

/// The queries with pk, or the keys with pq: what their gradients are made of.
pub(super) struct Side<'a> {
    problem: &'a Problem<'a>,
    /// `[heads, batch, sequence, sequence]`.
    dscores: &'a Tensor,
    /// The scores' gradient summed by bucket, `[heads, batch·sequence, buckets]`, where it is needed.
    sums: Option<&'a Tensor>,
    /// pk or pq.
    position: Option<&'a Tensor>,
}

impl Side<'_> {
    /// dS·other (or dSᵀ·other) + sums·position, for the q or k that meets `other` by content.
    pub fn content_gradient(&self, transposed: bool, other: &Tensor) -> Result<Tensor> {
        let problem = self.problem;
        let dscores = if transposed { self.dscores.t()? } else { self.dscores.clone() };
        let mut gradient = dscores.matmul(other)?;
        if let (Some(sums), Some(position)) = (self.sums, self.position) {
            let flat = problem.flat(&gradient)?;
            // The last holder but one: the sum can be formed in place.
            drop(gradient);
            let flat = flat.matmul_accumulate(sums, &position.permute(&[1, 0, 2])?, 1.0)?;
            gradient = flat.reshape(&[problem.heads, problem.batch, problem.sequence, problem.head_dim])?;
        }
        back(&gradient)
    }

    /// sumsᵀ·content, `[buckets, heads, head_dim]`.
    pub fn position_gradient(&self, wanted: bool, content: &Tensor) -> Result<Option<Tensor>> {
        let Some(sums) = self.sums.filter(|_| wanted) else { return Ok(None) };
        let gradient = sums.t()?.matmul(&self.problem.flat(content)?)?;
        Ok(Some(gradient.permute(&[1, 0, 2])?))
    }
}
