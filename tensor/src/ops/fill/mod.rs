//! Tensors of one repeated value.

mod gpu;
#[cfg(test)]
mod tests;

use crate::cpu::cpu;
use crate::device::{Backend, Device};
use crate::dtype::{DType, Element};
use crate::error::{Result, TensorError};
use crate::shape::Shape;
use crate::tensor::Tensor;

impl Tensor {
    /// A tensor whose elements are all `value`, converted to `dtype`.
    ///
    /// # Errors
    /// [`TensorError::InvalidArgument`] for a negative or fractional value of an integer type, or the device's own
    /// errors.
    pub fn full(device: &Device, shape: &[usize], dtype: DType, value: f32) -> Result<Tensor> {
        let shape = Shape::new(shape)?;
        let integral = value.fract() == 0.0 && (value >= 0.0 || dtype == DType::I32);
        if !dtype.is_float() && !integral {
            return Err(TensorError::InvalidArgument {
                operation: "full",
                message: format!("{value} is not a value of type {dtype}"),
            });
        }
        fn on_cpu<T: Element>(shape: Shape, value: T) -> Tensor {
            let mut values = cpu().scratch::<T>(shape.elements());
            values.fill(value);
            Tensor::from_cpu_vec(shape, values)
        }
        match device.backend() {
            Backend::Cpu => Ok(match dtype {
                DType::F32 => on_cpu(shape, value),
                DType::F16 => on_cpu(shape, half::f16::from_f32(value)),
                DType::Bf16 => on_cpu(shape, half::bf16::from_f32(value)),
                DType::U32 => on_cpu(shape, value as u32),
                DType::I32 => on_cpu(shape, value as i32),
            }),
            Backend::Gpu(gpu) => gpu::full(gpu, device, shape, dtype, value),
        }
    }

    /// A tensor of zeros.
    ///
    /// # Errors
    /// The device's own errors.
    pub fn zeros(device: &Device, shape: &[usize], dtype: DType) -> Result<Tensor> {
        Self::full(device, shape, dtype, 0.0)
    }

    /// A tensor of ones.
    ///
    /// # Errors
    /// The device's own errors.
    pub fn ones(device: &Device, shape: &[usize], dtype: DType) -> Result<Tensor> {
        Self::full(device, shape, dtype, 1.0)
    }

    /// A tensor of zeros with this tensor's shape, type and device.
    ///
    /// # Errors
    /// The device's own errors.
    pub fn zeros_like(&self) -> Result<Tensor> {
        Self::zeros(self.device(), self.shape(), self.dtype())
    }
}
