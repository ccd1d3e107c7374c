//! Joining tensors along an axis.

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
    /// The tensors one after another along `axis`; their other extents agree, and so do their types: f32, u32 or i32.
    ///
    /// # Errors
    /// [`TensorError::InvalidArgument`] for no tensors, [`TensorError::Axis`], [`TensorError::Shape`],
    /// [`TensorError::DType`], [`TensorError::DeviceMismatch`], or the device's own errors.
    pub fn concat(parts: &[&Tensor], axis: usize) -> Result<Tensor> {
        let Some(&first) = parts.first() else {
            let message = "there must be at least one tensor".into();
            return Err(TensorError::InvalidArgument { operation: "concat", message });
        };
        first.check_axis("concat", axis)?;
        if first.dtype().is_half() {
            let expected = "f32, u32 or i32".into();
            return Err(TensorError::DType { operation: "concat", expected, found: first.dtype() });
        }
        for part in parts {
            part.expect_dtype("concat", first.dtype())?;
            part.expect_same_device("concat", first)?;
            let extent = part.shape().get(axis).copied().unwrap_or(0);
            part.expect_shape("concat", &first.shape().with_extent(axis, extent))?;
        }
        if parts.len() == 1 {
            return Ok(first.clone());
        }
        let total = parts.iter().map(|part| part.shape()[axis]).sum();
        let shape = Shape::new(&first.shape().with_extent(axis, total))?;
        match (first.device().backend(), first.dtype()) {
            (Backend::Gpu(gpu), _) => gpu::concat(gpu, parts, axis, shape),
            (Backend::Cpu, DType::U32) => cpu::concat::<u32>(parts, axis, shape),
            (Backend::Cpu, DType::I32) => cpu::concat::<i32>(parts, axis, shape),
            (Backend::Cpu, _) => cpu::concat::<f32>(parts, axis, shape),
        }
    }
}
