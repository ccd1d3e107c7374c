//! Disentangled attention, in which a query and a key meet by content and by relative position (He, Liu, Gao, Chen:
//! DeBERTa, decoding-enhanced BERT with disentangled attention; 2021, in the form of DeBERTa-v2 and v3), forward and
//! backward.
//!
//! The inner products are matrix products; this module's own kernels turn them into probabilities, turn the
//! probabilities' gradient into the scores', and sum that gradient by bucket. The probabilities
//! `[heads, batch, sequence, sequence]` are kept for the backward pass. Inside, heads come first, so that the products
//! with the position operands, which all batch elements share, are one large product for each head.

mod buckets;
mod cpu;
mod gpu;
mod mixed;
mod problem;
#[cfg(test)]
mod tests;

use crate::device::Backend;
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::random::RandomKey;
use crate::tensor::Tensor;

pub use buckets::RelativeBuckets;
pub use mixed::MixedDisentangledAttention;
use problem::Problem;

/// One problem of disentangled attention. All operands are f32 and may be views.
#[derive(Clone, Debug)]
pub struct DisentangledAttention {
    /// q, `[batch, sequence, heads, head_dim]`.
    pub query: Tensor,
    /// k, of q's shape.
    pub key: Tensor,
    /// v, of q's shape.
    pub value: Tensor,
    /// Keys of the relative positions, pk `[buckets, heads, head_dim]`; without them there is no term content to position.
    pub position_key: Option<Tensor>,
    /// Queries of the relative positions, pq, of pk's shape; without them there is no term position to content.
    pub position_query: Option<Tensor>,
    /// Which rows of pk and pq a pair of positions takes.
    pub buckets: RelativeBuckets,
    /// u32 `[batch, sequence]`, 0 for padding; `None` when every position is a token.
    pub key_mask: Option<Tensor>,
    /// Factor of the scores; usually `1 / √(head_dim · (1 + number of position terms))`.
    pub scale: f32,
    /// Probability below 1 with which a probability is dropped, and the key of the mask.
    pub dropout: Option<(f32, RandomKey)>,
}

/// The result of [`DisentangledAttention::forward`] and what the backward pass needs of it.
#[derive(Clone, Debug)]
pub struct DisentangledOutput {
    /// `[batch, sequence, heads, head_dim]`, contiguous.
    pub output: Tensor,
    /// Before dropout, `[heads, batch, sequence, sequence]`.
    pub probabilities: Tensor,
}

/// Something for each differentiable operand of [`DisentangledAttention`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PerOperand<T> {
    /// For q.
    pub query: T,
    /// For k.
    pub key: T,
    /// For v.
    pub value: T,
    /// For pk.
    pub position_key: T,
    /// For pq.
    pub position_query: T,
}

impl DisentangledAttention {
    /// With `p` the bucket of `i − j`:
    ///
    /// `score[i, j] = scale · (q[i]·k[j] + q[i]·pk[p] + k[j]·pq[p])`, `output[i] = Σⱼ D(softmaxⱼ(score[i, j])) · v[j]`,
    ///
    /// where D is inverted dropout. Padding is neither seen nor does it see: its rows of the output are 0. Operands must
    /// be finite even at padding. The mask of D depends on the key and the place `(head, batch element, i, j)` only.
    ///
    /// # Errors
    /// [`crate::TensorError::Shape`], [`crate::TensorError::DType`], [`crate::TensorError::DeviceMismatch`],
    /// [`crate::TensorError::InvalidArgument`] for a scale that is not finite or a dropout probability outside `[0, 1)`, or
    /// the device's own errors.
    pub fn forward(&self) -> Result<DisentangledOutput> {
        let problem = Problem::new("disentangled_attention", self)?;
        let device = self.query.device();
        if problem.is_empty() {
            return Ok(DisentangledOutput {
                output: Tensor::zeros(device, self.query.shape(), DType::F32)?,
                probabilities: Tensor::zeros(device, &problem.probabilities_shape(), DType::F32)?,
            });
        }
        let [query, key, value] = [&self.query, &self.key, &self.value].map(by_head);
        let (query, key, value) = (query?, key?, value?);
        let scores = query.matmul(&key.t()?)?;
        let content_to_position = self.position_key.as_ref().map(|pk| problem.meet(&query, pk)).transpose()?;
        let position_to_content = self.position_query.as_ref().map(|pq| problem.meet(&key, pq)).transpose()?;
        let terms = [content_to_position.as_ref(), position_to_content.as_ref()];
        let (probabilities, kept) = match device.backend() {
            Backend::Cpu => cpu::probabilities(&problem, scores, terms)?,
            Backend::Gpu(gpu) => gpu::probabilities(gpu, &problem, scores, terms)?,
        };
        let output = kept.matmul(&value)?.permute(&[1, 2, 0, 3])?.contiguous()?;
        Ok(DisentangledOutput { output, probabilities })
    }

    /// The gradients that are `wanted`, given the forward pass's `probabilities` P and the gradient `upstream`, dy, of its
    /// output. With `dD = dy·vᵀ`, masked and scaled as D was, and `dS = scale · P∘(dD − rowsum(P∘dD))`:
    ///
    /// `dq = dS·k + dC·pk`, `dk = dSᵀ·q + dR·pq`, `dv = D(P)ᵀ·dy`, `dpk = dCᵀ·q`, `dpq = dRᵀ·k`,
    ///
    /// where `dC[i, p]` sums `dS[i, j]` over the keys of bucket p and `dR[j, p]` over the queries. The same bits every
    /// time. An operand that is absent gets no gradient.
    ///
    /// # Errors
    /// As [`DisentangledAttention::forward`].
    pub fn backward(
        &self,
        probabilities: &Tensor,
        upstream: &Tensor,
        wanted: PerOperand<bool>,
    ) -> Result<PerOperand<Option<Tensor>>> {
        const NAME: &str = "disentangled_attention_backward";
        let problem = Problem::new(NAME, self)?;
        problem.check_backward(NAME, probabilities, upstream)?;
        if problem.is_empty() {
            return self.zero_gradients(wanted);
        }
        let [query, key, value, upstream] = [&self.query, &self.key, &self.value, upstream].map(by_head);
        let (query, key, value, upstream) = (query?, key?, value?, upstream?);
        let (probabilities, dkept) = (probabilities.contiguous()?, upstream.matmul(&value.t()?)?);
        let backend = self.query.device().backend();
        let (dscores, kept) = match backend {
            Backend::Cpu => cpu::score_gradient(&problem, &probabilities, dkept)?,
            Backend::Gpu(gpu) => gpu::score_gradient(gpu, &problem, &probabilities, dkept)?,
        };
        let dvalue = wanted.value.then(|| back(&kept.t()?.matmul(&upstream)?)).transpose()?;
        drop(kept);
        let (for_query, for_key) = (wanted.query || wanted.position_key, wanted.key || wanted.position_query);
        let directions = [for_query && self.position_key.is_some(), for_key && self.position_query.is_some()];
        let [by_query, by_key] = match backend {
            _ if directions == [false, false] => [None, None],
            Backend::Cpu => cpu::bucket_sums(&problem, &dscores, directions)?,
            Backend::Gpu(gpu) => gpu::bucket_sums(gpu, &problem, &dscores, directions)?,
        };
        let of_query = problem.side(&dscores, &by_query, self.position_key.as_ref());
        let of_key = problem.side(&dscores, &by_key, self.position_query.as_ref());
        Ok(PerOperand {
            query: wanted.query.then(|| of_query.content_gradient(false, &key)).transpose()?,
            key: wanted.key.then(|| of_key.content_gradient(true, &query)).transpose()?,
            value: dvalue,
            position_key: of_query.position_gradient(wanted.position_key, &query)?,
            position_query: of_key.position_gradient(wanted.position_query, &key)?,
        })
    }

    fn zero_gradients(&self, wanted: PerOperand<bool>) -> Result<PerOperand<Option<Tensor>>> {
        let zeros = |wanted: bool, operand: Option<&Tensor>| {
            operand.filter(|_| wanted).map(|x| Tensor::zeros(x.device(), x.shape(), DType::F32)).transpose()
        };
        Ok(PerOperand {
            query: zeros(wanted.query, Some(&self.query))?,
            key: zeros(wanted.key, Some(&self.key))?,
            value: zeros(wanted.value, Some(&self.value))?,
            position_key: zeros(wanted.position_key, self.position_key.as_ref())?,
            position_query: zeros(wanted.position_query, self.position_query.as_ref())?,
        })
    }
}

/// `[batch, sequence, heads, head_dim]` seen as `[heads, batch, sequence, head_dim]`.
fn by_head(x: &Tensor) -> Result<Tensor> {
    x.permute(&[2, 0, 1, 3])
}

/// The way back of [`by_head`].
fn back(x: &Tensor) -> Result<Tensor> {
    x.permute(&[1, 2, 0, 3])
}
