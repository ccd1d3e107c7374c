//! The products from operations that every device has.

use crate::dtype::DType;
use crate::error::Result;
use crate::ops::matmul::cooperative::{ThinGradient, ThinProduct};
use crate::tensor::Tensor;

/// `alpha` times the product, in f16.
pub(super) fn project(product: &ThinProduct<'_>, alpha: f32) -> Result<Tensor> {
    product.wide.matmul_scaled(product.thin, alpha)?.cast(DType::F16)
}

/// The gradient, its columns cut to `rank`.
pub(super) fn factor_gradient(gradient: &ThinGradient<'_>, rank: usize) -> Result<Tensor> {
    let ThinGradient { product, scale, alpha, .. } = gradient;
    let mut thin = product.thin.slice(1, 0, rank)?.cast(DType::F32)?;
    for scales in product.row_scales.into_iter().flatten() {
        thin = thin.mul(&scales.unsqueeze(1)?)?;
    }
    let result = match product.transposed {
        false => product.wide.matmul_scaled(&thin, *alpha)?,
        true => thin.t()?.matmul_scaled(&product.wide.t()?, *alpha)?,
    };
    result.mul(scale)
}
