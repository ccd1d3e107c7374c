//! Gelu and its gradient in mixed precision: as the next product wants them, rounded row by row.

#[cfg(test)]
mod tests;

use crate::device::Backend;
use crate::dtype::DType;
use crate::error::{Result, TensorError};
use crate::ops::row_scaled::{RowInput, RowKernel, RowNumbers, RowScaled};
use crate::tensor::Tensor;

impl Tensor {
    /// [`Tensor::gelu`] of an f32 matrix `[rows, columns]`, rounded as [`Tensor::row_scaled`] does: one pass over memory, and
    /// the result never exists in f32.
    ///
    /// # Errors
    /// [`TensorError::Shape`] where this is no matrix, [`TensorError::DType`] for other types than f32, or the device's own
    /// errors.
    pub fn gelu_row_scaled(&self) -> Result<RowScaled> {
        const NAME: &str = "gelu_row_scaled";
        let shape = matrix(NAME, self)?;
        match self.device().backend() {
            Backend::Gpu(gpu) if self.elements() > 0 => {
                let x = self.contiguous()?;
                let (text, inputs) = (include_str!("forward.wgsl"), vec![("x", RowInput::Rows(&x))]);
                let [rounded] =
                    RowKernel { name: NAME, text, inputs, shape, operands: 1, numbers: RowNumbers::default() }
                        .run(gpu)?;
                Ok(rounded)
            }
            _ => self.gelu()?.row_scaled(),
        }
    }

    /// [`Tensor::gelu_backward`] of f32 matrices of one shape, rounded as [`Tensor::row_scaled`] does, in one pass.
    ///
    /// # Errors
    /// As [`Tensor::gelu_row_scaled`], and for an `upstream` of another shape or device.
    pub fn gelu_backward_row_scaled(&self, upstream: &Tensor) -> Result<RowScaled> {
        const NAME: &str = "gelu_backward_row_scaled";
        let shape = matrix(NAME, self)?;
        upstream.expect_dtype(NAME, DType::F32)?;
        self.expect_same_device(NAME, upstream)?;
        upstream.expect_shape(NAME, &shape)?;
        match self.device().backend() {
            Backend::Gpu(gpu) if self.elements() > 0 => {
                let (x, upstream) = (self.contiguous()?, upstream.contiguous()?);
                let inputs = vec![("x", RowInput::Rows(&x)), ("upstream", RowInput::Rows(&upstream))];
                let text = include_str!("gradient.wgsl");
                let [rounded] =
                    RowKernel { name: NAME, text, inputs, shape, operands: 1, numbers: RowNumbers::default() }
                        .run(gpu)?;
                Ok(rounded)
            }
            _ => self.gelu_backward(upstream)?.row_scaled(),
        }
    }
}

fn matrix(name: &'static str, x: &Tensor) -> Result<[usize; 2]> {
    x.expect_dtype(name, DType::F32)?;
    match x.shape()[..] {
        [rows, columns] => Ok([rows, columns]),
        _ => {
            let expected = "a matrix [rows, columns]".into();
            Err(TensorError::Shape { operation: name, expected, found: *x.shape() })
        }
    }
}
