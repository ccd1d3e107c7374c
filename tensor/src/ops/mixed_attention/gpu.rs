//! Launches of the kernels for tensor cores.

use super::config::{Config, Kernel};
use super::generator::ROWS;
use super::{MixedAttention, Surroundings};
use crate::dtype::DType;
use crate::error::Result;
use crate::gpu::{Dispatch, Gpu, ROW_WORKGROUP, Source, Tiles, row_grid};
use crate::ops::RowScaled;
use crate::ops::row_scaled::EXPONENTS;
use crate::shape::Shape;
use crate::tensor::Tensor;

/// The kernels that round operands.
pub(super) const ROUND: &str = concat!(include_str!("round.wgsl"), include_str!("place_in_storage.wgsl"));
pub(super) const ROUND_UPSTREAM: &str = concat!(
    include_str!("round_upstream.wgsl"),
    include_str!("place_in_storage.wgsl"),
    include_str!("../../gpu/left_chunk.wgsl")
);

const NAME: &str = "mixed_attention";

/// Elements of a vector, in which everything is read.
const VECTOR: usize = 4;

/// Invocations of a subgroup, wherever there are kernels for cooperative matrices.
const SUBGROUP: usize = 32;

/// Shorter sequences leave most of a tile empty.
const MIN_SEQUENCE: usize = 16;

/// Workgroups that a device launches along one axis of the grid at the least.
const MAX_GROUPS: usize = 65_535;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct RoundParams {
    sequence: u32,
    rows: u32,
    half: u32,
    lowest: i32,
    highest: i32,
    cosines_offset: u32,
    sines_offset: u32,
    pairs: [u32; 3],
    offsets: [u32; 3],
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct UpstreamParams {
    sequence: u32,
    rows: u32,
    heads: u32,
    head: u32,
    upstream_offset: u32,
    lowest: i32,
    highest: i32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct Params {
    batch: u32,
    heads: u32,
    kv_heads: u32,
    sequence: u32,
    row_blocks: u32,
    query_offset: u32,
    is_masked: u32,
    mask_offset: u32,
    mask_batch: u32,
    mask_key: u32,
    cosines_offset: u32,
    sines_offset: u32,
    scale: f32,
}

/// Whether there are kernels for such operands, if the device has cooperative matrices.
pub(super) fn suits(surroundings: &Surroundings, operands: &[&Tensor]) -> bool {
    let Surroundings { cosines, sines, .. } = surroundings;
    let [batch, sequence, heads, head_dim] = surroundings.q_extents();
    let aligned = |tensor: &&Tensor| tensor.is_contiguous() && tensor.layout.offset.is_multiple_of(VECTOR);
    MixedAttention::HEAD_DIMS.contains(&head_dim)
        && sequence >= MIN_SEQUENCE
        && batch * heads > 0
        && batch.max(heads).max(sequence / ROWS) < MAX_GROUPS
        && operands.iter().chain(&[cosines, sines]).all(aligned)
}

/// Invocations that share a row of which so many subgroups hold everything in registers, if so many can.
fn team(subgroups: usize) -> usize {
    (subgroups.next_power_of_two() * SUBGROUP).min(ROW_WORKGROUP)
}

/// Everything that the kernels read of a problem.
pub(super) struct Launch<'a> {
    pub gpu: &'a Gpu,
    pub surroundings: &'a Surroundings,
    /// With the kernels of [`super::direct`], whose operands are in tiles.
    pub direct: bool,
    /// They write the output in tiles as well, for the product that reads it.
    pub output_in_tiles: bool,
}

impl Launch<'_> {
    /// Contiguous queries, keys and values `[batch, sequence, heads, head_dim]` rounded token by token, the heads of queries and
    /// keys after they were turned.
    pub fn rounded(&self, operands: [&Tensor; 3]) -> Result<[RowScaled; 3]> {
        let Surroundings { cosines, sines, .. } = self.surroundings;
        let [batch, sequence, _, head_dim] = self.surroundings.q_extents();
        let rows = batch * sequence;
        let columns = operands.map(|x| x.shape()[2] * head_dim);
        let [q, k, v] = columns;
        let rounded = [self.row_scaled(rows, q)?, self.row_scaled(rows, k)?, self.row_scaled(rows, v)?];
        let pairs = columns.map(|columns| columns / 2 / VECTOR);
        let params = RoundParams {
            sequence: sequence as u32,
            rows: rows as u32,
            half: (head_dim / 2 / VECTOR) as u32,
            lowest: EXPONENTS[0],
            highest: EXPONENTS[1],
            cosines_offset: (cosines.layout.offset / VECTOR) as u32,
            sines_offset: (sines.layout.offset / VECTOR) as u32,
            pairs: pairs.map(|pairs| pairs as u32),
            offsets: operands.map(|x| (x.layout.offset / VECTOR) as u32),
        };
        let team = team(pairs[0].max(pairs[1]).div_ceil(2 * SUBGROUP));
        let dispatch = Dispatch::new("mixed_attention_round", "main", Source::Wgsl(ROUND));
        let dispatch = operands.into_iter().chain([cosines, sines]).fold(dispatch, Dispatch::read);
        let dispatch = rounded.iter().fold(dispatch, |dispatch, (values, _)| self.write_operand(dispatch, values));
        let dispatch = rounded.iter().fold(dispatch, |dispatch, (_, scales)| dispatch.write(scales));
        let [x, y, _] = row_grid(rows, team);
        let dispatch = dispatch.constant("TEAM", team as f64).constant("TILED", f64::from(u8::from(self.direct)));
        dispatch.params(&params).run(self.gpu, [x, y, 3])?;
        Ok(rounded.map(|(values, scales)| RowScaled::from_parts(values, scales)))
    }

    /// The contiguous upstream gradient, rounded token by token, and its products with the output, f32 `[batch, heads,
    /// sequence]`.
    pub fn rounded_upstream(&self, upstream: &Tensor, output: &RowScaled) -> Result<(RowScaled, Tensor)> {
        let [batch, sequence, heads, head_dim] = self.surroundings.q_extents();
        let (values, scales) = self.row_scaled(batch * sequence, heads * head_dim)?;
        let deltas = self.uninitialised(&[batch, heads, sequence], DType::F32)?;
        let params = UpstreamParams {
            sequence: sequence as u32,
            rows: (batch * sequence) as u32,
            heads: heads as u32,
            head: (head_dim / VECTOR) as u32,
            upstream_offset: (upstream.layout.offset / VECTOR) as u32,
            lowest: EXPONENTS[0],
            highest: EXPONENTS[1],
        };
        // Four vectors for each invocation, whole heads for each subgroup.
        let in_subgroup = SUBGROUP / params.head as usize * params.head as usize;
        let team = team((heads * head_dim / VECTOR).div_ceil(4 * in_subgroup));
        let dispatch =
            Dispatch::new("mixed_attention_round_upstream", "main", Source::Wgsl(ROUND_UPSTREAM)).read(upstream);
        let output_tiles = Tiles::Left(heads * head_dim);
        let output_is_in_tiles = output_tiles.hold(output.values());
        let dispatch = match output_is_in_tiles {
            true => dispatch.read_tiles(output.values(), output_tiles),
            false => dispatch.read(output.values()),
        };
        let dispatch = dispatch.read(output.scales());
        self.write_operand(dispatch, &values)
            .write(&scales)
            .write(&deltas)
            .constant("TEAM", team as f64)
            .constant("TILED", f64::from(u8::from(self.direct)))
            .constant("OUTPUT_TILED", f64::from(u8::from(output_is_in_tiles)))
            .params(&params)
            .run(self.gpu, row_grid(batch * sequence, team))?;
        Ok((RowScaled::from_parts(values, scales), deltas))
    }

    /// Binds rounded rows in the order that the kernels read them in.
    fn write_operand<'a>(&self, dispatch: Dispatch<'a>, values: &'a Tensor) -> Dispatch<'a> {
        if self.direct { dispatch.write_tiles(values, Tiles::Wide(values.shape()[1])) } else { dispatch.write(values) }
    }

    /// The output and log_sum_exp.
    pub fn forward(&self, [q, k, v]: [&RowScaled; 3]) -> Result<(RowScaled, Tensor)> {
        let [batch, sequence, heads, head_dim] = self.surroundings.q_extents();
        let (values, scales) = self.row_scaled(batch * sequence, heads * head_dim)?;
        let log_sum_exp = self.uninitialised(&[batch, heads, sequence], DType::F32)?;
        if self.direct {
            self.direct_forward([q, k, v], [&values, &scales, &log_sum_exp])?;
        } else {
            let config = Config::new(Kernel::Forward, head_dim);
            let source = || config.wgsl();
            let dispatch = Dispatch::new(config.name(), "main", Source::Generated(&source));
            let dispatch = [q, k, v].into_iter().fold(dispatch, |dispatch, operand| dispatch.write(operand.values()));
            let dispatch = [q, k, v].into_iter().fold(dispatch, |dispatch, operand| dispatch.write(operand.scales()));
            let dispatch = dispatch.write(self.mask_or(k.scales())).write(&values).write(&scales).write(&log_sum_exp);
            self.run(dispatch, heads)?;
        }
        Ok((RowScaled::from_parts(values, scales), log_sum_exp))
    }

    /// dq, dk and dv.
    pub fn backward(&self, saved: &MixedAttention, upstream: &RowScaled, deltas: &Tensor) -> Result<[Tensor; 3]> {
        let Surroundings { q_shape, k_shape, .. } = self.surroundings;
        let dq = self.uninitialised(q_shape, DType::F32)?;
        let dk = self.uninitialised(k_shape, DType::F32)?;
        let dv = self.uninitialised(k_shape, DType::F32)?;
        if self.direct {
            self.direct_backward(saved, upstream, deltas, [&dq, &dk, &dv])?;
        } else {
            self.gradient(Kernel::QueryGradient, saved, upstream, deltas, &[&dq])?;
            self.gradient(Kernel::KeyValueGradient, saved, upstream, deltas, &[&dk, &dv])?;
        }
        Ok([dq, dk, dv])
    }

    fn gradient(
        &self,
        kernel: Kernel,
        saved: &MixedAttention,
        upstream: &RowScaled,
        deltas: &Tensor,
        gradients: &[&Tensor],
    ) -> Result<()> {
        let Surroundings { cosines, sines, q_shape, k_shape, .. } = self.surroundings;
        let MixedAttention { q, k, v, log_sum_exp, .. } = saved;
        let config = Config::new(kernel, q_shape[3]);
        let source = || config.wgsl();
        let operands = [q, k, v, upstream];
        let dispatch = Dispatch::new(config.name(), "main", Source::Generated(&source));
        let dispatch = operands.into_iter().fold(dispatch, |dispatch, operand| dispatch.write(operand.values()));
        let dispatch = operands.into_iter().fold(dispatch, |dispatch, operand| dispatch.write(operand.scales()));
        let dispatch =
            [log_sum_exp, deltas, cosines, sines, self.mask_or(k.scales())].into_iter().fold(dispatch, Dispatch::write);
        let dispatch = gradients.iter().fold(dispatch, |dispatch, gradient| dispatch.write(gradient));
        self.run(dispatch, if kernel == Kernel::KeyValueGradient { k_shape[2] } else { q_shape[2] })
    }

    /// Without a mask something must be bound in its place; it is not read.
    fn mask_or<'a>(&'a self, other: &'a Tensor) -> &'a Tensor {
        self.surroundings.key_mask.as_ref().unwrap_or(other)
    }

    /// Records a kernel whose rows are those of `heads` heads.
    pub(super) fn run(&self, dispatch: Dispatch<'_>, heads: usize) -> Result<()> {
        let Surroundings { cosines, sines, key_mask, config, q_shape, k_shape } = self.surroundings;
        let [batch, sequence] = [q_shape[0], q_shape[1]];
        let row_blocks = sequence.div_ceil(ROWS);
        let mask = key_mask.as_ref().map(|mask| &mask.layout);
        let params = Params {
            batch: batch as u32,
            heads: q_shape[2] as u32,
            kv_heads: k_shape[2] as u32,
            sequence: sequence as u32,
            row_blocks: row_blocks as u32,
            query_offset: (if config.causal { config.query_offset.min(sequence) } else { sequence }) as u32,
            is_masked: u32::from(mask.is_some()),
            mask_offset: mask.map_or(0, |layout| layout.offset) as u32,
            mask_batch: mask.map_or(0, |layout| layout.strides[0]) as u32,
            mask_key: mask.map_or(0, |layout| layout.strides[1]) as u32,
            cosines_offset: (cosines.layout.offset / VECTOR) as u32,
            sines_offset: (sines.layout.offset / VECTOR) as u32,
            scale: config.scale,
        };
        dispatch.params(&params).run(self.gpu, [row_blocks as u32, heads as u32, batch as u32])
    }

    /// Storage of rounded rows. Kernels read [`ROWS`] rows at once, and so beyond a sequence's last ones, whatever is there.
    fn row_scaled(&self, rows: usize, columns: usize) -> Result<(Tensor, Tensor)> {
        let sequence = self.surroundings.q_shape[1];
        let stored = rows + sequence.next_multiple_of(ROWS) - sequence;
        let values = self.uninitialised(&[stored, columns], DType::F16)?.slice(0, 0, rows)?;
        Ok((values, self.uninitialised(&[rows], DType::F32)?))
    }

    fn uninitialised(&self, shape: &[usize], dtype: DType) -> Result<Tensor> {
        Tensor::uninitialised(self.surroundings.cosines.device(), NAME, Shape::new(shape)?, dtype)
    }
}
