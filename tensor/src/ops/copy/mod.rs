//! Copies: into row-major order, and into another element type.

mod cpu;
mod gpu;
#[cfg(test)]
mod tests;

use crate::device::Backend;
use crate::dtype::DType;
use crate::error::{Result, TensorError};
use crate::tensor::Tensor;

impl Tensor {
    /// This tensor with its elements side by side in row-major order: itself if they are, else a copy.
    ///
    /// # Errors
    /// The device's own errors.
    pub fn contiguous(&self) -> Result<Tensor> {
        if self.is_contiguous() { Ok(self.clone()) } else { self.copied() }
    }

    /// The elements converted to another type; this tensor itself where the type is right already.
    ///
    /// Conversions: f32, u32 and i32 to f32, f16 and bf16 (nearest, ties to even; beyond f16's range infinity);
    /// f16 and bf16 to f32 (exact); f32 to u32 and i32 (towards zero, saturating, NaN to 0); u32 and i32 into each
    /// other (same bits).
    ///
    /// # Errors
    /// [`TensorError::DType`] for pairs not listed, or the device's own errors.
    pub fn cast(&self, dtype: DType) -> Result<Tensor> {
        if dtype == self.dtype() {
            return Ok(self.clone());
        }
        let from_half_to_other = self.dtype().is_half() && dtype != DType::F32;
        if from_half_to_other {
            return Err(TensorError::DType { operation: "cast", expected: "f32 as the target".into(), found: dtype });
        }
        self.copy_as("cast", dtype)
    }

    /// A contiguous copy in storage of its own.
    pub(crate) fn copied(&self) -> Result<Tensor> {
        self.copy_as("copy", self.dtype())
    }

    fn copy_as(&self, name: &'static str, dtype: DType) -> Result<Tensor> {
        match self.device().backend() {
            Backend::Cpu => cpu::copy(self, dtype),
            Backend::Gpu(device) => gpu::copy(device, self, name, dtype),
        }
    }
}
