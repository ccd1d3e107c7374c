//! Products of row-scaled matrices, and what may be added to them on the way out.

use std::cell::OnceCell;

use super::cooperative::direct::Results;
use super::cooperative::{self, LowRankUpdate, Update, direct};
use super::{Product, TensorError};
use crate::device::Backend;
use crate::dtype::DType;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::ops::row_scaled;
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
    /// In tiles, as the kernels for large products read it.
    packed: OnceCell<Tensor>,
}

/// Whether a product `[rows, inner] x [inner, columns]` had better be rounded by the kernel that computes it, where its reader
/// allows that ([`LeftOperand::matmul_rounded`]): from the size on at which GPUs have kernels that do so on their way. A rule of
/// extents alone, so that all devices compute the same.
pub fn is_better_rounded(rows: usize, inner: usize, columns: usize) -> bool {
    direct::extents_suit(rows, columns, inner)
}

impl LeftOperand<'_> {
    /// [`RowScaled::matmul_plus`].
    ///
    /// # Errors
    /// As there.
    pub fn matmul_plus(&self, other: &Tensor, addends: Addends<'_>) -> Result<Tensor> {
        let product = self.product(other)?;
        let Addends { low_rank, bias, onto } = addends;
        for (addend, shape) in [(bias, &product.shape[1..]), (onto.as_ref(), &product.shape[..])] {
            if let Some(addend) = addend {
                addend.expect_dtype(NAME, DType::F32)?;
                addend.expect_same_device(NAME, other)?;
                addend.expect_shape(NAME, shape)?;
            }
        }
        let row_scales = Some(self.rows.scales());
        self.with_term(&product, low_rank, |low_rank| {
            Sums { operand: self, product: &product, other, row_scales, low_rank }.added_to(bias, onto)
        })
    }

    /// The product `[rows, k] x [k, n] -> [rows, n]`, see [`RowScaled::matmul`], plus a low-rank term of the same left operand,
    /// rounded to f16 (nearest) without the rows' powers of two, which stay this matrix's: for a reader that would round the product
    /// itself, at half the bytes.
    ///
    /// Unlike in [`Tensor::row_scaled`] a row's power is not that of its largest element: what is lost of an element is at most
    /// 2⁻¹¹ of it, or 2⁻²⁵ of the row's power, whichever is more. The rounded left operand is below 2, so a product is at most
    /// twice the sum of the magnitudes in a column of `other` times the row's power. Where that sum is above 32752, half of what
    /// f16 holds, or the low-rank term is as large, elements may become infinite.
    ///
    /// # Errors
    /// As [`RowScaled::matmul_plus`].
    pub fn matmul_rounded(&self, other: &Tensor, low_rank: Option<LowRankTerm<'_>>) -> Result<RowScaled> {
        let product = self.product(other)?;
        let values = self.with_term(&product, low_rank, |low_rank| {
            Sums { operand: self, product: &product, other, row_scales: None, low_rank }.rounded()
        })?;
        Ok(RowScaled::from_parts(values, self.rows.scales().clone()))
    }

    fn product(&self, other: &Tensor) -> Result<Product> {
        if other.rank() != 2 {
            return Err(TensorError::Shape { operation: NAME, expected: "a matrix".into(), found: *other.shape() });
        }
        Product::new(NAME, self.rows.values(), other)
    }

    /// Calls `then` with the term as kernels take it, if there is one.
    fn with_term<T>(
        &self,
        product: &Product,
        term: Option<LowRankTerm<'_>>,
        then: impl FnOnce(Option<&LowRankUpdate<'_>>) -> Result<T>,
    ) -> Result<T> {
        match term {
            Some(term) => term.checked(NAME, [product.shape[0], product.shape[1]], |update| then(Some(update))),
            None => then(None),
        }
    }

    /// The matrix as the kernels read it.
    fn packed(&self, device: &Gpu, product: &Product) -> Result<Tensor> {
        if let Some(packed) = self.packed.get() {
            return Ok(packed.clone());
        }
        let packed = direct::pack(device, product)?;
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
}

/// A product of checked operands and what its rows are multiplied by.
#[derive(Clone, Copy)]
struct Sums<'a> {
    operand: &'a LeftOperand<'a>,
    product: &'a Product,
    other: &'a Tensor,
    row_scales: Option<&'a Tensor>,
    low_rank: Option<&'a LowRankUpdate<'a>>,
}

impl Sums<'_> {
    /// The device whose kernels compute the product, if it is one of a GPU and there is anything to compute.
    fn gpu(&self) -> Option<&Gpu> {
        match self.other.device().backend() {
            Backend::Gpu(device) if self.product.shape.elements() > 0 && self.product.k > 0 => Some(device),
            _ => None,
        }
    }

    /// In f32, plus addends of the right shapes.
    fn added_to(self, bias: Option<&Tensor>, onto: Option<Tensor>) -> Result<Tensor> {
        let Sums { operand, product, other, row_scales, low_rank } = self;
        if let Some(device) = self.gpu() {
            let bias = bias.map(Tensor::contiguous).transpose()?;
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
            let results = if apart { Results::Apart } else { Results::InPlace };
            if let Some(config) = direct::plan(device, product, &update, results)? {
                let packed = operand.packed(device, product)?;
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
        let mut sum = operand.rows.values().matmul(other)?;
        if let Some(LowRankUpdate { left, right, scales: [first, second], alpha, .. }) = low_rank {
            sum = sum.add(&left.matmul_scaled(right, *alpha)?.mul(&first.mul(second)?)?)?;
        }
        if let Some(scales) = row_scales {
            sum = sum.mul(&scales.unsqueeze(1)?)?;
        }
        for addend in [bias, onto.as_ref()].into_iter().flatten() {
            sum = sum.add(addend)?;
        }
        Ok(sum)
    }

    /// In f16, rows laid out as a [`RowScaled`]'s.
    fn rounded(self) -> Result<Tensor> {
        let Sums { operand, product, other, row_scales, low_rank } = self;
        if let Some(device) = self.gpu() {
            let update = Update { alpha: 1.0, row_scales, accumulate: false, low_rank, bias: None };
            if let Some(config) = direct::plan(device, product, &update, Results::Halves)? {
                let packed = operand.packed(device, product)?;
                let out = Tensor::uninitialised(other.device(), NAME, product.shape, DType::F16)?;
                direct::write(device, config, product, &packed, &out, update, None)?;
                return Ok(out);
            }
        }
        row_scaled::padded_halves(&self.added_to(None, None)?)
    }
}
