//! The global norm of many tensors and clipping by it, without a word to the host: the sum of squares and the factor
//! stay on the device as scalars.

mod cpu;
mod gpu;
#[cfg(test)]
mod tests;

use crate::device::Backend;
use crate::dtype::DType;
use crate::error::{Result, TensorError};
use crate::tensor::Tensor;

/// Added to the norm before dividing by it, as PyTorch's `clip_grad_norm_` does.
const NORM_EPSILON: f32 = 1e-6;

/// Σ x² over all elements of all tensors, as an f32 scalar on their device. The order of summation is fixed: the
/// result depends on values and shapes only. The CPU adds in f64, kernels in f32 by trees of 16 to 4096 addends.
/// Overflows to infinity where the sum exceeds f32.
///
/// # Errors
/// [`TensorError::InvalidArgument`] for no tensors at all, [`TensorError::DType`] for other types than f32,
/// [`TensorError::DeviceMismatch`], or the device's own errors.
pub fn sum_of_squares(tensors: &[&Tensor]) -> Result<Tensor> {
    const NAME: &str = "sum_of_squares";
    let Some(first) = tensors.first() else {
        let message = "at least one tensor is needed, to know the device".into();
        return Err(TensorError::InvalidArgument { operation: NAME, message });
    };
    for tensor in tensors {
        tensor.expect_dtype(NAME, DType::F32)?;
        first.expect_same_device(NAME, tensor)?;
    }
    let dense: Vec<Tensor> = tensors.iter().map(|tensor| tensor.contiguous()).collect::<Result<_>>()?;
    match first.device().backend() {
        Backend::Cpu => cpu::sum_of_squares(&dense),
        Backend::Gpu(gpu) => gpu::sum_of_squares(gpu, &dense),
    }
}

/// The factor that clips a global norm: min(1, max_norm / (√sum_of_squares + 10⁻⁶)), a scalar on the device.
/// 0 for a sum that is infinite or NaN: with [`scale_in_place`] it removes what cannot be used, and nobody has to wait.
///
/// # Errors
/// [`TensorError::Shape`] when `sum_of_squares` is not one element, [`TensorError::DType`] for other types than f32,
/// [`TensorError::InvalidArgument`] for a `max_norm` that is negative or not finite, or the device's own errors.
pub fn clip_scale(sum_of_squares: &Tensor, max_norm: f32) -> Result<Tensor> {
    const NAME: &str = "clip_scale";
    check_scalar(NAME, sum_of_squares)?;
    if !(max_norm >= 0.0 && max_norm.is_finite()) {
        let message = format!("the largest norm must be finite and not negative, found {max_norm}");
        return Err(TensorError::InvalidArgument { operation: NAME, message });
    }
    match sum_of_squares.device().backend() {
        Backend::Cpu => cpu::clip_scale(sum_of_squares, max_norm),
        Backend::Gpu(gpu) => gpu::clip_scale(gpu, sum_of_squares, max_norm),
    }
}

/// Multiplies every tensor by a scalar that is on the device, in place, several tensors a dispatch. A scalar of 0 gives zeros
/// even where there was infinity or NaN. Other holders of a tensor's storage keep the old values: shared storage is copied
/// first.
///
/// # Errors
/// [`TensorError::Shape`] when `scale` is not one element, [`TensorError::DType`] for other types than f32,
/// [`TensorError::DeviceMismatch`], or the device's own errors; the first three leave every tensor as it was.
pub fn scale_in_place(tensors: &mut [&mut Tensor], scale: &Tensor) -> Result<()> {
    const NAME: &str = "scale_in_place";
    check_scalar(NAME, scale)?;
    for tensor in tensors.iter() {
        tensor.expect_dtype(NAME, DType::F32)?;
        scale.expect_same_device(NAME, tensor)?;
    }
    for tensor in tensors.iter_mut() {
        tensor.make_unique()?;
    }
    match scale.device().backend() {
        Backend::Cpu => cpu::scale_in_place(tensors, scale),
        Backend::Gpu(gpu) => gpu::scale_in_place(gpu, tensors, scale),
    }
}

fn check_scalar(operation: &'static str, tensor: &Tensor) -> Result<()> {
    tensor.expect_dtype(operation, DType::F32)?;
    if tensor.elements() == 1 {
        return Ok(());
    }
    Err(TensorError::Shape { operation, expected: "exactly one element".into(), found: *tensor.shape() })
}
