//! Plain Rust, a row at a time: three passes over a row that stays in cache.

use super::MaskRows;
use crate::cpu::rows::{for_each_row, maximum, sum};
use crate::cpu::{cpu, math};
use crate::dtype::DType;
use crate::error::Result;
use crate::tensor::Tensor;

pub(super) fn forward(x: &Tensor, mask: Option<&Tensor>, logarithm: bool) -> Result<Tensor> {
    let columns = x.shape()[x.rank() - 1];
    let source = x.cpu_slice::<f32>()?;
    let mask = mask.map(Mask::new).transpose()?;
    let mut out = cpu().scratch::<f32>(source.len());
    for_each_row(&mut out, columns, |row, out| {
        let x = &source[row * columns..(row + 1) * columns];
        match &mask {
            Some(mask) => masked_row(x, mask, row, out),
            None if logarithm => log_softmax_row(x, out),
            None => softmax_row(x, out),
        }
    });
    Ok(Tensor::from_cpu_vec(*x.shape(), out))
}

pub(super) fn backward(y: &Tensor, upstream: &Tensor, logarithm: bool) -> Result<Tensor> {
    let columns = y.shape()[y.rank() - 1];
    let (result, gradient) = (y.cpu_slice::<f32>()?, upstream.cpu_slice::<f32>()?);
    let mut out = cpu().scratch::<f32>(result.len());
    for_each_row(&mut out, columns, |row, out| {
        let range = row * columns..(row + 1) * columns;
        let (y, dy) = (&result[range.clone()], &gradient[range]);
        if logarithm {
            let total = sum([dy], |[dy]| dy) as f32;
            out.iter_mut().zip(y).zip(dy).for_each(|((dx, &y), &dy)| *dx = dy - math::exp(y) * total);
        } else {
            let total = sum([y, dy], |[y, dy]| y * dy) as f32;
            out.iter_mut().zip(y).zip(dy).for_each(|((dx, &y), &dy)| *dx = y * (dy - total));
        }
    });
    Ok(Tensor::from_cpu_vec(*y.shape(), out))
}

fn softmax_row(x: &[f32], out: &mut [f32]) {
    let largest = maximum(x);
    out.iter_mut().zip(x).for_each(|(value, &x)| *value = math::exp(x - largest));
    let scale = (1.0 / sum([out], |[e]| e)) as f32;
    out.iter_mut().for_each(|value| *value *= scale);
}

fn log_softmax_row(x: &[f32], out: &mut [f32]) {
    let largest = maximum(x);
    let logarithm = sum([x], |[x]| math::exp(x - largest)).ln() as f32;
    out.iter_mut().zip(x).for_each(|(value, &x)| *value = x - largest - logarithm);
}

/// The mask as words that are all ones (keep) or 0.
struct Mask {
    keep: Vec<u32>,
    rows: MaskRows,
}

impl Mask {
    fn new(mask: &Tensor) -> Result<Self> {
        let word = |keep: bool| if keep { u32::MAX } else { 0 };
        // All of the storage: the mask was made contiguous before it was broadcast, so there is nothing else in it.
        let keep = match mask.dtype() {
            DType::U32 => mask.cpu_storage_slice::<u32>()?.iter().map(|&m| word(m != 0)).collect(),
            _ => mask.cpu_storage_slice::<f32>()?.iter().map(|&m| word(m != 0.0)).collect(),
        };
        Ok(Mask { keep, rows: MaskRows::new(&mask.layout) })
    }
}

/// Masked elements take part as −∞, and are set to 0 at the end, since −∞ − (−∞) would be NaN.
fn masked_row(x: &[f32], mask: &Mask, row: usize, out: &mut [f32]) {
    let start = mask.rows.start(row);
    if mask.rows.column_stride == 0 {
        // One word for the whole row.
        return if mask.keep[start] != 0 { softmax_row(x, out) } else { out.fill(0.0) };
    }
    let keep = &mask.keep[start..start + x.len()];
    let kept = |x: f32, keep: u32| if keep != 0 { x } else { f32::NEG_INFINITY };
    out.iter_mut().zip(x).zip(keep).for_each(|((value, &x), &keep)| *value = kept(x, keep));
    let largest = maximum(out);
    out.iter_mut().for_each(|value| *value = math::exp(*value - largest));
    let scale = (1.0 / sum([out], |[e]| e)) as f32;
    let select = |value: f32, keep: u32| f32::from_bits((value * scale).to_bits() & keep);
    out.iter_mut().zip(keep).for_each(|(value, &keep)| *value = select(*value, keep));
}
