//! Padding, as joining with repeated values: the padding's source is one element, seen repeated.

#[cfg(test)]
mod tests;

use crate::error::Result;
use crate::tensor::Tensor;

impl Tensor {
    /// The tensor with `before` and `after` more elements, all `value`, at the ends of `axis`. For f32, u32 and i32.
    ///
    /// # Errors
    /// [`crate::TensorError::Axis`], [`crate::TensorError::DType`] for 16-bit elements,
    /// [`crate::TensorError::InvalidArgument`] for a value that the type does not have, or the device's own errors.
    pub fn pad(&self, axis: usize, before: usize, after: usize, value: f32) -> Result<Tensor> {
        self.check_axis("pad", axis)?;
        let element = Tensor::full(self.device(), &vec![1; self.rank()], self.dtype(), value)?;
        let repeated = |extent| element.broadcast_to(&self.shape().with_extent(axis, extent));
        Tensor::concat(&[&repeated(before)?, self, &repeated(after)?], axis)
    }
}
