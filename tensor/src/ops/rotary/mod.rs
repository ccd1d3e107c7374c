//! Rotary position embedding: each pair of a head's elements is turned by an angle that grows with the position.

mod cpu;
mod gpu;
#[cfg(test)]
mod tests;

use crate::device::Backend;
use crate::dtype::DType;
use crate::error::{Result, TensorError};
use crate::tensor::Tensor;

/// Turns element pairs `(i, i + head_dim/2)` of every head by the angles whose cosines and sines are given:
///
/// `y[i] = x[i]·cos[i] − x[i + half]·sin[i]` and `y[i + half] = x[i + half]·cos[i] + x[i]·sin[i]`,
///
/// the convention of LLaMA's checkpoints as Hugging Face stores them ("rotate half"). `x` is
/// `[batch, sequence, heads, head_dim]` and may be a view; `cos` and `sin` are `[sequence, head_dim/2]`, one row for
/// each position of `x`. The result is contiguous.
///
/// # Errors
/// [`TensorError::Shape`] for other shapes or an odd `head_dim`, [`TensorError::DType`] for other types than f32,
/// [`TensorError::DeviceMismatch`], or the device's own errors.
pub fn rotary(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    rotate(x, cos, sin, "rotary", 1.0)
}

/// The gradient of [`rotary`] with respect to `x`: the rotation of `upstream` by the opposite angles.
///
/// # Errors
/// As [`rotary`].
pub fn rotary_backward(upstream: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    rotate(upstream, cos, sin, "rotary_backward", -1.0)
}

/// `direction` multiplies the sines: 1 forward, −1 backward.
fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor, name: &'static str, direction: f32) -> Result<Tensor> {
    x.expect_dtype(name, DType::F32)?;
    let &[_, sequence, _, head_dim] = &x.shape()[..] else {
        return Err(wrong_shape(name, x));
    };
    if head_dim % 2 != 0 {
        return Err(wrong_shape(name, x));
    }
    for table in [cos, sin] {
        table.expect_dtype(name, DType::F32)?;
        table.expect_same_device(name, x)?;
        table.expect_shape(name, &[sequence, head_dim / 2])?;
    }
    let (cos, sin) = (cos.contiguous()?, sin.contiguous()?);
    match x.device().backend() {
        Backend::Cpu => cpu::rotate(x, &cos, &sin, direction),
        Backend::Gpu(device) => gpu::rotate(device, x, &cos, &sin, name, direction),
    }
}

fn wrong_shape(operation: &'static str, x: &Tensor) -> TensorError {
    let expected = "[batch, sequence, heads, head_dim] with an even head_dim".into();
    TensorError::Shape { operation, expected, found: *x.shape() }
}
