//! In f64, one pair a task, so that results do not depend on the number of threads.

use rayon::prelude::*;

use super::{Item, LARGEST_ENTRY, Refactoring, SINGULAR_VALUE_FLOOR, dense_refactoring};
use crate::error::Result;
use crate::shape::Shape;
use crate::tensor::Tensor;

/// `factors` are A and B of each pair in turn, contiguous.
pub(super) fn update(refactoring: &mut Refactoring, factors: &[Tensor]) -> Result<()> {
    let found: Vec<Option<Vec<f32>>> = factors.par_chunks(2).map(matrices).collect::<Result<_>>()?;
    let Refactoring { shapes, offsets, matrices, undefined, .. } = refactoring;
    let matrices = matrices.cpu_slice_mut::<f32>()?;
    let undefined = undefined.cpu_slice_mut::<u32>()?;
    for (((shape, &start), undefined), found) in shapes.iter().zip(&*offsets).zip(undefined).zip(found) {
        let size = shape.rank * shape.rank;
        let place = &mut matrices[start..start + 2 * size];
        match found {
            Some(values) => place.copy_from_slice(&values),
            None => {
                *undefined += 1;
                let identity = |i: usize| f32::from((i % size).is_multiple_of(shape.rank + 1));
                place.iter_mut().enumerate().for_each(|(i, x)| *x = identity(i));
            }
        }
    }
    Ok(())
}

/// S̃⁻¹ and S̃ of one pair, row-major, rounded to f32.
fn matrices(pair: &[Tensor]) -> Result<Option<Vec<f32>>> {
    let wide = |x: &Tensor| -> Result<Vec<f64>> { Ok(x.cpu_slice::<f32>()?.iter().map(|&x| f64::from(x)).collect()) };
    let rank = pair[0].shape()[0];
    let Some(found) = dense_refactoring(rank, &wide(&pair[0])?, &wide(&pair[1])?, SINGULAR_VALUE_FLOOR) else {
        return Ok(None);
    };
    let values = [found.inverse, found.s].concat();
    let usable = values.iter().all(|x| x.abs() <= LARGEST_ENTRY);
    Ok(usable.then(|| values.into_iter().map(|x| x as f32).collect()))
}

/// Each input multiplied by its item's matrix.
pub(super) fn multiply(matrices: &Tensor, items: &[Item], inputs: &[Tensor]) -> Result<Vec<Tensor>> {
    let matrices = matrices.cpu_slice::<f32>()?;
    items.par_iter().zip(inputs).map(|(item, input)| multiply_one(matrices, item, input)).collect()
}

fn multiply_one(matrices: &[f32], item: &Item, input: &Tensor) -> Result<Tensor> {
    let Item { rank, length, transposed, matrix } = *item;
    let matrix = &matrices[matrix..matrix + rank * rank];
    let x = input.cpu_slice::<f32>()?;
    let mut out = vec![0.0f32; x.len()];
    if transposed {
        let mut sums = vec![0.0f64; rank];
        for (x, out) in x.chunks_exact(rank).zip(out.chunks_exact_mut(rank)) {
            sums.fill(0.0);
            for (&x, row) in x.iter().zip(matrix.chunks_exact(rank)) {
                sums.iter_mut().zip(row).for_each(|(sum, &m)| *sum += f64::from(m) * f64::from(x));
            }
            out.iter_mut().zip(&sums).for_each(|(out, &sum)| *out = sum as f32);
        }
    } else {
        let mut sums = vec![0.0f64; length];
        for (row, out) in matrix.chunks_exact(rank).zip(out.chunks_exact_mut(length)) {
            sums.fill(0.0);
            for (&m, x) in row.iter().zip(x.chunks_exact(length)) {
                sums.iter_mut().zip(x).for_each(|(sum, &x)| *sum += f64::from(m) * f64::from(x));
            }
            out.iter_mut().zip(&sums).for_each(|(out, &sum)| *out = sum as f32);
        }
    }
    Ok(Tensor::from_cpu_vec(Shape::new(&item.shape())?, out))
}
