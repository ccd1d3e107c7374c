//! Functions of two elements with broadcasting: f32 in, f32 out.

mod cpu;
mod gpu;
#[cfg(test)]
mod tests;

use crate::device::Backend;
use crate::dtype::DType;
use crate::error::Result;
use crate::shape::Shape;
use crate::tensor::Tensor;

/// The functions; the numbers are the kernel's `OPERATION` constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
enum Binary {
    Add = 0,
    Subtract = 1,
    Multiply = 2,
    Divide = 3,
    Maximum = 4,
    Minimum = 5,
    /// a < b as 1 or 0.
    Less = 6,
    /// a = b as 1 or 0.
    Equal = 7,
    /// upstream b times the derivative of silu at a.
    SiluBackward = 8,
    /// upstream b times the derivative of gelu at a.
    GeluBackward = 9,
    /// upstream b times 1 − a², for a = tanh x.
    TanhBackward = 10,
    /// upstream b times a·(1 − a), for a = sigmoid x.
    SigmoidBackward = 11,
    /// silu(a)·b: the gated unit of LLaMA's feed-forward layer.
    SiluMultiply = 12,
}

macro_rules! methods {
    ($($(#[$doc:meta])* $name:ident($other:ident) => $operation:ident;)*) => {
        impl Tensor {$(
            $(#[$doc])*
            ///
            /// # Errors
            /// [`crate::TensorError::Broadcast`] for shapes that do not broadcast, [`crate::TensorError::DType`] for
            /// other types than f32, [`crate::TensorError::DeviceMismatch`], or the device's own errors.
            pub fn $name(&self, $other: &Tensor) -> Result<Tensor> {
                binary(self, $other, stringify!($name), Binary::$operation)
            }
        )*}
    };
}

methods! {
    /// a + b.
    add(other) => Add;
    /// a − b.
    sub(other) => Subtract;
    /// a · b.
    mul(other) => Multiply;
    /// a / b.
    div(other) => Divide;
    /// The larger of a and b; NaN if either is.
    maximum(other) => Maximum;
    /// The smaller of a and b; NaN if either is.
    minimum(other) => Minimum;
    /// 1 where a < b, else 0.
    less(other) => Less;
    /// 1 where a = b, else 0.
    equal(other) => Equal;
    /// Derivative of silu at `self`, σ(x)·(1 + x·(1 − σ(x))), times `upstream`.
    silu_backward(upstream) => SiluBackward;
    /// Derivative of gelu at `self`, Φ(x) + x·φ(x), times `upstream`.
    gelu_backward(upstream) => GeluBackward;
    /// (1 − y²) · `upstream`, where `self` is y = tanh x.
    tanh_backward(upstream) => TanhBackward;
    /// y·(1 − y) · `upstream`, where `self` is y = sigmoid x.
    sigmoid_backward(upstream) => SigmoidBackward;
    /// silu(a) · b in one pass: the gate of LLaMA's feed-forward layer.
    silu_mul(other) => SiluMultiply;
}

fn binary(a: &Tensor, b: &Tensor, name: &'static str, operation: Binary) -> Result<Tensor> {
    a.expect_dtype(name, DType::F32)?;
    b.expect_dtype(name, DType::F32)?;
    a.expect_same_device(name, b)?;
    let shape = Shape::broadcast(name, a.shape(), b.shape())?;
    let (a_view, b_view) = (a.layout.broadcast_to(&shape), b.layout.broadcast_to(&shape));
    match a.device().backend() {
        Backend::Cpu => cpu::binary(&a.view(a_view), &b.view(b_view), operation),
        Backend::Gpu(device) => gpu::binary(device, &a.view(a_view), &b.view(b_view), name, operation),
    }
}
