//! Launches of `forward.wgsl`, `backward.wgsl` and `with_gradient.wgsl`.

use super::CrossEntropy;
use crate::dtype::DType;
use crate::error::Result;
use crate::gpu::{Dispatch, Gpu, Source, linear_grid};
use crate::ops::halves::with_halves;
use crate::ops::row_scaled::{EXPONENTS, RowScaled};
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

/// Elements of a vector.
const VECTOR: usize = 4;

/// Whether the rows of contiguous logits are whole vectors, and there are any.
pub(super) fn reads_vectors(logits: &Tensor) -> bool {
    logits.elements() > 0 && logits.shape()[1].is_multiple_of(VECTOR) && logits.layout.offset.is_multiple_of(VECTOR)
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct WithGradientParams {
    rows: u32,
    columns: u32,
    vectors: u32,
    offset: u32,
    label_offset: u32,
    ignore: i32,
    lowest: i32,
    highest: i32,
    scale: f32,
}

/// The text of the kernel for losses and gradient, with so many invocations a row.
pub(super) fn with_gradient_text(threads: usize, native: bool) -> String {
    with_halves(&format!("const THREADS = {threads}u;\n{}", include_str!("with_gradient.wgsl")), native)
}

/// Invocations a row: many, so that few rows are read at a time and each is still in cache when it is read again (LLaMA 15M on an
/// NVIDIA H200: with 256, 512 and 1024 a step takes 6.26, 6.20 and 6.14 ms, though the kernel by itself, in two runs, 94, 95 and 102 us).
fn threads(gpu: &Gpu) -> usize {
    if gpu.summary.workgroup_invocations >= 1024 { 1024 } else { 256 }
}

/// Losses and gradient of contiguous logits that can be read in vectors.
pub(super) fn with_gradient(
    gpu: &Gpu,
    logits: &Tensor,
    labels: &Tensor,
    ignore: i32,
    scale: f32,
) -> Result<(Tensor, RowScaled)> {
    const NAME: &str = "cross_entropy_with_gradient";
    let (rows, columns) = (logits.shape()[0], logits.shape()[1]);
    let new = |shape: &[usize], dtype| Tensor::uninitialised(logits.device(), NAME, Shape::new(shape)?, dtype);
    let (losses, scales) = (new(&[rows], DType::F32)?, new(&[rows], DType::F32)?);
    let values = new(&[rows, columns], DType::F16)?;
    let native = gpu.cooperative.usable();
    let threads = threads(gpu);
    let text = || with_gradient_text(threads, native);
    let name = format!("{NAME}_{threads}{}", if native { "_native" } else { "" });
    Dispatch::new(name, "main", Source::Generated(&text))
        .read(logits)
        .read(labels)
        .write(&losses)
        .write(&values)
        .write(&scales)
        .params(&WithGradientParams {
            rows: rows as u32,
            columns: columns as u32,
            vectors: (columns / VECTOR) as u32,
            offset: (logits.layout.offset / VECTOR) as u32,
            label_offset: labels.layout.offset as u32,
            ignore,
            lowest: EXPONENTS[0],
            highest: EXPONENTS[1],
            scale,
        })
        .run(gpu, linear_grid(rows, 1))?;
    Ok((losses, RowScaled::from_parts(values, scales)))
}
