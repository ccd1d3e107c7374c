//! Softmax and its logarithm over the last axis, with an optional mask, and their derivatives. f32.

mod cpu;
mod gpu;
#[cfg(test)]
mod tests;

use crate::device::Backend;
use crate::dtype::DType;
use crate::error::{Result, TensorError};
use crate::shape::{Layout, Shape, merge_axes};
use crate::tensor::Tensor;

impl Tensor {
    /// eˣ / Σ eˣ over the last axis, for any magnitudes: the largest element is subtracted first. A row of nothing
    /// but −∞, or with +∞ or NaN in it, gives NaN.
    ///
    /// # Errors
    /// [`TensorError::Shape`] for a scalar, [`TensorError::DType`] for other types than f32, or the device's own
    /// errors.
    pub fn softmax(&self) -> Result<Tensor> {
        forward(self, None, "softmax")
    }

    /// x − ln Σ eˣ over the last axis; the logarithm of [`Tensor::softmax`] without its underflow.
    ///
    /// # Errors
    /// As [`Tensor::softmax`].
    pub fn log_softmax(&self) -> Result<Tensor> {
        forward(self, None, "log_softmax")
    }

    /// Softmax over those elements of the last axis whose `mask` (u32 or f32) is not 0; the others give exactly 0,
    /// and so does a row without any. The mask broadcasts to this tensor's shape, such as `[batch, 1, 1, keys]` to
    /// `[batch, heads, queries, keys]`.
    ///
    /// # Errors
    /// As [`Tensor::softmax`], and [`TensorError::Broadcast`] when the mask's shape does not broadcast,
    /// [`TensorError::DType`] for another type of mask, or [`TensorError::DeviceMismatch`].
    pub fn softmax_masked(&self, mask: &Tensor) -> Result<Tensor> {
        forward(self, Some(mask), "softmax_masked")
    }

    /// Gradient of [`Tensor::softmax`] (masked or not), where `self` is its result y and `upstream` the gradient dy
    /// of y's shape: `dx = y·(dy − Σ y·dy)`, the sum being over the last axis.
    ///
    /// # Errors
    /// [`TensorError::Shape`] when the shapes differ or are scalar, [`TensorError::DType`] for other types than f32,
    /// [`TensorError::DeviceMismatch`], or the device's own errors.
    pub fn softmax_backward(&self, upstream: &Tensor) -> Result<Tensor> {
        backward(self, upstream, "softmax_backward")
    }

    /// Gradient of [`Tensor::log_softmax`], where `self` is its result y and `upstream` the gradient dy of y's shape:
    /// `dx = dy − eʸ·Σ dy`, the sum being over the last axis.
    ///
    /// # Errors
    /// As [`Tensor::softmax_backward`].
    pub fn log_softmax_backward(&self, upstream: &Tensor) -> Result<Tensor> {
        backward(self, upstream, "log_softmax_backward")
    }
}

fn forward(x: &Tensor, mask: Option<&Tensor>, name: &'static str) -> Result<Tensor> {
    x.expect_dtype(name, DType::F32)?;
    expect_axis(x, name)?;
    let mask = mask.map(|mask| checked_mask(x, mask, name)).transpose()?;
    if x.elements() == 0 {
        return Tensor::zeros(x.device(), x.shape(), DType::F32);
    }
    let x = x.contiguous()?;
    let logarithm = name == "log_softmax";
    match x.device().backend() {
        Backend::Cpu => cpu::forward(&x, mask.as_ref(), logarithm),
        Backend::Gpu(device) => gpu::forward(device, &x, mask.as_ref(), name, logarithm),
    }
}

fn backward(y: &Tensor, upstream: &Tensor, name: &'static str) -> Result<Tensor> {
    y.expect_dtype(name, DType::F32)?;
    upstream.expect_dtype(name, DType::F32)?;
    y.expect_same_device(name, upstream)?;
    upstream.expect_shape(name, y.shape())?;
    expect_axis(y, name)?;
    if y.elements() == 0 {
        return Tensor::zeros(y.device(), y.shape(), DType::F32);
    }
    let (y, upstream) = (y.contiguous()?, upstream.contiguous()?);
    let logarithm = name == "log_softmax_backward";
    match y.device().backend() {
        Backend::Cpu => cpu::backward(&y, &upstream, logarithm),
        Backend::Gpu(device) => gpu::backward(device, &y, &upstream, name, logarithm),
    }
}

fn expect_axis(x: &Tensor, operation: &'static str) -> Result<()> {
    if x.rank() > 0 {
        return Ok(());
    }
    Err(TensorError::Shape { operation, expected: "at least one axis".into(), found: *x.shape() })
}

/// The mask seen with the shape of `x`.
fn checked_mask(x: &Tensor, mask: &Tensor, operation: &'static str) -> Result<Tensor> {
    if !matches!(mask.dtype(), DType::U32 | DType::F32) {
        return Err(TensorError::DType { operation, expected: "u32 or f32 in the mask".into(), found: mask.dtype() });
    }
    x.expect_same_device(operation, mask)?;
    if Shape::broadcast(operation, x.shape(), mask.shape())? != *x.shape() {
        return Err(TensorError::Broadcast { operation, left: *x.shape(), right: *mask.shape() });
    }
    // Dense first, so that the CPU may convert its storage as a whole; usually it is already.
    mask.contiguous()?.broadcast_to(x.shape())
}

/// How rows of x find theirs in a mask that was broadcast to x.
struct MaskRows {
    offset: usize,
    column_stride: usize,
    extents: Vec<usize>,
    strides: Vec<[usize; 1]>,
}

impl MaskRows {
    fn new(mask: &Layout) -> Self {
        // The last axis exists: `forward` refuses scalars.
        let last = mask.shape.rank() - 1;
        let outer = Layout { shape: mask.shape.without_axis(last), ..*mask };
        let (extents, strides) = merge_axes([&outer]);
        MaskRows { offset: mask.offset, column_stride: mask.strides[last], extents, strides }
    }

    /// Position of the mask's element for the first column of a row.
    fn start(&self, mut row: usize) -> usize {
        let mut position = self.offset;
        for (extent, [stride]) in self.extents.iter().zip(&self.strides).rev() {
            position += row % extent * stride;
            row /= extent;
        }
        position
    }
}
