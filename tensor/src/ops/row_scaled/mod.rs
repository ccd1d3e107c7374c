//! Matrices in 16 bits with a power of two for each row: the operands of mixed-precision products.
//!
//! An f16 holds 11 significant bits but only 30 powers of two, and activations and gradients have any magnitude. So each
//! row is divided by the power of two of its largest element before it is rounded, which is exact, and the product's rows
//! are multiplied by it again. No row can overflow, and none can vanish: what is lost of an element is at most 2⁻¹¹ of it, or
//! 2⁻²⁵ of the row's largest, whichever is more. A loss scale multiplies a whole gradient by a power of two, which changes
//! nothing here but the rows' powers: that is why training needs none. Only a product that leaves its kernel in 16 bits
//! ([`LeftOperand::matmul_rounded`](crate::LeftOperand::matmul_rounded)) has its left operand's powers in place of its own.

mod cpu;
mod generator;
mod gpu;
#[cfg(test)]
mod tests;

pub(super) use self::cpu::power_of_two;
pub(crate) use self::gpu::{RowInput, RowKernel, RowNumbers};
use crate::device::{Backend, Device};
use crate::dtype::DType;
use crate::error::{Result, TensorError};
use crate::ops::slots;
use crate::shape::Shape;
use crate::tensor::Tensor;

/// A matrix rounded to f16, row i divided by `scales[i]`, a power of two.
#[derive(Clone, Debug)]
pub struct RowScaled {
    values: Tensor,
    scales: Tensor,
}

/// Bounds of the rows' powers of two: within them both the power and its reciprocal are normal f32 numbers, which no device
/// takes for zero.
pub(super) const EXPONENTS: [i32; 2] = [-126, 126];

/// Rows of the rounded matrix begin at multiples of this many elements, so that kernels read vectors.
const ALIGNMENT: usize = 4;

impl Tensor {
    /// This f32 matrix `[rows, columns]` rounded to f16 (nearest, ties to even), each row divided by the power of two of its
    /// largest magnitude first, so that this one lies in [1, 2). A row of zeros stays one; infinities and NaN stay what they
    /// are and make no other row worse. Elements below 2⁻¹²⁶ may be taken for zero.
    ///
    /// # Errors
    /// [`TensorError::Shape`] where this is no matrix, [`TensorError::DType`] for other types than f32, or the device's own
    /// errors.
    pub fn row_scaled(&self) -> Result<RowScaled> {
        // Proof: one matrix comes of one.
        Ok(row_scaled_together(&[self])?.pop().expect("a matrix"))
    }

    /// The product with a matrix as mixed precision computes it: where `other` is f16, this matrix is rounded as well, see
    /// [`Tensor::row_scaled`]; otherwise [`Tensor::matmul`].
    ///
    /// # Errors
    /// As [`Tensor::row_scaled`] and [`RowScaled::matmul`].
    pub fn mixed_matmul(&self, other: &Tensor) -> Result<Tensor> {
        if other.dtype() == DType::F16 { self.row_scaled()?.matmul(other) } else { self.matmul(other) }
    }
}

/// [`Tensor::row_scaled`] of several matrices at the cost of few: equal shapes share their launches.
///
/// # Errors
/// As [`Tensor::row_scaled`], and [`TensorError::DeviceMismatch`] for matrices on several devices.
pub fn row_scaled_together(xs: &[&Tensor]) -> Result<Vec<RowScaled>> {
    const NAME: &str = "row_scaled";
    let Some(first) = xs.first() else { return Ok(Vec::new()) };
    for x in xs {
        x.expect_dtype(NAME, DType::F32)?;
        x.expect_same_device(NAME, first)?;
        if x.rank() != 2 {
            let expected = "a matrix [rows, columns]".into();
            return Err(TensorError::Shape { operation: NAME, expected, found: *x.shape() });
        }
    }
    let groups = slots::groups(xs.iter().enumerate(), usize::MAX, |(_, x), (_, y)| x.shape() == y.shape());
    let mut rounded = vec![None; xs.len()];
    for group in groups {
        let alike: Vec<&Tensor> = group.iter().map(|(_, x)| **x).collect();
        for ((place, _), matrix) in group.into_iter().zip(round(&alike)?) {
            rounded[place] = Some(matrix);
        }
    }
    // Proof: each matrix is in a group, and each of a group comes back.
    Ok(rounded.into_iter().map(|matrix| matrix.expect("a matrix")).collect())
}

/// Rounds matrices of one shape.
fn round(xs: &[&Tensor]) -> Result<Vec<RowScaled>> {
    let (device, [rows, columns]) = (xs[0].device(), [xs[0].shape()[0], xs[0].shape()[1]]);
    if xs[0].elements() == 0 {
        return xs.iter().map(|_| RowScaled::without_elements(device, rows, columns)).collect();
    }
    let xs: Vec<Tensor> = xs.iter().map(|x| x.contiguous()).collect::<Result<_>>()?;
    let alone = |x: &Tensor| -> Result<RowScaled> {
        let (values, scales) = cpu::round(x, padded(rows, columns)?)?;
        Ok(RowScaled { values: values.slice(1, 0, columns)?, scales })
    };
    match device.backend() {
        Backend::Cpu => xs.iter().map(alone).collect(),
        Backend::Gpu(device) => gpu::round(device, &xs),
    }
}

/// An f32 matrix in f16 as it is, in a [`RowScaled`]'s order.
pub(super) fn padded_halves(x: &Tensor) -> Result<Tensor> {
    let [rows, columns] = [x.shape()[0], x.shape()[1]];
    let padding = padded(rows, columns)?[1] - columns;
    if padding == 0 || x.elements() == 0 {
        return x.cast(DType::F16);
    }
    let zeros = Tensor::zeros(x.device(), &[rows, padding], DType::F32)?;
    Tensor::concat(&[x, &zeros], 1)?.cast(DType::F16)?.slice(1, 0, columns)
}

/// The shape in storage of `[rows, columns]`.
fn padded(rows: usize, columns: usize) -> Result<Shape> {
    Shape::new(&[rows, columns.next_multiple_of(ALIGNMENT)])
}

impl RowScaled {
    /// A matrix without rows or without columns.
    pub(crate) fn without_elements(device: &Device, rows: usize, columns: usize) -> Result<Self> {
        let values = Tensor::zeros(device, &[rows, columns], DType::F16)?;
        Ok(RowScaled { values, scales: Tensor::ones(device, &[rows], DType::F32)? })
    }

    /// Rows and columns.
    pub fn shape(&self) -> &Shape {
        self.values.shape()
    }

    /// The device the matrix is on.
    pub fn device(&self) -> &Device {
        self.values.device()
    }

    /// What an operation rounded itself: f16 `[rows, columns]` and f32 powers of two `[rows]`.
    pub(super) fn from_parts(values: Tensor, scales: Tensor) -> Self {
        RowScaled { values, scales }
    }

    /// The rounded elements, f16 `[rows, columns]`.
    pub fn values(&self) -> &Tensor {
        &self.values
    }

    /// What each row is to be multiplied by, f32 `[rows]`.
    pub fn scales(&self) -> &Tensor {
        &self.scales
    }

    /// The matrix in f32 again.
    ///
    /// # Errors
    /// The device's own errors.
    pub fn restored(&self) -> Result<Tensor> {
        self.values.cast(DType::F32)?.mul(&self.scales.unsqueeze(1)?)
    }
}
