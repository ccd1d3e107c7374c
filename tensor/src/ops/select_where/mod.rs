//! Choosing between two tensors, element by element.

mod cpu;
mod gpu;
#[cfg(test)]
mod tests;

use crate::device::Backend;
use crate::dtype::DType;
use crate::error::{Result, TensorError};
use crate::shape::Shape;
use crate::tensor::Tensor;

impl Tensor {
    /// `a` where this u32 tensor is not 0, else `b`; all three broadcast. `a` and `b` have one type: f32, u32 or i32.
    /// Elements that are not chosen have no effect, not even NaN.
    ///
    /// # Errors
    /// [`TensorError::Broadcast`], [`TensorError::DType`], [`TensorError::DeviceMismatch`], or the device's own errors.
    pub fn select_where(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        const NAME: &str = "select_where";
        self.expect_dtype(NAME, DType::U32)?;
        if a.dtype().is_half() {
            let expected = "f32, u32 or i32".into();
            return Err(TensorError::DType { operation: NAME, expected, found: a.dtype() });
        }
        b.expect_dtype(NAME, a.dtype())?;
        self.expect_same_device(NAME, a)?;
        self.expect_same_device(NAME, b)?;
        let shape = Shape::broadcast(NAME, self.shape(), &Shape::broadcast(NAME, a.shape(), b.shape())?)?;
        let [condition, a, b] = [self, a, b].map(|x| x.view(x.layout.broadcast_to(&shape)));
        match (self.device().backend(), a.dtype()) {
            (Backend::Gpu(gpu), _) => gpu::select_where(gpu, &condition, &a, &b),
            (Backend::Cpu, DType::U32) => cpu::select_where::<u32>(&condition, &a, &b),
            (Backend::Cpu, DType::I32) => cpu::select_where::<i32>(&condition, &a, &b),
            (Backend::Cpu, _) => cpu::select_where::<f32>(&condition, &a, &b),
        }
    }
}
