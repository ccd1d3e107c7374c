//! Reading and adding at indices along one axis: gather, index_select and the deterministic scatter_add.
//! `embedding` is built on the same functions.
//!
//! Indices on a GPU cannot be checked without waiting for it. There an index beyond the axis reads as NaN (as all bits
//! set in integer tensors) and is left out of sums; the CPU reports it. [`check_ids`] checks indices that are still
//! on the host.

mod cpu;
mod gpu;
#[cfg(test)]
mod tests;

use crate::device::Backend;
use crate::dtype::DType;
use crate::error::{Result, TensorError};
use crate::shape::Shape;
use crate::tensor::Tensor;

/// Checks that every id lies below `extent`, on the host, before the ids go to a device that cannot report it.
///
/// # Errors
/// [`TensorError::InvalidArgument`] naming the first id that does not, its position and the extent.
pub fn check_ids(ids: &[u32], extent: usize) -> Result<()> {
    check("check_ids", ids, extent)
}

fn check(operation: &'static str, ids: &[u32], extent: usize) -> Result<()> {
    match ids.iter().position(|&id| id as usize >= extent) {
        None => Ok(()),
        Some(position) => Err(TensorError::InvalidArgument {
            operation,
            message: format!("id {} at position {position} is out of range for an axis of {extent}", ids[position]),
        }),
    }
}

impl Tensor {
    /// `out[.., i, ..] = self[.., indices[.., i, ..], ..]` with `i` at `axis`. `indices` is u32, has this tensor's rank
    /// and, except at `axis`, its extents; the result has the indices' shape and this tensor's type.
    ///
    /// # Errors
    /// [`TensorError::Axis`], [`TensorError::Shape`], [`TensorError::DType`] for 16-bit elements or other indices than
    /// u32, [`TensorError::InvalidArgument`] for an index out of range (on the CPU; see [`check_ids`]),
    /// [`TensorError::DeviceMismatch`], or the device's own errors.
    pub fn gather(&self, axis: usize, indices: &Tensor) -> Result<Tensor> {
        self.check_axis("gather", axis)?;
        expect_words("gather", self)?;
        indices.expect_dtype("gather", DType::U32)?;
        self.expect_same_device("gather", indices)?;
        let extent = indices.shape().get(axis).copied().unwrap_or(0);
        indices.expect_shape("gather", &self.shape().with_extent(axis, extent))?;
        let out = *indices.shape();
        gather("gather", &around(self, axis)?, &around(indices, axis)?, out, self.dtype())
    }

    /// The slices of one axis that `ids` (u32, one axis) names, in that order: extent `ids.len()` at `axis`.
    /// Its derivative is [`scatter_add`] with the ids broadcast to the upstream gradient's shape.
    ///
    /// # Errors
    /// As [`Tensor::gather`].
    pub fn index_select(&self, axis: usize, ids: &Tensor) -> Result<Tensor> {
        self.check_axis("index_select", axis)?;
        expect_words("index_select", self)?;
        ids.expect_dtype("index_select", DType::U32)?;
        self.expect_same_device("index_select", ids)?;
        ids.expect_shape("index_select", &[ids.elements()])?;
        let source = around(self, axis)?;
        let out = self.shape().with_extent(axis, ids.elements());
        gather("index_select", &source, &alike(ids, &source)?, out, self.dtype())
    }
}

/// Zeros with `extent` elements at `axis`, to which every element of `dy` is added at its index:
/// `out[.., indices[.., i, ..], ..] += dy[.., i, ..]` with `i` at `axis`, in ascending order of `i`, so the result does
/// not depend on timing. `indices` is u32 of `dy`'s shape and may be a broadcast view. This is the derivative of
/// [`Tensor::gather`].
///
/// # Errors
/// [`TensorError::Axis`], [`TensorError::Shape`], [`TensorError::DType`] for other types than f32 and u32,
/// [`TensorError::InvalidArgument`] for an index out of range (on the CPU; a GPU leaves the element out; see
/// [`check_ids`]), [`TensorError::DeviceMismatch`], or the device's own errors.
pub fn scatter_add(dy: &Tensor, indices: &Tensor, axis: usize, extent: usize) -> Result<Tensor> {
    dy.check_axis("scatter_add", axis)?;
    dy.expect_dtype("scatter_add", DType::F32)?;
    indices.expect_dtype("scatter_add", DType::U32)?;
    dy.expect_same_device("scatter_add", indices)?;
    indices.expect_shape("scatter_add", dy.shape())?;
    let out = Shape::new(&dy.shape().with_extent(axis, extent))?;
    scatter("scatter_add", &around(dy, axis)?, &around(indices, axis)?, extent, out)
}

/// The tensor as `[outer, axis, inner]`.
fn around(x: &Tensor, axis: usize) -> Result<Tensor> {
    let (before, after) = (&x.shape()[..axis], &x.shape()[axis + 1..]);
    x.reshape(&[before.iter().product(), x.shape()[axis], after.iter().product()])
}

/// Ids `[count]` repeated for every outer and inner index of `source` `[outer, axis, inner]`.
pub(super) fn alike(ids: &Tensor, source: &Tensor) -> Result<Tensor> {
    let count = ids.elements();
    ids.reshape(&[1, count, 1])?.broadcast_to(&[source.shape()[0], count, source.shape()[2]])
}

fn expect_words(operation: &'static str, x: &Tensor) -> Result<()> {
    if x.dtype().is_half() {
        return Err(TensorError::DType { operation, expected: "f32, u32 or i32".into(), found: x.dtype() });
    }
    Ok(())
}

/// `x` `[outer, axis, inner]` at `indices` `[outer, count, inner]`; 16-bit elements become f32. The arguments fit.
pub(super) fn gather(name: &'static str, x: &Tensor, indices: &Tensor, out: Shape, out_type: DType) -> Result<Tensor> {
    match x.device().backend() {
        Backend::Cpu => cpu::gather(name, x, indices, out),
        Backend::Gpu(gpu) => gpu::gather(gpu, name, x, indices, out, out_type),
    }
}

/// Sums `dy` `[outer, count, inner]` at `indices` of the same shape into `[outer, extent, inner]`, shaped `out`.
pub(super) fn scatter(name: &'static str, dy: &Tensor, indices: &Tensor, extent: usize, out: Shape) -> Result<Tensor> {
    match dy.device().backend() {
        Backend::Cpu => cpu::scatter(name, dy, indices, extent, out),
        Backend::Gpu(gpu) => gpu::scatter(gpu, name, dy, indices, extent, out),
    }
}
