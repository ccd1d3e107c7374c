//! Launch of `kernel.wgsl`: one stage, or more where few results are folded from many elements.

use super::Reduction;
use super::plan::Plan;
use crate::dtype::DType;
use crate::error::{Result, TensorError};
use crate::gpu::{Dispatch, Gpu, ROW_WORKGROUP, Source, linear_grid, reduction_splits, row_team};
use crate::shape::Shape;
use crate::tensor::Tensor;

/// Elements that one invocation folds at the most. The kernel keeps four accumulators, so that each sums 64 numbers.
const MOST_PER_INVOCATION: usize = 256;

/// Neighbouring columns that a workgroup takes where columns are contiguous: a full memory transaction.
const COLUMN_LANES: usize = 32;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct Params {
    kept: u32,
    columns: u32,
    reduced: u32,
    segment: u32,
    splits: u32,
    kept_groups: u32,
    offset: u32,
    batch_stride: u32,
    column_stride: u32,
    reduced_stride: u32,
    identity: f32,
    scale: f32,
}

pub(super) fn reduce(
    gpu: &Gpu,
    x: &Tensor,
    plan: &Plan,
    name: &'static str,
    reduction: Reduction,
    divisor: usize,
) -> Result<Tensor> {
    // A broadcast view may have more elements than memory; the kernel counts in u32.
    if x.elements() > u32::MAX as usize {
        let expected = "fewer than 2^32 elements".into();
        return Err(TensorError::Shape { operation: name, expected, found: *x.shape() });
    }
    let kept = plan.kept();
    let reduce_lanes = if plan.is_inner() {
        row_team(plan.reduced)
    } else {
        row_team(plan.reduced).min(ROW_WORKGROUP / kept.next_power_of_two().min(COLUMN_LANES))
    };
    let kept_groups = kept.div_ceil(ROW_WORKGROUP / reduce_lanes);
    let splits = reduction_splits(plan.reduced, reduce_lanes, kept_groups, MOST_PER_INVOCATION);
    let segment = plan.reduced.div_ceil(splits);
    let splits = plan.reduced.div_ceil(segment);
    let out = Tensor::uninitialised(x.device(), name, Shape::new(&[kept * splits])?, DType::F32)?;
    let params = Params {
        kept: kept as u32,
        columns: plan.columns as u32,
        reduced: plan.reduced as u32,
        segment: segment as u32,
        splits: splits as u32,
        kept_groups: kept_groups as u32,
        offset: plan.offset as u32,
        batch_stride: plan.batch_stride as u32,
        column_stride: plan.column_stride as u32,
        reduced_stride: plan.reduced_stride as u32,
        identity: reduction.identity(),
        scale: if splits == 1 { (1.0 / divisor as f64) as f32 } else { 1.0 },
    };
    Dispatch::new("reduce", "main", Source::Wgsl(include_str!("kernel.wgsl")))
        .constant("OPERATION", f64::from(reduction as u32))
        .constant("REDUCE_LANES", reduce_lanes as f64)
        .constant("COLUMNS_FIRST", f64::from(u8::from(!plan.is_inner())))
        .read(x)
        .write(&out)
        .params(&params)
        .run(gpu, linear_grid(kept_groups * splits, 1))?;
    if splits == 1 {
        return Ok(out);
    }
    // The parts lie as the next stage likes to read them; each stage has fewer than the one before.
    let (column_stride, reduced_stride) = if plan.is_inner() { (splits, 1) } else { (1, kept) };
    let next = Plan { columns: kept, column_stride, reduced: splits, reduced_stride, ..PARTS };
    reduce(gpu, &out, &next, name, reduction, divisor)
}

/// The parts of an earlier stage: one batch from the start of their storage.
const PARTS: Plan =
    Plan { offset: 0, batch: 1, batch_stride: 0, columns: 1, column_stride: 1, reduced: 1, reduced_stride: 1 };
