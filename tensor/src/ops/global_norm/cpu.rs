//! Plain Rust. Sums are f64, by pieces of fixed size, so that they do not depend on the number of threads.

use rayon::prelude::*;

use super::NORM_EPSILON;
use crate::cpu::CHUNK;
use crate::device::Device;
use crate::error::Result;
use crate::tensor::Tensor;

/// The tensors are contiguous.
pub(super) fn sum_of_squares(tensors: &[Tensor]) -> Result<Tensor> {
    let mut sum = 0.0;
    for tensor in tensors {
        let square = |&x: &f32| f64::from(x) * f64::from(x);
        let values = tensor.cpu_slice::<f32>()?;
        let pieces: Vec<f64> = values.par_chunks(CHUNK).map(|piece| piece.iter().map(square).sum()).collect();
        sum += pieces.iter().sum::<f64>();
    }
    Tensor::scalar(&Device::cpu(), sum as f32)
}

pub(super) fn clip_scale(sum_of_squares: &Tensor, max_norm: f32) -> Result<Tensor> {
    let sum = sum_of_squares.item::<f32>()?;
    let factor = if sum.is_finite() { (max_norm / (sum.sqrt() + NORM_EPSILON)).min(1.0) } else { 0.0 };
    Tensor::scalar(&Device::cpu(), factor)
}

/// The tensors' storage is unique.
pub(super) fn scale_in_place(tensors: &mut [&mut Tensor], scale: &Tensor) -> Result<()> {
    let scale = scale.item::<f32>()?;
    for tensor in tensors {
        let values = tensor.cpu_slice_mut::<f32>()?;
        values.par_chunks_mut(CHUNK).for_each(|piece| match scale {
            0.0 => piece.fill(0.0),
            _ => piece.iter_mut().for_each(|x| *x *= scale),
        });
    }
    Ok(())
}
