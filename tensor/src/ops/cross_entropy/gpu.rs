//! Launches of `forward.wgsl` and `backward.wgsl`.

use super::CrossEntropy;
use crate::dtype::DType;
use crate::error::Result;
use crate::gpu::{Dispatch, Gpu, Source, linear_grid};
use crate::shape::Shape;
use crate::tensor::Tensor;

/// Columns that one workgroup of the backward kernel handles.
const COLUMNS: usize = 1024;

/// Workgroups that one dimension of a grid may have.
const GRID_LIMIT: usize = 65_535;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct ForwardParams {
    rows: u32,
    columns: u32,
    offset: u32,
    row_stride: u32,
    label_offset: u32,
    ignore: i32,
}

pub(super) fn forward(gpu: &Gpu, logits: &Tensor, labels: &Tensor, ignore: i32) -> Result<CrossEntropy> {
    let rows = labels.elements();
    let shape = Shape::new(&[rows])?;
    let losses = Tensor::uninitialised(logits.device(), "cross_entropy", shape, DType::F32)?;
    let log_sum_exp = Tensor::uninitialised(logits.device(), "cross_entropy", shape, DType::F32)?;
    Dispatch::new("cross_entropy", "main", Source::Wgsl(include_str!("forward.wgsl")))
        .read(logits)
        .read(labels)
        .write(&losses)
        .write(&log_sum_exp)
        .params(&ForwardParams {
            rows: rows as u32,
            columns: logits.shape()[1] as u32,
            offset: logits.layout.offset as u32,
            row_stride: logits.layout.strides[0] as u32,
            label_offset: labels.layout.offset as u32,
            ignore,
        })
        .run(gpu, linear_grid(rows, 1))?;
    Ok(CrossEntropy { losses, log_sum_exp })
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct BackwardParams {
    rows: u32,
    columns: u32,
    label_offset: u32,
    sum_offset: u32,
    ignore: i32,
    scale: f32,
}

/// The logits are contiguous, start their storage and have one holder.
pub(super) fn backward(
    gpu: &Gpu,
    logits: &Tensor,
    labels: &Tensor,
    ignore: i32,
    log_sum_exp: &Tensor,
    scale: f32,
) -> Result<()> {
    let (rows, columns) = (logits.shape()[0], logits.shape()[1]);
    let y = rows.min(GRID_LIMIT);
    let grid = [columns.div_ceil(COLUMNS) as u32, y as u32, rows.div_ceil(y.max(1)) as u32];
    Dispatch::new("cross_entropy_backward", "main", Source::Wgsl(include_str!("backward.wgsl")))
        .write(logits)
        .read(labels)
        .read(log_sum_exp)
        .params(&BackwardParams {
            rows: rows as u32,
            columns: columns as u32,
            label_offset: labels.layout.offset as u32,
            sum_offset: log_sum_exp.layout.offset as u32,
            ignore,
            scale,
        })
        .run(gpu, grid)
}
