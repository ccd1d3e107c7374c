//! Products of row-scaled matrices, and what may be added to them on the way out.

use std::cell::OnceCell;

use super::cooperative::{self, LowRankUpdate, Update, direct};
use super::{Product, TensorError};
use crate::device::Backend;
use crate::dtype::DType;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::ops::{LowRankTerm, RowScaled};
use crate::tensor::Tensor;

const NAME: &str = "row_scaled_matmul";

/// What is added to a product; nothing by default.
#[derive(Debug, Default)]
pub struct Addends<'a> {
    /// A low-rank term of the same left operand.
    pub low_rank: Option<LowRankTerm<'a>>,
    /// f32 `[n]`, added to every row.
    pub bias: Option<&'a Tensor>,
    /// f32 of the product's shape. The sum is formed in place where this is the only holder of its elements.
    pub onto: Option<Tensor>,
}

/// A row-scaled matrix whose products with several matrices are wanted: what kernels make of it beforehand they share.
#[derive(Debug)]
pub struct LeftOperand<'a> {
    rows: &'a RowScaled,
    /// In the order in which products with transposes read it.
    packed: OnceCell<Tensor>,
}

impl LeftOperand<'_> {
    /// [`RowScaled::matmul_plus`].
    ///
    /// # Errors
    /// As there.
    pub fn matmul_plus(&self, other: &Tensor, addends: Addends<'_>) -> Result<Tensor> {
        self.rows.checked_product(self, other, addends)
    }

    /// The matrix as the kernel reads it.
    fn packed(&self, device: &Gpu, config: direct::Config, product: &Product) -> Result<Tensor> {
        if !config.transposed {
            return direct::pack(device, config, product);
        }
        if let Some(packed) = self.packed.get() {
            return Ok(packed.clone());
        }
        let packed = direct::pack(device, config, product)?;
        Ok(self.packed.get_or_init(|| packed).clone())
    }
}

impl RowScaled {
    /// This matrix as the left operand of several products.
    pub fn as_left_operand(&self) -> LeftOperand<'_> {
        LeftOperand { rows: self, packed: OnceCell::new() }
    }

    /// The matrix product `[rows, k] x [k, n] -> [rows, n]` of the rounded matrix, in f32; see [`Tensor::matmul`].
    ///
    /// With an f16 `other` it runs on tensor cores where the device has them and the shape suits; the sums are f32
    /// everywhere, and backends differ only in their order.
    ///
    /// # Errors
    /// As [`Tensor::matmul`], and [`TensorError::Shape`] where `other` is no matrix.
    pub fn matmul(&self, other: &Tensor) -> Result<Tensor> {
        self.matmul_plus(other, Addends::default())
    }

    /// The product, see [`RowScaled::matmul`], plus something.
    ///
    /// # Errors
    /// As [`RowScaled::matmul`], and [`TensorError::Shape`], [`TensorError::DType`] or [`TensorError::DeviceMismatch`] for
    /// addends that do not suit the product.
    pub fn matmul_plus(&self, other: &Tensor, addends: Addends<'_>) -> Result<Tensor> {
        self.as_left_operand().matmul_plus(other, addends)
    }

    fn checked_product(&self, operand: &LeftOperand<'_>, other: &Tensor, addends: Addends<'_>) -> Result<Tensor> {
        if other.rank() != 2 {
            return Err(TensorError::Shape { operation: NAME, expected: "a matrix".into(), found: *other.shape() });
        }
        let product = Product::new(NAME, self.values(), other)?;
        let Addends { low_rank, bias, onto } = addends;
        for (addend, shape) in [(bias, &product.shape[1..]), (onto.as_ref(), &product.shape[..])] {
            if let Some(addend) = addend {
                addend.expect_dtype(NAME, DType::F32)?;
                addend.expect_same_device(NAME, other)?;
                addend.expect_shape(NAME, shape)?;
            }
        }
        match low_rank {
            Some(term) => {
                let shape = [product.shape[0], product.shape[1]];
                term.checked(NAME, shape, |update| self.sum(operand, &product, other, Some(update), bias, onto))
            }
            None => self.sum(operand, &product, other, None, bias, onto),
        }
    }

    /// The product plus addends of the right shapes.
    fn sum(
        &self,
        operand: &LeftOperand<'_>,
        product: &Product,
        other: &Tensor,
        low_rank: Option<&LowRankUpdate<'_>>,
        bias: Option<&Tensor>,
        onto: Option<Tensor>,
    ) -> Result<Tensor> {
        if let Backend::Gpu(device) = other.device().backend()
            && product.shape.elements() > 0
            && product.k > 0
        {
            let bias = bias.map(Tensor::contiguous).transpose()?;
            let row_scales = Some(self.scales());
            let update = Update { alpha: 1.0, row_scales, accumulate: onto.is_some(), low_rank, bias: bias.as_ref() };
            let result = |onto: Option<Tensor>| -> Result<Tensor> {
                let mut out = match onto {
                    Some(onto) => onto,
                    None => Tensor::uninitialised(other.device(), NAME, product.shape, DType::F32)?,
                };
                out.make_unique()?;
                Ok(out)
            };
            // What others hold is read where it is.
            let apart = onto.as_ref().is_some_and(|onto| !onto.is_unique() && onto.is_whole());
            if let Some(config) = direct::plan(device, product, &update, apart)? {
                let packed = operand.packed(device, config, product)?;
                let (onto, addend) = if apart { (None, onto) } else { (onto, None) };
                let out = result(onto)?;
                direct::write(device, config, product, &packed, &out, update, addend.as_ref())?;
                return Ok(out);
            }
            if let Some(plan) = cooperative::plan(device, product, &update)? {
                let out = result(onto)?;
                cooperative::write(device, plan, product, &out, update)?;
                return Ok(out);
            }
        }
        let mut sum = self.values().matmul(other)?;
        if let Some(LowRankUpdate { left, right, scales: [first, second], alpha }) = low_rank {
            sum = sum.add(&left.matmul_scaled(right, *alpha)?.mul(&first.mul(second)?)?)?;
        }
        sum = sum.mul(&self.scales().unsqueeze(1)?)?;
        for addend in [bias, onto.as_ref()].into_iter().flatten() {
            sum = sum.add(addend)?;
        }
        Ok(sum)
    }
}
