//! Plain Rust: rows of the broadcast operands, in pieces.

use rayon::prelude::*;

use crate::cpu::{CHUNK, PARALLEL_THRESHOLD, RowWalk, cpu};
use crate::dtype::Element;
use crate::error::Result;
use crate::tensor::Tensor;

/// The three operands have one shape.
pub(super) fn select_where<T: Element>(condition: &Tensor, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let mut out = cpu().scratch::<T>(condition.elements());
    let shape = *condition.shape();
    if out.is_empty() {
        return Ok(Tensor::from_cpu_vec(shape, out));
    }
    let conditions = condition.cpu_storage_slice::<u32>()?;
    let (left, right) = (a.cpu_storage_slice::<T>()?, b.cpu_storage_slice::<T>()?);
    let walk = RowWalk::new([&condition.layout, &a.layout, &b.layout]);
    let steps = walk.steps;
    // Fills part of a row, from its element `first` on.
    let fill = |row: usize, first: usize, out: &mut [T]| {
        let mut start = walk.start(row);
        start.iter_mut().zip(steps).for_each(|(place, step)| *place += first * step);
        let [i, j, k] = start;
        let n = out.len();
        if steps == [1; 3] {
            let operands = conditions[i..i + n].iter().zip(&left[j..j + n]).zip(&right[k..k + n]);
            for (value, ((&condition, &a), &b)) in out.iter_mut().zip(operands) {
                *value = if condition != 0 { a } else { b };
            }
            return;
        }
        for (e, value) in out.iter_mut().enumerate() {
            *value = if conditions[i + e * steps[0]] != 0 { left[j + e * steps[1]] } else { right[k + e * steps[2]] };
        }
    };
    if out.len() < PARALLEL_THRESHOLD {
        out.chunks_mut(walk.row).enumerate().for_each(|(row, out)| fill(row, 0, out));
    } else {
        let rows_per_task = CHUNK.div_ceil(walk.row);
        out.par_chunks_mut(walk.row).with_min_len(rows_per_task).enumerate().for_each(|(row, out)| {
            let piece = |(index, out): (usize, &mut [T])| fill(row, index * CHUNK, out);
            out.par_chunks_mut(CHUNK).enumerate().for_each(piece);
        });
    }
    Ok(Tensor::from_cpu_vec(shape, out))
}
