//! Launches of `kernel.wgsl` (forward), `backward.wgsl`, `rms_backward.wgsl`, `statistics.wgsl` and `parameter_gradients.wgsl`.

use super::Norm;
use crate::dtype::DType;
use crate::error::Result;
use crate::gpu::{Dispatch, Gpu, ROW_WORKGROUP, Source, linear_grid, reduction_splits, row_grid, row_team};
use crate::shape::Shape;
use crate::tensor::Tensor;

/// Rows whose parameter gradients one invocation adds up at the most.
const MOST_ROWS: usize = 64;

/// Neighbouring columns that a workgroup of the parameter gradients takes: a full memory transaction.
const COLUMN_LANES: usize = 32;

/// Vectors of a row that an invocation keeps at the most.
const MOST_VECTORS: usize = 4;

pub(super) const BACKWARD: &str = concat!(include_str!("backward.wgsl"), include_str!("team_sum.wgsl"));
pub(super) const RMS_BACKWARD: &str = concat!(include_str!("rms_backward.wgsl"), include_str!("team_sum.wgsl"));

/// The parameter block of the row kernels; not every kernel uses every offset.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct Params {
    rows: u32,
    columns: u32,
    epsilon: f32,
    x_offset: u32,
    weight_offset: u32,
    /// Of the bias in the forward pass, of the upstream gradient in the backward pass.
    other_offset: u32,
}

impl Params {
    fn new(x: &Tensor, weight: &Tensor, other: &Tensor, epsilon: f32) -> Self {
        let columns = x.shape()[x.rank() - 1];
        Params {
            rows: (x.elements() / columns) as u32,
            columns: columns as u32,
            epsilon,
            x_offset: x.layout.offset as u32,
            weight_offset: weight.layout.offset as u32,
            other_offset: other.layout.offset as u32,
        }
    }
}

fn flag(condition: bool) -> f64 {
    f64::from(u8::from(condition))
}

pub(super) fn forward(
    gpu: &Gpu,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    epsilon: f32,
    norm: Norm,
    name: &'static str,
) -> Result<Tensor> {
    let out = Tensor::uninitialised(x.device(), name, *x.shape(), DType::F32)?;
    // Without a bias the kernel does not read the third binding.
    let bias = bias.unwrap_or(weight);
    let params = Params::new(x, weight, bias, epsilon);
    let team = row_team(params.columns as usize);
    Dispatch::new("norm", "main", Source::Wgsl(include_str!("kernel.wgsl")))
        .constant("TEAM", team as f64)
        .constant("CENTRED", flag(norm.is_centred()))
        .read(x)
        .read(weight)
        .read(bias)
        .write(&out)
        .params(&params)
        .run(gpu, row_grid(params.rows as usize, team))?;
    Ok(out)
}

/// `total` is alone in its storage.
pub(super) fn backward(
    gpu: &Gpu,
    x: &Tensor,
    weight: &Tensor,
    epsilon: f32,
    upstream: &Tensor,
    total: Option<Tensor>,
    (norm, name): (Norm, &'static str),
) -> Result<Tensor> {
    let add = total.is_some();
    let out = total.map_or_else(|| Tensor::uninitialised(x.device(), name, *x.shape(), DType::F32), Ok)?;
    let params = Params::new(x, weight, upstream, epsilon);
    let vectors = vectors_in_registers(&params).filter(|_| !norm.is_centred());
    let team = match vectors {
        Some(vectors) => vectors.div_ceil(MOST_VECTORS).next_power_of_two(),
        None => row_team(params.columns as usize),
    };
    let dispatch = match vectors {
        Some(vectors) => Dispatch::new("rms_norm_backward", "main", Source::Wgsl(RMS_BACKWARD))
            .constant("VECTORS", vectors.div_ceil(team) as f64),
        None => {
            Dispatch::new("norm_backward", "main", Source::Wgsl(BACKWARD)).constant("CENTRED", flag(norm.is_centred()))
        }
    };
    dispatch
        .constant("TEAM", team as f64)
        .constant("ADD", flag(add))
        .read(x)
        .read(weight)
        .read(upstream)
        .write(&out)
        .params(&params)
        .run(gpu, row_grid(params.rows as usize, team))?;
    Ok(out)
}

/// Vectors of a row, if it is made of whole ones that a team of a workgroup keeps.
fn vectors_in_registers(params: &Params) -> Option<usize> {
    let Params { columns, x_offset, weight_offset, other_offset, .. } = *params;
    let aligned = [columns, x_offset, weight_offset, other_offset].iter().all(|place| place.is_multiple_of(4));
    let vectors = columns as usize / 4;
    (aligned && vectors <= MOST_VECTORS * ROW_WORKGROUP).then_some(vectors)
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct GradientParams {
    rows: u32,
    columns: u32,
    segment: u32,
    splits: u32,
    column_groups: u32,
    x_offset: u32,
    upstream_offset: u32,
}

/// `[1 or 2, hidden]`: the weight's gradient, and for layer normalisation the bias's.
pub(super) fn parameter_gradients(
    gpu: &Gpu,
    x: &Tensor,
    epsilon: f32,
    upstream: &Tensor,
    norm: Norm,
    name: &'static str,
) -> Result<Tensor> {
    let params = Params::new(x, x, upstream, epsilon);
    let (rows, columns) = (params.rows as usize, params.columns as usize);
    let statistics = Tensor::uninitialised(x.device(), name, Shape::new(&[rows, 2])?, DType::F32)?;
    let team = row_team(columns);
    Dispatch::new("norm_statistics", "main", Source::Wgsl(include_str!("statistics.wgsl")))
        .constant("TEAM", team as f64)
        .constant("CENTRED", flag(norm.is_centred()))
        .read(x)
        .write(&statistics)
        .params(&params)
        .run(gpu, row_grid(rows, team))?;

    let kinds = if norm.is_centred() { 2 } else { 1 };
    let column_lanes = columns.next_power_of_two().min(COLUMN_LANES);
    let column_groups = columns.div_ceil(column_lanes);
    let splits = reduction_splits(rows, ROW_WORKGROUP / column_lanes, column_groups, MOST_ROWS);
    let segment = rows.div_ceil(splits);
    let splits = rows.div_ceil(segment);
    let out = Tensor::uninitialised(x.device(), name, Shape::new(&[kinds, splits, columns])?, DType::F32)?;
    let params = GradientParams {
        rows: params.rows,
        columns: params.columns,
        segment: segment as u32,
        splits: splits as u32,
        column_groups: column_groups as u32,
        x_offset: params.x_offset,
        upstream_offset: params.other_offset,
    };
    Dispatch::new("norm_parameter_gradients", "main", Source::Wgsl(include_str!("parameter_gradients.wgsl")))
        .constant("COLUMN_LANES", column_lanes as f64)
        .constant("CENTRED", flag(norm.is_centred()))
        .read(x)
        .read(upstream)
        .read(&statistics)
        .write(&out)
        .params(&params)
        .run(gpu, linear_grid(column_groups * splits, 1))?;
    out.sum(&[1], false)
}
