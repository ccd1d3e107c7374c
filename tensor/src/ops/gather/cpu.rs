//! Plain Rust: rows where an index serves a whole row, else single elements.

use half::{bf16, f16};
use rayon::prelude::*;

use super::check;
use crate::cpu::{CHUNK, PARALLEL_THRESHOLD, cpu};
use crate::dtype::{DType, Element};
use crate::error::Result;
use crate::shape::{Layout, Shape};
use crate::tensor::Tensor;

pub(super) fn gather(name: &'static str, x: &Tensor, indices: &Tensor, out: Shape) -> Result<Tensor> {
    check_all(name, indices, x.shape()[1])?;
    match x.dtype() {
        DType::F32 => gather_as(x, indices, out, |value: f32| value),
        DType::U32 => gather_as(x, indices, out, |value: u32| value),
        DType::I32 => gather_as(x, indices, out, |value: i32| value),
        DType::F16 => gather_as(x, indices, out, f16::to_f32),
        DType::Bf16 => gather_as(x, indices, out, bf16::to_f32),
    }
}

/// Checks every index once, however often broadcasting repeats it.
fn check_all(name: &'static str, indices: &Tensor, extent: usize) -> Result<()> {
    let mut layout = indices.layout;
    for axis in 0..layout.shape.rank() {
        if layout.strides[axis] == 0 && layout.shape[axis] > 1 {
            layout.shape = layout.shape.with_extent(axis, 1);
        }
    }
    check(name, indices.view(layout).contiguous()?.cpu_slice::<u32>()?, extent)
}

/// Storage position of an element of a three-axis tensor.
#[inline(always)]
fn position(layout: &Layout, outer: usize, middle: usize, inner: usize) -> usize {
    layout.offset + outer * layout.strides[0] + middle * layout.strides[1] + inner * layout.strides[2]
}

fn gather_as<T: Element, U: Element>(
    x: &Tensor,
    indices: &Tensor,
    shape: Shape,
    convert: impl Fn(T) -> U + Sync,
) -> Result<Tensor> {
    let mut out = cpu().scratch::<U>(shape.elements());
    if out.is_empty() {
        return Ok(Tensor::from_cpu_vec(shape, out));
    }
    let (source, ids) = (x.cpu_storage_slice::<T>()?, indices.cpu_storage_slice::<u32>()?);
    let (from, at) = (&x.layout, &indices.layout);
    let (count, inner) = (at.shape[1], at.shape[2]);
    let fill_row = |row: usize, out: &mut [U]| {
        let (o, i) = (row / count, row % count);
        if at.strides[2] != 0 {
            for (c, value) in out.iter_mut().enumerate() {
                *value = convert(source[position(from, o, ids[position(at, o, i, c)] as usize, c)]);
            }
            return;
        }
        let start = position(from, o, ids[position(at, o, i, 0)] as usize, 0);
        match from.strides[2] {
            1 => out.iter_mut().zip(&source[start..start + inner]).for_each(|(value, &x)| *value = convert(x)),
            step => out.iter_mut().enumerate().for_each(|(c, value)| *value = convert(source[start + c * step])),
        }
    };
    let rows_per_task = CHUNK.div_ceil(inner);
    let task = |(index, out): (usize, &mut [U])| {
        for (line, out) in out.chunks_mut(inner).enumerate() {
            fill_row(index * rows_per_task + line, out);
        }
    };
    if out.len() < PARALLEL_THRESHOLD {
        out.chunks_mut(rows_per_task * inner).enumerate().for_each(task);
    } else {
        out.par_chunks_mut(rows_per_task * inner).enumerate().for_each(task);
    }
    Ok(Tensor::from_cpu_vec(shape, out))
}

pub(super) fn scatter(
    name: &'static str,
    dy: &Tensor,
    indices: &Tensor,
    extent: usize,
    shape: Shape,
) -> Result<Tensor> {
    check_all(name, indices, extent)?;
    let mut out = cpu().scratch::<f32>(shape.elements());
    if out.is_empty() {
        return Ok(Tensor::from_cpu_vec(shape, out));
    }
    let (source, ids) = (dy.cpu_storage_slice::<f32>()?, indices.cpu_storage_slice::<u32>()?);
    let (from, at) = (&dy.layout, &indices.layout);
    let (outer, count, inner) = (at.shape[0], at.shape[1], at.shape[2]);
    if outer == 1 && at.strides[2] == 0 {
        let ids: Vec<usize> = (0..count).map(|i| ids[position(at, 0, i, 0)] as usize).collect();
        scatter_rows(source, from, &ids, inner, &mut out);
        return Ok(Tensor::from_cpu_vec(shape, out));
    }
    out.par_chunks_mut(extent * inner).enumerate().for_each(|(o, out)| {
        out.fill(0.0);
        for i in 0..count {
            for c in 0..inner {
                let index = ids[position(at, o, i, c)] as usize;
                out[index * inner + c] += source[position(from, o, i, c)];
            }
        }
    });
    Ok(Tensor::from_cpu_vec(shape, out))
}

/// One index a row: sorts the positions by index, ascending within an index, so that rows of the result can be summed
/// in parallel and in the documented order.
fn scatter_rows(source: &[f32], from: &Layout, ids: &[usize], inner: usize, out: &mut [f32]) {
    let extent = out.len() / inner;
    let mut ends = vec![0usize; extent + 1];
    ids.iter().for_each(|&id| ends[id + 1] += 1);
    for row in 0..extent {
        ends[row + 1] += ends[row];
    }
    // Entry `id` runs from the start of its group to the end, which is the start of the next.
    let mut order = vec![0; ids.len()];
    for (i, &id) in ids.iter().enumerate() {
        order[ends[id]] = i;
        ends[id] += 1;
    }
    let rows_per_task = CHUNK.div_ceil(inner);
    out.par_chunks_mut(rows_per_task * inner).enumerate().for_each(|(task, out)| {
        out.fill(0.0);
        for (line, out) in out.chunks_mut(inner).enumerate() {
            let row = task * rows_per_task + line;
            let first = if row == 0 { 0 } else { ends[row - 1] };
            for &i in &order[first..ends[row]] {
                let start = position(from, 0, i, 0);
                match from.strides[2] {
                    1 => out.iter_mut().zip(&source[start..start + inner]).for_each(|(value, x)| *value += x),
                    step => out.iter_mut().enumerate().for_each(|(c, value)| *value += source[start + c * step]),
                }
            }
        }
    });
}
