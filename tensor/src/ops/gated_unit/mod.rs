//! The gradient of silu(gate)·up, the gate of LLaMA's feed-forward layer, in one pass. The forward pass is
//! [`Tensor::silu_mul`]; `rounded.rs` has both for mixed precision.

mod cpu;
mod gpu;
mod rounded;
#[cfg(test)]
mod tests;

pub use rounded::RoundedGate;

use crate::device::Backend;
use crate::dtype::DType;
use crate::error::Result;
use crate::tensor::Tensor;

/// Gradients of `y = silu(gate)·up` with respect to gate and up, all of one shape: with s = sigmoid(gate),
/// `dgate = upstream·up·s·(1 + gate·(1 − s))` and `dup = upstream·gate·s`.
///
/// # Errors
/// [`crate::TensorError::Shape`] when the shapes differ, [`crate::TensorError::DType`] for other types than f32,
/// [`crate::TensorError::DeviceMismatch`], or the device's own errors.
pub fn silu_mul_backward(gate: &Tensor, up: &Tensor, upstream: &Tensor) -> Result<(Tensor, Tensor)> {
    const NAME: &str = "silu_mul_backward";
    gate.expect_dtype(NAME, DType::F32)?;
    for operand in [up, upstream] {
        operand.expect_dtype(NAME, DType::F32)?;
        gate.expect_same_device(NAME, operand)?;
        operand.expect_shape(NAME, gate.shape())?;
    }
    let (gate, up, upstream) = (gate.contiguous()?, up.contiguous()?, upstream.contiguous()?);
    match gate.device().backend() {
        Backend::Cpu => cpu::backward(&gate, &up, &upstream),
        Backend::Gpu(device) => gpu::backward(device, &gate, &up, &upstream, NAME),
    }
}
