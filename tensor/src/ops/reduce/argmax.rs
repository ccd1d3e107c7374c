//! The position of the largest element along an axis; the launch of `argmax.wgsl` and its CPU version.

use super::nothing_to_choose;
use crate::cpu::rows::{for_each_chunk, maximum};
use crate::cpu::{CHUNK, PARALLEL_THRESHOLD, cpu};
use crate::device::Backend;
use crate::dtype::DType;
use crate::error::Result;
use crate::gpu::{Dispatch, Gpu, ROW_WORKGROUP, Source, linear_grid, reduction_splits, row_team};
use crate::shape::Shape;
use crate::tensor::Tensor;

/// Elements that one invocation compares at the most.
const MOST_PER_INVOCATION: usize = 1024;

pub(super) fn argmax(x: &Tensor, axis: usize) -> Result<Tensor> {
    x.expect_dtype("argmax", DType::F32)?;
    x.check_axis("argmax", axis)?;
    let columns = x.shape()[axis];
    if columns == 0 {
        return Err(nothing_to_choose(x, "argmax"));
    }
    let shape = x.shape().without_axis(axis);
    if shape.elements() == 0 {
        return Tensor::zeros(x.device(), &shape, DType::U32);
    }
    let mut order: Vec<usize> = (0..x.rank()).filter(|&a| a != axis).collect();
    order.push(axis);
    let rows = x.permute(&order)?.contiguous()?;
    let found = match x.device().backend() {
        Backend::Cpu => on_cpu(&rows, columns)?,
        Backend::Gpu(device) => on_gpu(device, &rows, columns, None)?,
    };
    found.reshape(&shape)
}

fn on_cpu(x: &Tensor, columns: usize) -> Result<Tensor> {
    let source = x.cpu_slice::<f32>()?;
    let mut out = cpu().scratch::<u32>(source.len() / columns);
    let rows_per_task = (CHUNK / columns).max(1);
    for_each_chunk(&mut out, rows_per_task, source.len() >= PARALLEL_THRESHOLD, |task, out| {
        let rows = source[task * rows_per_task * columns..].chunks(columns);
        for (position, row) in out.iter_mut().zip(rows) {
            // Two passes that vectorise: the value, then its first place.
            let largest = maximum(row);
            let place = row.iter().position(|&x| x == largest || x.is_nan() && largest.is_nan());
            // The maximum is one of the row's elements, so a place is always found.
            *position = place.unwrap_or(0) as u32;
        }
    });
    Ok(Tensor::from_cpu_vec(Shape::new(&[out.len()])?, out))
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct Params {
    rows: u32,
    columns: u32,
    candidates: u32,
    segment: u32,
    splits: u32,
    row_groups: u32,
    offset: u32,
}

/// `x` is rows of `columns` contiguous elements. Without `candidates` every element is one; with them, only the
/// positions that an earlier stage left over.
fn on_gpu(gpu: &Gpu, x: &Tensor, columns: usize, candidates: Option<&Tensor>) -> Result<Tensor> {
    let rows = x.elements() / columns;
    let count = candidates.map_or(columns, |candidates| candidates.elements() / rows);
    let team = row_team(count);
    let row_groups = rows.div_ceil(ROW_WORKGROUP / team);
    let splits = reduction_splits(count, team, row_groups, MOST_PER_INVOCATION);
    let segment = count.div_ceil(splits);
    let splits = count.div_ceil(segment);
    let out = Tensor::uninitialised(x.device(), "argmax", Shape::new(&[rows * splits])?, DType::U32)?;
    let params = Params {
        rows: rows as u32,
        columns: columns as u32,
        candidates: count as u32,
        segment: segment as u32,
        splits: splits as u32,
        row_groups: row_groups as u32,
        offset: x.layout.offset as u32,
    };
    Dispatch::new("argmax", "main", Source::Wgsl(include_str!("argmax.wgsl")))
        .constant("TEAM", team as f64)
        .constant("INDIRECT", f64::from(u8::from(candidates.is_some())))
        .read(x)
        .read(candidates.unwrap_or(x))
        .write(&out)
        .params(&params)
        .run(gpu, linear_grid(row_groups * splits, 1))?;
    if splits == 1 { Ok(out) } else { on_gpu(gpu, x, columns, Some(&out)) }
}
