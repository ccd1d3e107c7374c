//! Plain Rust, a row at a time.

use half::f16;
use rayon::prelude::*;

use super::EXPONENTS;
use crate::cpu::{CHUNK, cpu};
use crate::error::Result;
use crate::shape::Shape;
use crate::tensor::Tensor;

/// Neither axis is empty; `padded` has the rows' length in storage.
pub(super) fn round(x: &Tensor, padded: Shape) -> Result<(Tensor, Tensor)> {
    let (columns, stride) = (x.shape()[1], padded[1]);
    let source = x.cpu_slice::<f32>()?;
    let mut values = cpu().scratch::<f16>(padded.elements());
    let mut scales = cpu().scratch::<f32>(padded[0]);
    let rows_per_task = CHUNK.div_ceil(stride);
    let tasks = values.par_chunks_mut(rows_per_task * stride).zip(scales.par_chunks_mut(rows_per_task));
    tasks.zip(source.par_chunks(rows_per_task * columns)).for_each(|((values, scales), source)| {
        for ((values, scale), x) in values.chunks_mut(stride).zip(scales).zip(source.chunks(columns)) {
            *scale = power_of_two(x);
            let factor = 1.0 / *scale;
            let (values, padding) = values.split_at_mut(columns);
            values.iter_mut().zip(x).for_each(|(value, &x)| *value = f16::from_f32(x * factor));
            padding.fill(f16::ZERO);
        }
    });
    Ok((Tensor::from_cpu_vec(padded, values), Tensor::from_cpu_vec(Shape::new(&[padded[0]])?, scales)))
}

/// The power of two of the largest magnitude, within [`EXPONENTS`].
pub(in crate::ops) fn power_of_two(row: &[f32]) -> f32 {
    // Magnitudes are in the order of their bits, NaN the largest.
    let largest = row.iter().fold(0, |largest: u32, x| largest.max(x.to_bits() & 0x7fff_ffff));
    let exponent = ((largest >> 23) as i32 - 127).clamp(EXPONENTS[0], EXPONENTS[1]);
    f32::from_bits(((exponent + 127) as u32) << 23)
}
