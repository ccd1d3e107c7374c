//! Scaled dot-product attention with an online softmax, forward and backward. The scores `[batch, heads, queries,
//! keys]` never exist as a tensor: both directions work on tiles of them, and backward computes the tiles again from
//! the saved logarithms of the sums of exponentials.

mod cpu;
mod generate;
mod gpu;
#[cfg(test)]
mod tests;

use crate::device::Backend;
use crate::dtype::DType;
use crate::error::{Result, TensorError};
use crate::shape::Shape;
use crate::tensor::Tensor;

/// The largest `head_dim`: what the kernels keep in registers.
const MAX_HEAD_DIM: usize = 256;

/// What decides which keys a query sees, and the scale of the scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionConfig {
    /// Query `i` sees only keys `j ≤ i + query_offset`.
    pub causal: bool,
    /// Factor of the inner products; usually `1 / √head_dim`.
    pub scale: f32,
    /// Position of query 0 among the keys: the number of keys that a key/value cache held before. Without `causal`
    /// it has no effect.
    pub query_offset: usize,
}

/// The result of [`attention`] and what [`attention_backward`] needs of it.
#[derive(Clone, Debug)]
pub struct AttentionOutput {
    /// `[batch, queries, heads, head_dim]`, contiguous.
    pub output: Tensor,
    /// `ln Σⱼ exp(scoreᵢⱼ)` over the visible keys, `[batch, heads, queries]`; −∞ for a query that sees no key.
    pub log_sum_exp: Tensor,
}

/// Attention of every query to the keys it sees:
///
/// `output[i] = Σⱼ softmaxⱼ(scale · q[i]·k[j]) · v[j]`.
///
/// `q` is `[batch, queries, heads, head_dim]`, `k` and `v` are `[batch, keys, kv_heads, head_dim]`; all may be views.
/// Heads come in `kv_heads` groups of equal size that share keys and values. `key_mask`, u32 `[batch, keys]`, hides
/// the keys where it is 0. A query that sees no key gets 0. Keys and values must be finite even where they are
/// hidden: like any product with a zero weight, a hidden NaN may reach the output.
///
/// # Errors
/// [`TensorError::Shape`] for shapes that do not fit together or a `head_dim` that is not in 1..=256,
/// [`TensorError::DType`], [`TensorError::DeviceMismatch`], [`TensorError::InvalidArgument`] for a scale that is not
/// finite, or the device's own errors.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    key_mask: Option<&Tensor>,
    config: &AttentionConfig,
) -> Result<AttentionOutput> {
    let problem = Problem::new("attention", q, k, v, key_mask, config)?;
    match q.device().backend() {
        Backend::Cpu => cpu::attention(&problem),
        Backend::Gpu(device) => gpu::attention(device, &problem),
    }
}

/// The gradients of [`attention`] with respect to `q`, `k` and `v`, given the gradient `upstream` of its output.
///
/// With `P = exp(scale·q·kᵀ − log_sum_exp)`, `D = rowsum(upstream ∘ output)` and
/// `dS = P ∘ (upstream·vᵀ − D)`: `dq = scale·dS·k`, `dk = scale·dSᵀ·q`, `dv = Pᵀ·upstream`, where `dk` and `dv` sum
/// over the heads that share a key. The same bits every time. The results are contiguous.
///
/// # Errors
/// As [`attention`].
pub fn attention_backward(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    key_mask: Option<&Tensor>,
    config: &AttentionConfig,
    forward: &AttentionOutput,
    upstream: &Tensor,
) -> Result<(Tensor, Tensor, Tensor)> {
    const NAME: &str = "attention_backward";
    let problem = Problem::new(NAME, q, k, v, key_mask, config)?;
    for tensor in [&forward.output, &forward.log_sum_exp, upstream] {
        tensor.expect_dtype(NAME, DType::F32)?;
        tensor.expect_same_device(NAME, q)?;
    }
    forward.output.expect_shape(NAME, q.shape())?;
    upstream.expect_shape(NAME, q.shape())?;
    forward.log_sum_exp.expect_shape(NAME, &problem.log_sum_exp_shape()?)?;
    let forward =
        AttentionOutput { output: forward.output.contiguous()?, log_sum_exp: forward.log_sum_exp.contiguous()? };
    match q.device().backend() {
        Backend::Cpu => cpu::attention_backward(&problem, &forward, upstream),
        Backend::Gpu(device) => gpu::attention_backward(device, &problem, &forward, upstream),
    }
}

/// Checked operands and their extents.
pub(super) struct Problem<'a> {
    q: &'a Tensor,
    k: &'a Tensor,
    v: &'a Tensor,
    key_mask: Option<&'a Tensor>,
    scale: f32,
    /// Query `i` sees keys up to `i + query_offset`. At most `keys`, which lets every query see every key.
    query_offset: usize,
    batch: usize,
    queries: usize,
    heads: usize,
    keys: usize,
    kv_heads: usize,
    head_dim: usize,
}

impl<'a> Problem<'a> {
    pub fn new(
        name: &'static str,
        q: &'a Tensor,
        k: &'a Tensor,
        v: &'a Tensor,
        key_mask: Option<&'a Tensor>,
        config: &AttentionConfig,
    ) -> Result<Self> {
        for tensor in [q, k, v] {
            tensor.expect_dtype(name, DType::F32)?;
            tensor.expect_same_device(name, q)?;
        }
        let wrong =
            |expected: String, found: &Tensor| TensorError::Shape { operation: name, expected, found: *found.shape() };
        let &[batch, queries, heads, head_dim] = &q.shape()[..] else {
            return Err(wrong("q as [batch, queries, heads, head_dim]".into(), q));
        };
        if !(1..=MAX_HEAD_DIM).contains(&head_dim) {
            return Err(wrong(format!("q with a head_dim in 1..={MAX_HEAD_DIM}"), q));
        }
        let &[k_batch, keys, kv_heads, k_head_dim] = &k.shape()[..] else {
            return Err(wrong("k as [batch, keys, kv_heads, head_dim]".into(), k));
        };
        if k_batch != batch || k_head_dim != head_dim || kv_heads == 0 || heads % kv_heads != 0 {
            let expected = format!("k as [{batch}, keys, kv_heads that divide {heads}, {head_dim}]");
            return Err(wrong(expected, k));
        }
        v.expect_shape(name, k.shape())?;
        if let Some(mask) = key_mask {
            mask.expect_dtype(name, DType::U32)?;
            mask.expect_same_device(name, q)?;
            mask.expect_shape(name, &[batch, keys])?;
        }
        if !config.scale.is_finite() {
            let message = format!("the scale is {}; a finite number is needed", config.scale);
            return Err(TensorError::InvalidArgument { operation: name, message });
        }
        let query_offset = if config.causal { config.query_offset.min(keys) } else { keys };
        let scale = config.scale;
        Ok(Problem { q, k, v, key_mask, scale, query_offset, batch, queries, heads, keys, kv_heads, head_dim })
    }

    fn log_sum_exp_shape(&self) -> Result<Shape> {
        Shape::new(&[self.batch, self.heads, self.queries])
    }

    /// Query heads that share a key head.
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// The end of the keys that any query before `query_end` sees.
    fn key_end(&self, query_end: usize) -> usize {
        self.keys.min(query_end + self.query_offset)
    }
}
