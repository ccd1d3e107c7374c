//! The gated unit in mixed precision: its result as the next product wants it, rounded row by row, and its inputs kept in
//! 16 bits, in which they may come.

use crate::device::Backend;
use crate::dtype::DType;
use crate::error::{Result, TensorError};
use crate::ops::row_scaled::{RowInput, RowKernel, RowNumbers, RowScaled};
use crate::tensor::Tensor;

/// Gate and up of LLaMA's gated unit, rounded to 16 bits ([`Tensor::row_scaled`]): what a backward pass keeps of it.
#[derive(Clone, Debug)]
pub struct RoundedGate {
    gate: RowScaled,
    up: RowScaled,
}

impl Tensor {
    /// silu(gate)·up of two f32 matrices `[rows, columns]`, this one the gate, rounded as [`Tensor::row_scaled`] does, and
    /// both matrices, rounded as well: one pass over memory. The product is that of the matrices before they are rounded.
    ///
    /// # Errors
    /// [`TensorError::Shape`] where these are no matrices of one shape, [`TensorError::DType`] for other types than f32,
    /// [`TensorError::DeviceMismatch`], or the device's own errors.
    pub fn silu_mul_row_scaled(&self, up: &Tensor) -> Result<(RowScaled, RoundedGate)> {
        const NAME: &str = "silu_mul_row_scaled";
        if let Some([product, gate, up]) = self.gated(up, NAME, include_str!("kernels/forward.wgsl"))? {
            return Ok((product, RoundedGate { gate, up }));
        }
        let product = self.silu_mul(up)?.row_scaled()?;
        Ok((product, RoundedGate { gate: self.row_scaled()?, up: up.row_scaled()? }))
    }

    /// The product of [`Tensor::silu_mul_row_scaled`] alone, for those who keep nothing.
    ///
    /// # Errors
    /// As there.
    pub fn silu_mul_rounded(&self, up: &Tensor) -> Result<RowScaled> {
        match self.gated(up, "silu_mul_rounded", include_str!("kernels/product.wgsl"))? {
            Some([product]) => Ok(product),
            None => self.silu_mul(up)?.row_scaled(),
        }
    }

    /// What the kernel makes of gate and up; `None` where there is no GPU or nothing to compute.
    fn gated<const N: usize>(
        &self,
        up: &Tensor,
        name: &'static str,
        text: &'static str,
    ) -> Result<Option<[RowScaled; N]>> {
        let [rows, columns] = self.shape()[..] else {
            let expected = "a matrix [rows, columns]".into();
            return Err(TensorError::Shape { operation: name, expected, found: *self.shape() });
        };
        self.expect_dtype(name, DType::F32)?;
        check_operand(name, self, up, &[rows, columns])?;
        match self.device().backend() {
            Backend::Gpu(device) if self.elements() > 0 => {
                let (gate, up) = (self.contiguous()?, up.contiguous()?);
                let inputs = vec![("gate", RowInput::Rows(&gate)), ("up", RowInput::Rows(&up))];
                let kernel = RowKernel {
                    name,
                    text,
                    inputs,
                    shape: [rows, columns],
                    operands: 1,
                    numbers: RowNumbers::default(),
                };
                Ok(Some(kernel.run(device)?))
            }
            _ => Ok(None),
        }
    }
}

impl RoundedGate {
    /// Gate and up that are rounded already, `[rows, columns]` both.
    ///
    /// # Errors
    /// [`TensorError::Shape`] where the shapes differ, or [`TensorError::DeviceMismatch`].
    pub fn new(gate: RowScaled, up: RowScaled) -> Result<Self> {
        const NAME: &str = "silu_mul_product";
        gate.values().expect_same_device(NAME, up.values())?;
        up.values().expect_shape(NAME, gate.shape())?;
        Ok(RoundedGate { gate, up })
    }

    /// silu(gate)·up of the rounded matrices, rounded again: a row by the power of two of its largest element.
    ///
    /// # Errors
    /// The device's own errors.
    pub fn product(&self) -> Result<RowScaled> {
        match self.gate.device().backend() {
            Backend::Gpu(device) if !self.is_empty() => {
                let kernel = self.kernel("silu_mul_product", include_str!("kernels/product.wgsl"), None);
                let [product] = kernel.run(device)?;
                Ok(product)
            }
            _ => self.gate.restored()?.silu_mul(&self.up.restored()?)?.row_scaled(),
        }
    }

    /// The gradients of gate and up, each rounded as [`Tensor::row_scaled`] does; see [`crate::silu_mul_backward`].
    /// `upstream` is f32 `[rows, columns]`.
    ///
    /// # Errors
    /// [`TensorError::Shape`] or [`TensorError::DType`] for other gradients, [`TensorError::DeviceMismatch`], or the
    /// device's own errors.
    pub fn backward(&self, upstream: &Tensor) -> Result<(RowScaled, RowScaled)> {
        const NAME: &str = "silu_mul_gradients";
        check_operand(NAME, self.gate.values(), upstream, self.gate.shape())?;
        self.gradients(NAME, RowInput::Rows(&upstream.contiguous()?), || Ok(upstream.clone()))
    }

    /// As [`RoundedGate::backward`], from a gradient in 16 bits.
    ///
    /// # Errors
    /// As there.
    pub fn backward_rounded(&self, upstream: &RowScaled) -> Result<(RowScaled, RowScaled)> {
        const NAME: &str = "silu_mul_gradients_rounded";
        self.gate.values().expect_same_device(NAME, upstream.values())?;
        upstream.values().expect_shape(NAME, self.gate.shape())?;
        self.gradients(NAME, RowInput::Rounded(upstream), || upstream.restored())
    }

    /// `exact` is the upstream gradient in f32.
    fn gradients(
        &self,
        name: &'static str,
        upstream: RowInput<'_>,
        exact: impl FnOnce() -> Result<Tensor>,
    ) -> Result<(RowScaled, RowScaled)> {
        match self.gate.device().backend() {
            Backend::Gpu(device) if !self.is_empty() => {
                let text = include_str!("kernels/gradients.wgsl");
                let [gate, up] = self.kernel(name, text, Some(upstream)).run(device)?;
                Ok((gate, up))
            }
            _ => {
                let (gate, up) = crate::silu_mul_backward(&self.gate.restored()?, &self.up.restored()?, &exact()?)?;
                Ok((gate.row_scaled()?, up.row_scaled()?))
            }
        }
    }

    fn kernel<'a>(&'a self, name: &'static str, text: &'static str, upstream: Option<RowInput<'a>>) -> RowKernel<'a> {
        let kept = [("gate", RowInput::Rounded(&self.gate)), ("up", RowInput::Rounded(&self.up))];
        let upstream = upstream.map(|upstream| ("upstream", upstream));
        let [rows, columns] = [self.gate.shape()[0], self.gate.shape()[1]];
        RowKernel {
            name,
            text,
            inputs: kept.into_iter().chain(upstream).collect(),
            shape: [rows, columns],
            operands: 2,
            numbers: RowNumbers::default(),
        }
    }

    fn is_empty(&self) -> bool {
        self.gate.shape().elements() == 0
    }
}

fn check_operand(name: &'static str, gate: &Tensor, operand: &Tensor, shape: &[usize]) -> Result<()> {
    operand.expect_dtype(name, DType::F32)?;
    gate.expect_same_device(name, operand)?;
    operand.expect_shape(name, shape)
}
