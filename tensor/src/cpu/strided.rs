//! Walking tensors whose elements do not lie side by side.

use rayon::prelude::*;

use super::{CHUNK, PARALLEL_THRESHOLD};
use crate::dtype::Element;
use crate::shape::{Layout, MAX_RANK, merge_axes};

/// Visits the rows (innermost axis) of `N` layouts that share a shape, in row-major order.
/// Axes are merged first, so a contiguous tensor is one long row.
pub(crate) struct RowWalk<const N: usize> {
    outer: Vec<usize>,
    outer_strides: Vec<[usize; N]>,
    offsets: [usize; N],
    /// Elements in a row.
    pub row: usize,
    /// Step between neighbours of a row, per layout.
    pub steps: [usize; N],
}

impl<const N: usize> RowWalk<N> {
    pub fn new(layouts: [&Layout; N]) -> Self {
        let (mut outer, mut outer_strides) = merge_axes(layouts);
        let row = outer.pop().unwrap_or(1);
        let steps = outer_strides.pop().unwrap_or([1; N]);
        RowWalk { outer, outer_strides, offsets: layouts.map(|layout| layout.offset), row, steps }
    }

    /// Storage offsets of the first element of row `index`, per layout.
    pub fn start(&self, mut index: usize) -> [usize; N] {
        let mut position = self.offsets;
        for (extent, strides) in self.outer.iter().zip(&self.outer_strides).rev() {
            let here = index % extent;
            index /= extent;
            for (p, stride) in position.iter_mut().zip(strides) {
                *p += here * stride;
            }
        }
        position
    }
}

/// Copies the elements that `layout` selects from `source` into `target`, row-major.
pub(crate) fn gather_strided<T: Element>(source: &[T], layout: &Layout, target: &mut [T]) {
    if target.is_empty() {
        return;
    }
    if layout.is_contiguous() {
        target.copy_from_slice(&source[layout.offset..layout.offset + target.len()]);
        return;
    }
    if let Some((batch, rows, columns)) = as_transposed(layout) {
        return transpose_blocks(source, layout.offset, batch, rows, columns, target);
    }
    let walk = RowWalk::new([layout]);
    let (row, step) = (walk.row, walk.steps[0]);
    let copy_rows = |first: usize, out: &mut [T]| {
        for (index, out_row) in out.chunks_mut(row).enumerate() {
            let [start] = walk.start(first + index);
            match step {
                1 => out_row.copy_from_slice(&source[start..start + row]),
                _ => out_row.iter_mut().enumerate().for_each(|(i, value)| *value = source[start + i * step]),
            }
        }
    };
    if target.len() < PARALLEL_THRESHOLD {
        return copy_rows(0, target);
    }
    let rows_per_task = CHUNK.div_ceil(row);
    target.par_chunks_mut(rows_per_task * row).enumerate().for_each(|(task, out)| copy_rows(task * rows_per_task, out));
}

/// `(batch extent and stride, rows and stride, columns and stride)` if the layout is a batch of transposed matrices:
/// the last merged axis is strided and the one before it has stride 1.
type Axis = (usize, usize);
fn as_transposed(layout: &Layout) -> Option<(Axis, Axis, Axis)> {
    let (extents, strides) = merge_axes([layout]);
    if extents.len() > MAX_RANK || strides.last()?[0] == 1 {
        return None;
    }
    let axis = |i: usize| (extents[i], strides[i][0]);
    match extents.len() {
        2 if strides[0] == [1] => Some(((1, 0), axis(0), axis(1))),
        3 if strides[1] == [1] => Some((axis(0), axis(1), axis(2))),
        _ => None,
    }
}

/// Transposes in square tiles, so that both sides stay in cache lines.
fn transpose_blocks<T: Element>(source: &[T], offset: usize, batch: Axis, rows: Axis, columns: Axis, out: &mut [T]) {
    const TILE: usize = 16;
    let matrix = rows.0 * columns.0;
    debug_assert_eq!(out.len(), batch.0 * matrix);
    let strip = TILE * columns.0;
    out.par_chunks_mut(matrix).enumerate().for_each(|(index, out)| {
        let base = offset + index * batch.1;
        out.par_chunks_mut(strip).enumerate().for_each(|(block, out)| {
            let first_row = block * TILE;
            for first_column in (0..columns.0).step_by(TILE) {
                let last_column = (first_column + TILE).min(columns.0);
                for (r, out_row) in out.chunks_mut(columns.0).enumerate() {
                    let start = base + (first_row + r) * rows.1;
                    for c in first_column..last_column {
                        out_row[c] = source[start + c * columns.1];
                    }
                }
            }
        });
    });
}
