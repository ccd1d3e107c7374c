//! Causal self-attention with rotary position embedding in mixed precision: queries, keys, values and the output in 16 bits,
//! each token's row beside its power of two ([`RowScaled`]), sums and softmax in f32.
//!
//! What is lost against f32 is the rounding of these rows, 2⁻¹¹ of an element or 2⁻²⁵ of its row's largest. No power of two of
//! a model or a gradient can overflow, for the reason that [`RowScaled`]'s module gives.
//!
//! Where a device has tensor cores and the heads suit them, [`generator`] has kernels for it; elsewhere it is composed of the
//! operations in f32, of the rounded operands, with the same meaning.

mod config;
mod direct;
mod ending;
mod generator;
mod gpu;
mod self_test;
#[cfg(test)]
mod tests;

use super::attention::{AttentionConfig, AttentionOutput, Problem, attention, attention_backward};
use super::{RowScaled, rotary, rotary_backward};
use crate::device::Backend;
use crate::dtype::DType;
use crate::error::{Result, TensorError};
use crate::shape::Shape;
use crate::tensor::Tensor;
use gpu::Launch;
use self_test::Kernels;

/// The result of attention in mixed precision, and what its gradients need: 16-bit rows of queries and keys (rotated), values
/// and output, and one f32 number for each query and head.
#[derive(Clone, Debug)]
pub struct MixedAttention {
    q: RowScaled,
    k: RowScaled,
    v: RowScaled,
    output: RowScaled,
    log_sum_exp: Tensor,
    surroundings: Surroundings,
}

/// What the operands have in common.
#[derive(Clone, Debug)]
struct Surroundings {
    cosines: Tensor,
    sines: Tensor,
    key_mask: Option<Tensor>,
    config: AttentionConfig,
    /// `[batch, sequence, heads, head_dim]` and `[batch, sequence, kv_heads, head_dim]`.
    q_shape: Shape,
    k_shape: Shape,
}

impl MixedAttention {
    /// Widths of heads that there are kernels on tensor cores for. With others this operation saves memory and no time.
    pub const HEAD_DIMS: [usize; 6] = [48, 64, 80, 96, 112, 128];

    /// Attention, see [`attention`], of the queries and keys after their rotation, see [`rotary()`], all rounded to 16 bits:
    /// `q` `[batch, sequence, heads, head_dim]`, `k` and `v` `[batch, sequence, kv_heads, head_dim]`, f32; `cosines` and
    /// `sines` `[sequence, head_dim/2]`; `key_mask` u32 `[batch, sequence]`.
    ///
    /// # Errors
    /// As [`attention`] and [`rotary()`].
    pub fn new(
        [q, k, v]: [&Tensor; 3],
        [cosines, sines]: [&Tensor; 2],
        key_mask: Option<&Tensor>,
        config: &AttentionConfig,
    ) -> Result<Self> {
        const NAME: &str = "mixed_attention";
        Problem::new(NAME, q, k, v, key_mask, config)?;
        if k.shape()[1] != q.shape()[1] {
            let expected = format!("as many keys as queries, {}", q.shape()[1]);
            return Err(TensorError::Shape { operation: NAME, expected, found: *k.shape() });
        }
        let surroundings = Surroundings {
            cosines: cosines.contiguous()?,
            sines: sines.contiguous()?,
            key_mask: key_mask.cloned(),
            config: *config,
            q_shape: *q.shape(),
            k_shape: *k.shape(),
        };
        surroundings.check_tables(NAME)?;
        let operands = [&q.contiguous()?, &k.contiguous()?, &v.contiguous()?];
        match surroundings.launch(&operands)? {
            Some(launch) => Self::on_tensor_cores(&launch, operands),
            None => Self::composed(surroundings, operands),
        }
    }

    fn on_tensor_cores(launch: &Launch<'_>, operands: [&Tensor; 3]) -> Result<Self> {
        let [q, k, v] = launch.rounded(operands)?;
        let (output, log_sum_exp) = launch.forward([&q, &k, &v])?;
        Ok(MixedAttention { q, k, v, output, log_sum_exp, surroundings: launch.surroundings.clone() })
    }

    fn composed(surroundings: Surroundings, [q, k, v]: [&Tensor; 3]) -> Result<Self> {
        let Surroundings { cosines, sines, .. } = &surroundings;
        let q = rows(&rotary(q, cosines, sines)?)?;
        let k = rows(&rotary(k, cosines, sines)?)?;
        let v = rows(v)?;
        let AttentionOutput { output, log_sum_exp } = surroundings.attention([&q, &k, &v])?;
        Ok(MixedAttention { q, k, v, output: rows(&output)?, log_sum_exp, surroundings })
    }

    /// The output `[batch · sequence, heads · head_dim]`.
    pub fn output(&self) -> &RowScaled {
        &self.output
    }

    /// `[batch, sequence, heads · head_dim]`, the shape of the output apart from its rows.
    pub fn output_shape(&self) -> [usize; 3] {
        let [batch, sequence, heads, head_dim] = self.surroundings.q_extents();
        [batch, sequence, heads * head_dim]
    }

    /// The gradients with respect to `q`, `k` and `v` as [`MixedAttention::new`] got them, given the f32 gradient of the output
    /// `[batch, sequence, heads · head_dim]`, which is rounded like them.
    ///
    /// # Errors
    /// [`TensorError::Shape`] or [`TensorError::DType`] for another `upstream`, or the device's own errors.
    pub fn backward(&self, upstream: &Tensor) -> Result<[Tensor; 3]> {
        const NAME: &str = "mixed_attention_backward";
        let surroundings = &self.surroundings;
        upstream.expect_shape(NAME, &self.output_shape())?;
        upstream.expect_dtype(NAME, DType::F32)?;
        let upstream = upstream.contiguous()?;
        match surroundings.launch(&[&upstream])? {
            Some(launch) => self.backward_on_tensor_cores(&launch, &upstream),
            None => self.composed_backward(&upstream),
        }
    }

    fn backward_on_tensor_cores(&self, launch: &Launch<'_>, upstream: &Tensor) -> Result<[Tensor; 3]> {
        let (upstream, deltas) = launch.rounded_upstream(upstream, &self.output)?;
        launch.backward(self, &upstream, &deltas)
    }

    fn composed_backward(&self, upstream: &Tensor) -> Result<[Tensor; 3]> {
        let Surroundings { cosines, sines, q_shape, .. } = &self.surroundings;
        let upstream = rows(&upstream.reshape(q_shape)?)?;
        let (dq, dk, dv) = self.surroundings.attention_backward(self, &upstream)?;
        Ok([rotary_backward(&dq, cosines, sines)?, rotary_backward(&dk, cosines, sines)?, dv])
    }
}

impl Surroundings {
    fn q_extents(&self) -> [usize; 4] {
        std::array::from_fn(|axis| self.q_shape[axis])
    }

    fn check_tables(&self, name: &'static str) -> Result<()> {
        let [_, sequence, _, head_dim] = self.q_extents();
        if head_dim % 2 != 0 {
            let expected = "q with an even head_dim".into();
            return Err(TensorError::Shape { operation: name, expected, found: self.q_shape });
        }
        [&self.cosines, &self.sines].into_iter().try_for_each(|table| {
            table.expect_dtype(name, DType::F32)?;
            table.expect_shape(name, &[sequence, head_dim / 2])
        })
    }

    /// The kernels for tensor cores, where the device has them and contiguous `operands` suit.
    fn launch(&self, operands: &[&Tensor]) -> Result<Option<Launch<'_>>> {
        match self.cosines.device().backend() {
            Backend::Gpu(gpu) if gpu.cooperative.usable() && gpu::suits(self, operands) => {
                let (head_dim, device) = (self.q_shape[3], self.cosines.device());
                let passes = |kernels| self_test::passes(gpu, kernels, head_dim, device);
                let (masked, output_in_tiles) = (self.key_mask.is_some(), direct::writes_tiles(gpu, self));
                let direct = direct::suits(gpu, self) && passes(Kernels::Direct { masked, output_in_tiles })?;
                let usable = direct || passes(Kernels::InWorkgroupMemory)?;
                Ok(usable.then_some(Launch { gpu, surroundings: self, direct, output_in_tiles }))
            }
            _ => Ok(None),
        }
    }

    /// In f32, of the rounded operands.
    fn attention(&self, [q, k, v]: [&RowScaled; 3]) -> Result<AttentionOutput> {
        let (q, k, v) = (self.of_queries(q)?, self.of_keys(k)?, self.of_keys(v)?);
        attention(&q, &k, &v, self.key_mask.as_ref(), &self.config)
    }

    /// In f32, of the rounded operands, output and upstream gradient.
    fn attention_backward(&self, saved: &MixedAttention, upstream: &RowScaled) -> Result<(Tensor, Tensor, Tensor)> {
        let (q, k, v) = (self.of_queries(&saved.q)?, self.of_keys(&saved.k)?, self.of_keys(&saved.v)?);
        let output = self.of_queries(&saved.output)?;
        let forward = AttentionOutput { output, log_sum_exp: saved.log_sum_exp.clone() };
        let upstream = self.of_queries(upstream)?;
        attention_backward(&q, &k, &v, self.key_mask.as_ref(), &self.config, &forward, &upstream)
    }

    fn of_queries(&self, rounded: &RowScaled) -> Result<Tensor> {
        rounded.restored()?.reshape(&self.q_shape)
    }

    fn of_keys(&self, rounded: &RowScaled) -> Result<Tensor> {
        rounded.restored()?.reshape(&self.k_shape)
    }
}

/// `[batch, sequence, heads, head_dim]` rounded token by token.
fn rows(x: &Tensor) -> Result<RowScaled> {
    let shape = x.shape();
    x.reshape(&[shape[0] * shape[1], shape[2] * shape[3]])?.row_scaled()
}
