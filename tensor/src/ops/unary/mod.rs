//! Functions of one element: f32 in, f32 out, same shape.

mod cpu;
mod gpu;
#[cfg(test)]
mod tests;

use crate::device::Backend;
use crate::dtype::DType;
use crate::error::Result;
use crate::tensor::Tensor;

/// The functions; the numbers are the kernel's `OPERATION` constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
enum Unary {
    Negate = 0,
    Absolute = 1,
    Square = 2,
    SquareRoot = 3,
    ReciprocalSquareRoot = 4,
    Reciprocal = 5,
    Exponential = 6,
    Logarithm = 7,
    Sine = 8,
    Cosine = 9,
    Tanh = 10,
    Sigmoid = 11,
    Silu = 12,
    Gelu = 13,
    Relu = 14,
    /// `scale·x + shift`
    Affine = 15,
}

macro_rules! methods {
    ($($(#[$doc:meta])* $name:ident => $operation:ident;)*) => {
        impl Tensor {$(
            $(#[$doc])*
            ///
            /// # Errors
            /// [`crate::TensorError::DType`] for other types than f32, or the device's own errors.
            pub fn $name(&self) -> Result<Tensor> {
                unary(self, stringify!($name), Unary::$operation, 1.0, 0.0)
            }
        )*}
    };
}

methods! {
    /// −x.
    neg => Negate;
    /// |x|.
    abs => Absolute;
    /// x².
    square => Square;
    /// √x; NaN for x < 0.
    sqrt => SquareRoot;
    /// 1/√x.
    rsqrt => ReciprocalSquareRoot;
    /// 1/x.
    reciprocal => Reciprocal;
    /// eˣ.
    exp => Exponential;
    /// ln x; −∞ at 0, NaN for x < 0.
    ln => Logarithm;
    /// sin x, x in radians.
    sin => Sine;
    /// cos x, x in radians.
    cos => Cosine;
    /// tanh x.
    tanh => Tanh;
    /// 1 / (1 + e⁻ˣ).
    sigmoid => Sigmoid;
    /// x · sigmoid(x), also called swish.
    silu => Silu;
    /// Exact GELU: x/2 · (1 + erf(x/√2)).
    gelu => Gelu;
    /// max(x, 0).
    relu => Relu;
}

impl Tensor {
    /// `scale·x + shift` with two numbers.
    ///
    /// # Errors
    /// [`crate::TensorError::DType`] for other types than f32, or the device's own errors.
    pub fn affine(&self, scale: f32, shift: f32) -> Result<Tensor> {
        unary(self, "affine", Unary::Affine, scale, shift)
    }
}

fn unary(x: &Tensor, name: &'static str, operation: Unary, scale: f32, shift: f32) -> Result<Tensor> {
    x.expect_dtype(name, DType::F32)?;
    let x = x.contiguous()?;
    match x.device().backend() {
        Backend::Cpu => cpu::unary(&x, operation, scale, shift),
        Backend::Gpu(device) => gpu::unary(device, &x, name, operation, scale, shift),
    }
}
