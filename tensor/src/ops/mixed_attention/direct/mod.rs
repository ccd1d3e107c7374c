//! Attention whose operands go straight into registers, on devices whose matrices hold their elements as NVIDIA's do
//! (`gpu/registers.rs`): in place of kernels in which scores go through workgroup memory, since that is the only way that WGSL
//! knows out of a cooperative matrix.
//!
//! The rounded queries, keys, values and gradients of the output lie in tiles from the start: the kernels that round them write
//! them so.

mod gradients;
mod kernel;
#[cfg(test)]
mod tests;

use kernel::{Config, Kernel};

use super::generator::ROWS;
use super::gpu::Launch;
use super::{MixedAttention, Surroundings};
use crate::error::Result;
use crate::gpu::{Dispatch, Gpu, Source, Tiles};
use crate::ops::RowScaled;
use crate::ops::matmul::reads_tiles;
use crate::tensor::Tensor;

/// Whether the device has such kernels and they suit: sequences are whole tiles, and so are heads.
pub(super) fn suits(gpu: &Gpu, surroundings: &Surroundings) -> bool {
    let [_, sequence, _, head_dim] = surroundings.q_extents();
    gpu.cooperative.direct_usable()
        && sequence.is_multiple_of(Tiles::WIDE[0])
        && head_dim.is_multiple_of(Tiles::WIDE[1])
}

/// Whether the output had better be written in tiles. Without rows behind the last sequence's it fills its storage.
pub(super) fn writes_tiles(gpu: &Gpu, surroundings: &Surroundings) -> bool {
    let [batch, sequence, heads, head_dim] = surroundings.q_extents();
    sequence.is_multiple_of(ROWS) && reads_tiles(gpu, [batch * sequence, heads * head_dim])
}

impl Launch<'_> {
    /// The output's values and scales, and log_sum_exp, of operands in tiles.
    pub fn direct_forward(&self, operands: [&RowScaled; 3], results: [&Tensor; 3]) -> Result<()> {
        self.launch(Kernel::Forward, &operands, &[], &results)
    }

    /// dq, dk and dv.
    pub fn direct_backward(
        &self,
        saved: &MixedAttention,
        upstream: &RowScaled,
        deltas: &Tensor,
        [dq, dk, dv]: [&Tensor; 3],
    ) -> Result<()> {
        let Surroundings { cosines, sines, .. } = self.surroundings;
        let MixedAttention { q, k, v, log_sum_exp, .. } = saved;
        let (operands, terms) = ([q, k, v, upstream], [log_sum_exp, deltas, cosines, sines]);
        self.launch(Kernel::QueryGradient, &operands, &terms, &[dq])?;
        self.launch(Kernel::ValueGradient, &[q, k, upstream], &[log_sum_exp], &[dv])?;
        self.launch(Kernel::KeyGradient, &operands, &terms, &[dk])
    }

    fn launch(&self, kernel: Kernel, operands: &[&RowScaled], terms: &[&Tensor], results: &[&Tensor]) -> Result<()> {
        let Surroundings { key_mask, q_shape, k_shape, .. } = self.surroundings;
        let in_tiles = kernel == Kernel::Forward && self.output_in_tiles;
        let config = Config { kernel, head_dim: q_shape[3], masked: key_mask.is_some(), in_tiles };
        let source = || config.wgsl();
        let mut dispatch = Dispatch::new(config.name(), "main", Source::HalvedContainers(&source));
        for operand in operands {
            dispatch = dispatch.read_tiles(operand.values(), Tiles::Wide(operand.shape()[1]));
        }
        for read in operands.iter().map(|operand| operand.scales()).chain(terms.iter().copied()).chain(key_mask) {
            dispatch = dispatch.read(read);
        }
        for (number, result) in results.iter().enumerate() {
            dispatch = match in_tiles && number == 0 {
                true => dispatch.write_tiles(result, Tiles::Left(result.shape()[1])),
                false => dispatch.write(result),
            };
        }
        let rows = if matches!(kernel, Kernel::KeyGradient | Kernel::ValueGradient) { k_shape } else { q_shape };
        self.run(dispatch, rows[2])
    }
}
