//! Plain Rust, a row at a time; the row stays in cache between the passes.

use super::Norm;
use crate::cpu::rows::{for_each_row, map_in_order, sum};
use crate::cpu::{PARALLEL_THRESHOLD, cpu};
use crate::error::Result;
use crate::shape::Shape;
use crate::tensor::Tensor;

/// Rows whose parameter gradients one task adds up in f32 before they join the f64 totals.
const BLOCK_ROWS: usize = 64;

/// Mean μ and reciprocal deviation r of a row.
#[inline(always)]
fn statistics(x: &[f32], epsilon: f32, norm: Norm) -> (f32, f32) {
    let count = x.len() as f64;
    let mean = if norm.is_centred() { (sum([x], |[x]| x) / count) as f32 } else { 0.0 };
    let square = sum([x], |[x]| (x - mean) * (x - mean)) / count;
    (mean, (1.0 / (square + f64::from(epsilon)).sqrt()) as f32)
}

pub(super) fn forward(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, epsilon: f32, norm: Norm) -> Result<Tensor> {
    let (source, weight) = (x.cpu_slice::<f32>()?, weight.cpu_slice::<f32>()?);
    let bias = bias.map(Tensor::cpu_slice::<f32>).transpose()?;
    let columns = weight.len();
    let mut out = cpu().scratch::<f32>(source.len());
    for_each_row(&mut out, columns, |row, out| {
        let x = &source[row * columns..(row + 1) * columns];
        let (mean, scale) = statistics(x, epsilon, norm);
        let values = out.iter_mut().zip(x).zip(weight);
        match bias {
            None => values.for_each(|((y, &x), &w)| *y = (x - mean) * scale * w),
            Some(bias) => values.zip(bias).for_each(|(((y, &x), &w), &b)| *y = (x - mean) * scale * w + b),
        }
    });
    Ok(Tensor::from_cpu_vec(*x.shape(), out))
}

pub(super) fn backward(
    x: &Tensor,
    weight: &Tensor,
    epsilon: f32,
    upstream: &Tensor,
    total: Option<Tensor>,
    norm: Norm,
) -> Result<Tensor> {
    let (source, weight, upstream) = (x.cpu_slice::<f32>()?, weight.cpu_slice::<f32>()?, upstream.cpu_slice::<f32>()?);
    let columns = weight.len();
    let mut out = cpu().scratch::<f32>(source.len());
    for_each_row(&mut out, columns, |row, out| {
        let range = row * columns..(row + 1) * columns;
        let (x, dy) = (&source[range.clone()], &upstream[range]);
        let (mean, scale) = statistics(x, epsilon, norm);
        let count = columns as f64;
        let mean_g = if norm.is_centred() { (sum([dy, weight], |[dy, w]| dy * w) / count) as f32 } else { 0.0 };
        let mean_gx = (sum([x, dy, weight], |[x, dy, w]| (x - mean) * scale * (dy * w)) / count) as f32;
        for (((dx, &x), &dy), &w) in out.iter_mut().zip(x).zip(dy).zip(weight) {
            *dx = scale * (dy * w - mean_g - (x - mean) * scale * mean_gx);
        }
    });
    let dx = Tensor::from_cpu_vec(*x.shape(), out);
    total.map_or(Ok(dx.clone()), |total| total.add(&dx))
}

/// `[1 or 2, hidden]`: the weight's gradient, and for layer normalisation the bias's.
pub(super) fn parameter_gradients(x: &Tensor, epsilon: f32, upstream: &Tensor, norm: Norm) -> Result<Tensor> {
    let (source, upstream) = (x.cpu_slice::<f32>()?, upstream.cpu_slice::<f32>()?);
    let columns = x.shape()[x.rank() - 1];
    let kinds = if norm.is_centred() { 2 } else { 1 };
    let block = BLOCK_ROWS * columns;
    let parallel = source.len() >= PARALLEL_THRESHOLD;
    // Fixed blocks of rows, combined in order: the number of threads decides nothing.
    let parts = map_in_order(source.len().div_ceil(block), parallel, |index| {
        let range = index * block..source.len().min((index + 1) * block);
        let mut totals = vec![0.0f32; kinds * columns];
        let (for_weight, for_bias) = totals.split_at_mut(columns);
        for (x, dy) in source[range.clone()].chunks(columns).zip(upstream[range].chunks(columns)) {
            let (mean, scale) = statistics(x, epsilon, norm);
            for ((total, &x), &dy) in for_weight.iter_mut().zip(x).zip(dy) {
                *total += dy * ((x - mean) * scale);
            }
            // Empty for RMS normalisation.
            for_bias.iter_mut().zip(dy).for_each(|(total, &dy)| *total += dy);
        }
        totals
    });
    let mut totals = vec![0.0f64; kinds * columns];
    for part in &parts {
        totals.iter_mut().zip(part).for_each(|(total, &value)| *total += f64::from(value));
    }
    let mut out = cpu().scratch::<f32>(totals.len());
    out.iter_mut().zip(&totals).for_each(|(value, &total)| *value = total as f32);
    Ok(Tensor::from_cpu_vec(Shape::new(&[kinds, columns])?, out))
}
