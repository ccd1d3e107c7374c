//! Disentangled attention from kernels and products of 16-bit operands, which lie head by head.

use super::super::problem::Problem;
use super::super::{PerOperand, RelativeBuckets};
use super::launch;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::ops::dropout::Rule;
use crate::ops::matmul::cooperative::BatchedProduct;
use crate::tensor::Tensor;

/// Elements in the longest row of scores that a workgroup takes.
pub(super) const LONGEST_ROW: usize = 4096;

/// Bound of the number of matrices, times their width, so that every grid is within what devices launch.
pub(super) const MOST_MATRICES: usize = 1 << 20;

/// Heads first, tokens second: the order of the results `[heads, batch, sequence, head_dim]` in storage.
const BY_TOKEN: [usize; 4] = [1, 2, 0, 3];

/// Tensors rounded to f16, each head of a sequence divided by one power of two.
#[derive(Clone, Debug)]
pub(super) struct Heads {
    /// f16 `[tensors, heads, batch, sequence, head_dim]`.
    pub values: Tensor,
    /// f32 `[tensors, heads, batch]`.
    pub scales: Tensor,
}

impl Heads {
    /// The values `[heads, batch, sequence, head_dim]` and scales `[heads, batch]` of one tensor.
    fn of(&self, tensor: usize) -> Result<(Tensor, Tensor)> {
        Ok((self.values.select(0, tensor)?, self.scales.select(0, tensor)?))
    }
}

/// What the backward pass needs.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    /// q, k and v.
    content: Heads,
    /// pk and pq: their sequence is that of the buckets, of a batch of 1.
    position: Heads,
    /// f16 `[heads, batch, sequence, sequence]`: before dropout and after it, not multiplied by the factor of what is kept.
    probabilities: Tensor,
    dropped: Tensor,
    buckets: RelativeBuckets,
    scale: f32,
    /// The factor of what dropout keeps.
    kept_scale: f32,
}

/// What the scores' gradient is multiplied by in f16, for rounded operands and dropout's factor left out: a power of two that
/// keeps it within the range.
pub(super) fn slope(head_dim: usize) -> f32 {
    (4096 / head_dim.next_power_of_two()).max(1) as f32
}

/// What the sums of so many of the scores' gradients are divided by in f16.
fn divisor(buckets: &RelativeBuckets) -> f32 {
    buckets.widest.next_power_of_two() as f32
}

/// What the backward pass needs, and the output.
pub(super) fn forward(gpu: &Gpu, problem: &Problem<'_>, positions: [&Tensor; 2]) -> Result<(Kept, Tensor)> {
    let &Problem { batch, sequence, heads, head_dim, operands, .. } = problem;
    let content =
        launch::round(gpu, [batch, sequence, heads, head_dim], &[&operands.query, &operands.key, &operands.value])?;
    let count = operands.buckets.count;
    let position = launch::round(gpu, [1, count, heads, head_dim], &positions)?;
    let ((query, _), (key, _), (value, value_scales)) = (content.of(0)?, content.of(1)?, content.of(2)?);
    let scores = BatchedProduct::new(&query, &key.t()?).sums(&[0, 1, 2, 3], None)?;
    let met = content.values.slice(0, 0, 2)?.reshape(&[2, heads, batch * sequence, head_dim])?;
    let positions = position.values.squeeze(2)?.t()?;
    let terms = BatchedProduct::new(&met, &positions).rounded()?;
    let scales = [&content.scales, &position.scales];
    let (probabilities, dropped) = launch::probabilities(gpu, problem, [&scores, &terms], scales)?;
    let kept_scale = problem.dropout.as_ref().map_or(1.0, |(Rule { scale, .. }, _)| *scale);
    let product = BatchedProduct { a: &dropped, b: &value, alpha: kept_scale, scales: &[&value_scales] };
    let output = product.sums(&BY_TOKEN, None)?;
    let (buckets, scale) = (operands.buckets.clone(), operands.scale);
    Ok((Kept { content, position, probabilities, dropped, buckets, scale, kept_scale }, output))
}

/// See [`super::MixedDisentangledAttention::backward`].
pub(super) fn backward(
    gpu: &Gpu,
    kept: &Kept,
    upstream: &Tensor,
    wanted: PerOperand<bool>,
) -> Result<PerOperand<Option<Tensor>>> {
    let [batch, sequence, heads, head_dim] = std::array::from_fn(|axis| upstream.shape()[axis]);
    let (dy, dy_scales) = launch::round(gpu, [batch, sequence, heads, head_dim], &[upstream])?.of(0)?;
    let (value, value_scales) = kept.content.of(2)?;
    let dprobabilities = BatchedProduct::new(&dy, &value.t()?).sums(&[0, 1, 2, 3], None)?;
    let dvalue = wanted.value.then(|| {
        let transposed = kept.dropped.t()?;
        BatchedProduct { a: &transposed, b: &dy, alpha: kept.kept_scale, scales: &[&dy_scales] }.sums(&BY_TOKEN, None)
    });
    let multiple = kept.scale * kept.kept_scale / slope(head_dim);
    let probabilities = [&kept.probabilities, &kept.dropped];
    let scales = [&value_scales, &dy_scales];
    let dscores = launch::score_gradient(gpu, probabilities, &dprobabilities, scales, slope(head_dim), multiple)?;
    drop(dprobabilities);
    let divisor = divisor(&kept.buckets);
    let sums = launch::bucket_sums(gpu, &kept.buckets, &dscores.values, 1.0 / divisor)?;
    let content_gradient = |side: usize| {
        // Queries meet keys and pk, keys meet queries and pq.
        let values = if side == 0 { dscores.values.clone() } else { dscores.values.t()? };
        let (other, other_scales) = kept.content.of(1 - side)?;
        let (position, position_scales) = kept.position.of(side)?;
        let scales = [&dscores.scales, &other_scales];
        let by_content = BatchedProduct { a: &values, b: &other, alpha: 1.0, scales: &scales }.sums(&BY_TOKEN, None)?;
        let (sums, scales) = (sums.select(0, side)?, [&dscores.scales, &position_scales]);
        BatchedProduct { a: &sums, b: &position, alpha: divisor, scales: &scales }.sums(&BY_TOKEN, Some(by_content))
    };
    let positions = (wanted.position_key || wanted.position_query).then(|| {
        let (content, scales) = (kept.content.values.slice(0, 0, 2)?, kept.content.scales.slice(0, 0, 2)?);
        let product =
            BatchedProduct { a: &sums.t()?, b: &content, alpha: divisor, scales: &[&dscores.scales, &scales] };
        // [2, batch, buckets, heads, head_dim].
        product.sums(&[0, 2, 3, 1, 4], None)?.sum(&[1], false)
    });
    let positions = positions.transpose()?;
    let position_gradient = |side: usize| positions.as_ref().map(|both| both.select(0, side)).transpose();
    let if_wanted = |wanted: bool, gradient: &dyn Fn() -> Result<Option<Tensor>>| match wanted {
        true => gradient(),
        false => Ok(None),
    };
    Ok(PerOperand {
        query: wanted.query.then(|| content_gradient(0)).transpose()?,
        key: wanted.key.then(|| content_gradient(1)).transpose()?,
        value: dvalue.transpose()?,
        position_key: if_wanted(wanted.position_key, &|| position_gradient(0))?,
        position_query: if_wanted(wanted.position_query, &|| position_gradient(1))?,
    })
}

/// The scores' gradient in f16 `[heads, batch, sequence, sequence]`, and what it is to be multiplied by, f32 `[heads, batch]`.
pub(super) struct ScoreGradient {
    pub values: Tensor,
    pub scales: Tensor,
}
