//! Embedding lookup and the gradient of its table, on the kernels of `gather`.

#[cfg(test)]
mod tests;

use super::gather::{alike, gather, scatter};
use crate::dtype::DType;
use crate::error::{Result, TensorError};
use crate::shape::Shape;
use crate::tensor::Tensor;

impl Tensor {
    /// Rows of this table, `[vocabulary, hidden]` in f32, f16 or bf16: `out[.., h] = self[ids[..], h]`, f32 of shape
    /// `ids.shape() + [hidden]`, for u32 `ids` of any shape.
    ///
    /// A GPU cannot report an id beyond the table without being waited for: such a row is NaN there, which makes a loss
    /// NaN. Check ids that come from the host with [`crate::check_ids`].
    ///
    /// # Errors
    /// [`TensorError::Shape`] when this is no matrix, [`TensorError::DType`], [`TensorError::InvalidArgument`] for an
    /// id beyond the table (on the CPU) or a result of too many axes, [`TensorError::DeviceMismatch`], or the device's
    /// own errors.
    pub fn embedding(&self, ids: &Tensor) -> Result<Tensor> {
        let &[vocabulary, hidden] = &self.shape()[..] else {
            let expected = "a table [vocabulary, hidden]".into();
            return Err(TensorError::Shape { operation: "embedding", expected, found: *self.shape() });
        };
        if !self.dtype().is_float() {
            let expected = "f32, f16 or bf16".into();
            return Err(TensorError::DType { operation: "embedding", expected, found: self.dtype() });
        }
        ids.expect_dtype("embedding", DType::U32)?;
        self.expect_same_device("embedding", ids)?;
        let out = Shape::new(&[ids.shape(), &[hidden][..]].concat())?;
        let table = self.reshape(&[1, vocabulary, hidden])?;
        gather("embedding", &table, &alike(ids, &table)?, out, DType::F32)
    }
}

/// The gradient of an embedding's table, f32 `[vocabulary, hidden]`: row `v` is the sum of `dy[.., :]` over the places
/// where `ids` is `v`, in their order, so the result does not depend on timing. `dy` is f32 of shape
/// `ids.shape() + [hidden]`. Ids beyond the table are left out on a GPU, and an error on the CPU.
///
/// # Errors
/// [`TensorError::Shape`], [`TensorError::DType`], [`TensorError::InvalidArgument`] for an id beyond the table (on the
/// CPU), [`TensorError::DeviceMismatch`], or the device's own errors.
pub fn embedding_gradient(ids: &Tensor, dy: &Tensor, vocabulary: usize) -> Result<Tensor> {
    ids.expect_dtype("embedding_gradient", DType::U32)?;
    dy.expect_dtype("embedding_gradient", DType::F32)?;
    dy.expect_same_device("embedding_gradient", ids)?;
    let hidden = match dy.shape().split_last() {
        Some((&hidden, rest)) if *rest == ids.shape()[..] => hidden,
        _ => {
            let expected = format!("{} and one more axis", ids.shape());
            return Err(TensorError::Shape { operation: "embedding_gradient", expected, found: *dy.shape() });
        }
    };
    let dy = dy.reshape(&[1, ids.elements(), hidden])?;
    scatter("embedding_gradient", &dy, &alike(ids, &dy)?, vocabulary, Shape::new(&[vocabulary, hidden])?)
}
