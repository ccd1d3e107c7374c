//! Low-rank updates of frozen matrices in mixed precision: the products of an adapter's training step, with both operands
//! in 16 bits and sums in f32.
//!
//! Let M be a matrix whose rows are Mᵢ = cᵢ·Xᵢ ([`RowScaled`]: X in f16, cᵢ powers of two), and let A = p·Â and B = q·B̂ be
//! factors, each rounded with one power of two for all of it ([`RoundedFactor`]). Then, with H = X·Âᵀ rounded to f16
//! ([`Projection`]),
//!
//! - `M·Aᵀ` has the rows cᵢ·p·Hᵢ,
//! - `M·Wᵀ + s·M·Aᵀ·Bᵀ` has the rows cᵢ·(Xᵢ·Wᵀ + s·p·q·Hᵢ·B̂ᵀ): one product whose inner extent is longer by the rank
//!   ([`RowScaled::matmul_plus`]),
//! - the gradients of the factors sum over rows: `Yᵀ·(M·Aᵀ)` for a second matrix with rows c′ᵢ·Yᵢ is Σᵢ Yᵢᵀ·(cᵢ·c′ᵢ·p·Hᵢ). The
//!   weights cᵢ·c′ᵢ are brought to at most 1 by the largest of them; a row below 2⁻²⁴ of it loses nothing that the sum would
//!   show.
//!
//! Powers of two change no digit, so no result depends on a loss scale. No number can overflow: |X| and |Â| are below 2,
//! and H is divided by a power of two that its width decides.
//!
//! What does not live here: the kernels for tensor cores (`matmul/cooperative`), which compute the same.

mod composed;
mod cpu;
mod gpu;
#[cfg(test)]
mod tests;

use crate::device::Backend;
use crate::dtype::DType;
use crate::error::{Result, TensorError};
use crate::ops::RowScaled;
use crate::ops::matmul::cooperative::{self, LowRankUpdate, Projected, ThinGradient, ThinInTiles, ThinProduct};
use crate::shape::Shape;
use crate::tensor::Tensor;

/// The rank is padded with zeros to a multiple of this many, which kernels take at a time.
const RANK_STEP: usize = 32;

const ROUNDED_FACTOR: &str = "rounded_factor";
const FACTOR_GRADIENT: &str = "factor_gradient";

/// H is at most this.
const LARGEST_PROJECTION: usize = 1 << 15;

/// A factor of a low-rank product, rounded to f16 after division by the power of two of its largest magnitude.
#[derive(Clone, Debug)]
pub struct RoundedFactor {
    /// f16 of the factor's shape, the rank padded with zeros to a multiple of [`RANK_STEP`].
    values: Tensor,
    /// The same in the order in which kernels for thin products read it, where there are any.
    in_tiles: Option<Tensor>,
    /// f32 `[1]`.
    scale: Tensor,
    rank_axis: usize,
    rank: usize,
}

/// A matrix's product with a factor, f16 `[rows, padded rank]`: row i is to be multiplied by the matrix's scale of the row,
/// by the factor's scale, and by `multiple`.
#[derive(Clone, Debug)]
pub struct Projection {
    values: Tensor,
    /// The same in the order in which kernels for thin products read it, where such a kernel computed it.
    in_tiles: Option<Tensor>,
    row_scales: Tensor,
    factor_scale: Tensor,
    multiple: f32,
}

/// A low-rank term of a product: `alpha` times a projection times a factor.
#[derive(Clone, Copy, Debug)]
pub struct LowRankTerm<'a> {
    /// The left operand's product with the one factor.
    pub projection: &'a Projection,
    /// The other factor.
    pub factor: &'a RoundedFactor,
    /// Factor of the term.
    pub alpha: f32,
}

impl Tensor {
    /// This f32 factor, `[rank, width]` with `rank_axis` 0 or `[width, rank]` with 1, rounded to f16 (nearest, ties to even)
    /// after division by the power of two of its largest magnitude. What is lost of an element is at most 2⁻¹¹ of it, or
    /// 2⁻²⁵ of the factor's largest, whichever is more.
    ///
    /// # Errors
    /// [`TensorError::Shape`] where this is no matrix or has no elements, [`TensorError::Axis`] for another axis,
    /// [`TensorError::DType`] for other types than f32, or the device's own errors.
    pub fn rounded_factor(&self, rank_axis: usize) -> Result<RoundedFactor> {
        // Proof: one factor comes of one.
        Ok(round_factors(&[(self, rank_axis)])?.pop().expect("a factor"))
    }
}

/// [`Tensor::rounded_factor`] of several factors, each with its rank's axis, at the cost of few: they share their launches.
///
/// # Errors
/// As [`Tensor::rounded_factor`], and [`TensorError::DeviceMismatch`] for factors on several devices.
pub fn round_factors(factors: &[(&Tensor, usize)]) -> Result<Vec<RoundedFactor>> {
    let Some((first, _)) = factors.first() else { return Ok(Vec::new()) };
    let padded: Vec<PaddedFactor> =
        factors.iter().map(|&(x, axis)| PaddedFactor::of(x, axis)).collect::<Result<_>>()?;
    for factor in &padded {
        first.expect_same_device(ROUNDED_FACTOR, &factor.x)?;
    }
    let rounded = match first.device().backend() {
        Backend::Cpu => padded.iter().map(cpu::round_factor).collect::<Result<_>>()?,
        Backend::Gpu(device) => gpu::round_factors(device, &padded)?,
    };
    let together = rounded.into_iter().zip(factors);
    Ok(together
        .map(|(RoundedValues { values, in_tiles, scale }, &(x, rank_axis))| RoundedFactor {
            values,
            in_tiles,
            scale,
            rank_axis,
            rank: x.shape()[rank_axis],
        })
        .collect())
}

/// What is in a [`RoundedFactor`].
struct RoundedValues {
    values: Tensor,
    in_tiles: Option<Tensor>,
    scale: Tensor,
}

/// A factor to be rounded.
struct PaddedFactor {
    /// f32, contiguous; it has elements.
    x: Tensor,
    /// The shape with the rank padded.
    shape: Shape,
}

impl PaddedFactor {
    fn of(x: &Tensor, rank_axis: usize) -> Result<Self> {
        x.expect_dtype(ROUNDED_FACTOR, DType::F32)?;
        x.check_axis(ROUNDED_FACTOR, rank_axis)?;
        if x.rank() != 2 || x.elements() == 0 {
            let expected = "a factor [rank, width] or [width, rank]".into();
            return Err(TensorError::Shape { operation: ROUNDED_FACTOR, expected, found: *x.shape() });
        }
        let mut extents = [x.shape()[0], x.shape()[1]];
        extents[rank_axis] = extents[rank_axis].next_multiple_of(RANK_STEP);
        Ok(PaddedFactor { x: x.contiguous()?, shape: Shape::new(&extents)? })
    }
}

impl RoundedFactor {
    /// The factor as `[padded rank, width]`.
    fn by_rank(&self) -> Result<Tensor> {
        if self.rank_axis == 0 { Ok(self.values.clone()) } else { self.values.t() }
    }

    /// Extent of the axis that is not the rank.
    fn width(&self) -> usize {
        self.values.shape()[1 - self.rank_axis]
    }

    /// The factor's shape before padding.
    fn shape(&self) -> [usize; 2] {
        let mut shape = [self.width(); 2];
        shape[self.rank_axis] = self.rank;
        shape
    }
}

impl LowRankTerm<'_> {
    /// Calls `then` with the term as kernels take it, checked for a result of this shape.
    pub(in crate::ops) fn checked<T>(
        &self,
        name: &'static str,
        [rows, columns]: [usize; 2],
        then: impl FnOnce(&LowRankUpdate<'_>) -> Result<T>,
    ) -> Result<T> {
        let LowRankTerm { projection, factor, alpha } = self;
        projection.values.expect_same_device(name, &factor.values)?;
        let right = factor.by_rank()?;
        let rank = right.shape()[0];
        projection.values.expect_shape(name, &[rows, rank])?;
        right.expect_shape(name, &[rank, columns])?;
        then(&LowRankUpdate {
            left: &projection.values,
            right: &right,
            in_tiles: projection.in_tiles.as_ref().zip(factor.in_tiles.as_ref()).map(|(left, right)| [left, right]),
            scales: [&projection.factor_scale, &factor.scale],
            alpha: alpha * projection.multiple,
        })
    }
}

/// The products `[rows, width] x [width, rank]` of matrices with factors, rounded to f16, each matrix with a factor of its own.
/// Those of layers that are computed at the same time belong in one call: equal shapes share their launches. How many do decides in which order tensor cores add up.
///
/// # Errors
/// [`TensorError::Shape`] when a factor has another width than its matrix, [`TensorError::DeviceMismatch`], or the device's
/// own errors.
pub fn projections(products: &[(&RowScaled, &RoundedFactor)]) -> Result<Vec<Projection>> {
    const NAME: &str = "project";
    let Some((first, _)) = products.first() else { return Ok(Vec::new()) };
    for (matrix, factor) in products {
        first.values().expect_same_device(NAME, matrix.values())?;
        matrix.values().expect_same_device(NAME, &factor.values)?;
        matrix.values().expect_shape(NAME, &[matrix.values().shape()[0], factor.width()])?;
    }
    let right: Vec<Tensor> = products.iter().map(|(_, factor)| factor.by_rank()?.t()).collect::<Result<_>>()?;
    let thin: Vec<_> = products
        .iter()
        .zip(&right)
        .map(|((matrix, factor), right)| ThinProduct {
            wide: matrix.values(),
            thin: right,
            thin_in_tiles: factor
                .in_tiles
                .as_ref()
                .map(|kept| ThinInTiles { kept, is_transpose: factor.rank_axis == 0 }),
            row_scales: None,
            transposed: false,
        })
        .collect();
    let computed = cooperative::project(&thin, |width| 1.0 / multiple(width))?;
    let together = computed.into_iter().zip(&thin).zip(products);
    together
        .map(|((computed, thin), (matrix, factor))| {
            let multiple = multiple(factor.width());
            let Projected { values, in_tiles } = match computed {
                Some(projected) => projected,
                None => Projected { values: composed::project(thin, 1.0 / multiple)?, in_tiles: None },
            };
            let (row_scales, factor_scale) = (matrix.scales().clone(), factor.scale.clone());
            Ok(Projection { values, in_tiles, row_scales, factor_scale, multiple })
        })
        .collect()
}

/// What a projection is divided by: elements of both operands are below 2.
fn multiple(width: usize) -> f32 {
    (4 * width).div_ceil(LARGEST_PROJECTION).next_power_of_two() as f32
}

/// The gradient of a factor: `alpha·Mᵀ·P` for a matrix M and a projection P of another matrix with as many rows.
#[derive(Clone, Copy, Debug)]
pub struct FactorGradient<'a> {
    /// M.
    pub matrix: &'a RowScaled,
    /// P.
    pub projection: &'a Projection,
    /// The factor.
    pub like: &'a RoundedFactor,
    /// Factor of the product.
    pub alpha: f32,
}

/// The gradients, in f32 and each of its factor's shape, added to the total beside it, whose storage is used again where nobody
/// else holds it. Those of layers that are computed at the same time belong in one call: several cost fewer launches together
/// than one by one. As with [`projections`] their number decides the order of sums.
///
/// # Errors
/// [`TensorError::Shape`] for extents that do not fit together, [`TensorError::DType`] for a total of another type than f32,
/// [`TensorError::DeviceMismatch`], or the device's own errors.
pub fn factor_gradients(gradients: Vec<(FactorGradient<'_>, Option<Tensor>)>) -> Result<Vec<Tensor>> {
    let (gradients, mut totals): (Vec<_>, Vec<_>) = gradients.into_iter().unzip();
    for (gradient, total) in gradients.iter().zip(&totals) {
        gradient.check(total.as_ref())?;
        gradients[0].matrix.values().expect_same_device(FACTOR_GRADIENT, gradient.matrix.values())?;
    }
    let wide: Vec<Tensor> = gradients.iter().map(|gradient| gradient.matrix.values().t()).collect::<Result<_>>()?;
    let thin: Vec<_> = gradients.iter().zip(&wide).map(|(gradient, wide)| gradient.thin(wide)).collect();
    let computed = cooperative::factor_gradients(&thin, &mut totals)?;
    let together = computed.into_iter().zip(totals).zip(thin.iter().zip(&gradients));
    let rest = together.map(|((computed, total), (thin, gradient))| match (computed, total) {
        (Some(computed), _) => Ok(computed),
        (None, Some(total)) => total.add(&composed::factor_gradient(thin, gradient.like.rank)?),
        (None, None) => composed::factor_gradient(thin, gradient.like.rank),
    });
    rest.collect()
}

impl FactorGradient<'_> {
    fn check(&self, total: Option<&Tensor>) -> Result<()> {
        let FactorGradient { matrix, projection, like, .. } = self;
        if let Some(total) = total {
            total.expect_dtype(FACTOR_GRADIENT, DType::F32)?;
            total.expect_same_device(FACTOR_GRADIENT, matrix.values())?;
            total.expect_shape(FACTOR_GRADIENT, &like.shape())?;
        }
        let rows = matrix.values().shape()[0];
        matrix.values().expect_same_device(FACTOR_GRADIENT, &projection.values)?;
        matrix.values().expect_shape(FACTOR_GRADIENT, &[rows, like.width()])?;
        projection.values.expect_shape(FACTOR_GRADIENT, &[rows, like.rank.next_multiple_of(RANK_STEP)])
    }

    /// As kernels take it; `wide` is the matrix's transpose.
    fn thin<'a>(&'a self, wide: &'a Tensor) -> ThinGradient<'a> {
        let FactorGradient { matrix, projection, like, alpha } = self;
        let product = ThinProduct {
            wide,
            thin: &projection.values,
            thin_in_tiles: projection.in_tiles.as_ref().map(|kept| ThinInTiles { kept, is_transpose: false }),
            row_scales: Some([matrix.scales(), &projection.row_scales]),
            transposed: like.rank_axis == 0,
        };
        let alpha = alpha * projection.multiple;
        ThinGradient { product, shape: like.shape(), scale: &projection.factor_scale, alpha }
    }
}
