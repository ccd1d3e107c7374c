//! Matrix products: f32 results from f32, f16 or bf16 operands, sums in f32.
//!
//! A [`Product`] is the problem as both backends see it, with all shapes checked: `[batch, m, k] x [batch, k, n]`,
//! each operand contiguous along its rows or along its columns, so that transposed views need no copy.

pub(in crate::ops) mod cooperative;
mod cpu;
#[cfg(test)]
mod cpu_tests;
mod generator;
mod gpu;
pub(super) mod indent;
mod row_scaled;
mod selection;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tuned_tests;
mod turn;

pub(in crate::ops) use cooperative::direct::reads_tiles;
pub use row_scaled::{Addends, LeftOperand, is_better_rounded};

use crate::device::Backend;
use crate::dtype::DType;
use crate::error::{Result, TensorError};
use crate::shape::{Layout, MAX_RANK, Shape, merge_axes};
use crate::tensor::Tensor;

impl Tensor {
    /// The matrix product `[.., m, k] x [.., k, n] -> [.., m, n]`; leading axes are batches and broadcast.
    ///
    /// Either operand may be f32, f16 or bf16; the result is f32, and so are the sums. Views are read where they lie as
    /// long as one of their last two axes is contiguous: `x.matmul(&weight.t()?)` copies nothing. With `k = 0` the
    /// result is zero. On the CPU the result does not depend on the number of threads.
    ///
    /// # Errors
    /// [`TensorError::Shape`] for fewer than two axes or unequal inner extents, [`TensorError::Broadcast`] for batch
    /// axes that do not broadcast, [`TensorError::DType`] for integers, [`TensorError::DeviceMismatch`], or the
    /// device's own errors.
    pub fn matmul(&self, other: &Tensor) -> Result<Tensor> {
        self.matmul_scaled(other, 1.0)
    }

    /// The product times `alpha`; see [`Tensor::matmul`].
    ///
    /// # Errors
    /// As [`Tensor::matmul`].
    pub fn matmul_scaled(&self, other: &Tensor, alpha: f32) -> Result<Tensor> {
        let product = Product::new("matmul", self, other)?;
        if product.k == 0 {
            return Tensor::zeros(self.device(), &product.shape, DType::F32);
        }
        let mut out = Tensor::uninitialised(self.device(), "matmul", product.shape, DType::F32)?;
        product.write(&mut out, alpha, false)?;
        Ok(out)
    }

    /// `self + alpha·(a x b)` for this f32 tensor of the product's shape `[.., m, n]`; see [`Tensor::matmul`].
    ///
    /// The sum is formed in place when this handle is the only holder of its elements; other holders never see it.
    ///
    /// # Errors
    /// As [`Tensor::matmul`], and when this tensor is not f32 or has another shape than the product.
    pub fn matmul_accumulate(mut self, a: &Tensor, b: &Tensor, alpha: f32) -> Result<Tensor> {
        const NAME: &str = "matmul_accumulate";
        let product = Product::new(NAME, a, b)?;
        self.expect_dtype(NAME, DType::F32)?;
        self.expect_same_device(NAME, a)?;
        self.expect_shape(NAME, &product.shape)?;
        if product.k > 0 {
            self.make_unique()?;
            product.write(&mut self, alpha, true)?;
        }
        Ok(self)
    }
}

/// One operand's last two axes: contiguous along one of them.
#[derive(Clone)]
struct Operand {
    tensor: Tensor,
    /// The last axis is the contiguous one; otherwise the one before it is.
    row_major: bool,
    /// Step along the axis that is not contiguous (0 where its extent is 1).
    stride: usize,
}

/// A batch axis: its extent and the operands' steps along it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct BatchAxis {
    extent: usize,
    a_stride: usize,
    b_stride: usize,
}

/// A product whose shapes have been checked. The result is `[batch, m, n]`, row-major.
struct Product {
    a: Operand,
    b: Operand,
    m: usize,
    n: usize,
    k: usize,
    /// Batch axes, outermost first, merged as far as the strides allow.
    batch: Vec<BatchAxis>,
    /// The result's shape with all its axes.
    shape: Shape,
}

impl Operand {
    /// The tensor as it lies where one of its last two axes is contiguous, else a contiguous copy.
    fn new(tensor: &Tensor) -> Result<Self> {
        let rank = tensor.rank();
        let [rows, columns] = [tensor.shape()[rank - 2], tensor.shape()[rank - 1]];
        let [row_stride, column_stride] = [tensor.layout.strides[rank - 2], tensor.layout.strides[rank - 1]];
        let operand = |row_major, extent, stride| Operand {
            tensor: tensor.clone(),
            row_major,
            stride: if extent > 1 { stride } else { 0 },
        };
        if column_stride == 1 {
            Ok(operand(true, rows, row_stride))
        } else if row_stride == 1 {
            Ok(operand(false, columns, column_stride))
        } else if columns <= 1 {
            Ok(operand(true, rows, row_stride))
        } else if rows <= 1 {
            Ok(operand(false, columns, column_stride))
        } else {
            Ok(Operand { tensor: tensor.copied()?, row_major: true, stride: columns })
        }
    }

    /// Steps along the rows' and the columns' axis.
    fn strides(&self) -> [usize; 2] {
        if self.row_major { [self.stride, 1] } else { [1, self.stride] }
    }

    /// Where the first element of the first matrix lies.
    fn offset(&self) -> usize {
        self.tensor.layout.offset
    }

    /// The layout of the leading axes, broadcast to `batch`.
    fn batch_layout(&self, batch: &Shape) -> Result<Layout> {
        let lead = self.tensor.rank() - 2;
        let mut strides = [0; MAX_RANK];
        strides[..lead].copy_from_slice(&self.tensor.layout.strides[..lead]);
        let layout = Layout { shape: Shape::new(&self.tensor.shape()[..lead])?, strides, offset: 0 };
        Ok(layout.broadcast_to(batch))
    }
}

impl Product {
    fn new(name: &'static str, a: &Tensor, b: &Tensor) -> Result<Self> {
        for operand in [a, b] {
            if !operand.dtype().is_float() {
                let expected = "f32, f16 or bf16".into();
                return Err(TensorError::DType { operation: name, expected, found: operand.dtype() });
            }
            if operand.rank() < 2 {
                let expected = "at least two axes".into();
                return Err(TensorError::Shape { operation: name, expected, found: *operand.shape() });
            }
        }
        a.expect_same_device(name, b)?;
        let [m, k] = [a.shape()[a.rank() - 2], a.shape()[a.rank() - 1]];
        let [inner, n] = [b.shape()[b.rank() - 2], b.shape()[b.rank() - 1]];
        if inner != k {
            let expected = format!("[.., {k}, n] to follow a left operand of shape {}", a.shape());
            return Err(TensorError::Shape { operation: name, expected, found: *b.shape() });
        }
        let lead = |tensor: &Tensor| Shape::new(&tensor.shape()[..tensor.rank() - 2]);
        let batch = Shape::broadcast(name, &lead(a)?, &lead(b)?).map_err(|_| TensorError::Broadcast {
            operation: name,
            left: *a.shape(),
            right: *b.shape(),
        })?;
        let shape = Shape::new(&[&batch[..], &[m, n]].concat())?;
        let (a, b) = (Operand::new(a)?, Operand::new(b)?);
        let (extents, strides) = merge_axes([&a.batch_layout(&batch)?, &b.batch_layout(&batch)?]);
        let axis = |(&extent, &[a_stride, b_stride]): (&usize, &[usize; 2])| BatchAxis { extent, a_stride, b_stride };
        let batch = extents.iter().zip(&strides).map(axis).collect();
        let mut product = Product { a, b, m, n, k, batch, shape };
        product.fold_batch_into_rows();
        Ok(product)
    }

    /// Batches that share the right operand are more rows of one product: `[batch, sequence, k] x [k, n]` is one large
    /// product rather than many small ones. Possible where the left operand's rows continue from batch to batch.
    fn fold_batch_into_rows(&mut self) {
        while let Some(&BatchAxis { extent, a_stride, b_stride: 0 }) = self.batch.last() {
            let [row_stride, _] = self.a.strides();
            if self.m == 1 && self.a.row_major {
                self.a.stride = a_stride;
            } else if a_stride != self.m * row_stride {
                return;
            }
            self.m *= extent;
            self.batch.pop();
        }
    }

    /// Number of matrices.
    fn batches(&self) -> usize {
        self.batch.iter().map(|axis| axis.extent).product()
    }

    /// Writes `alpha·(a x b)`, plus what was there if `accumulate`, into `out`: f32, of this product's shape, alone in
    /// its storage. `k` is not 0.
    fn write(&self, out: &mut Tensor, alpha: f32, accumulate: bool) -> Result<()> {
        if self.shape.elements() == 0 {
            return Ok(());
        }
        match out.device().backend().clone() {
            Backend::Cpu => cpu::write(self, out, alpha, accumulate),
            Backend::Gpu(device) => gpu::write(&device, self, out, alpha, accumulate),
        }
    }
}
