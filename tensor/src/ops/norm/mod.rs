//! RMS normalisation and layer normalisation over the last axis, and their derivatives. f32.
//!
//! Both are y = x̂·weight (+ bias) with x̂ = (x − μ)·r and r = 1/√(mean((x − μ)²) + ε); layer normalisation subtracts
//! the mean μ, RMS normalisation has μ = 0 and no bias. One set of kernels serves both.

mod cpu;
mod gpu;
#[cfg(test)]
mod tests;

use crate::device::Backend;
use crate::dtype::DType;
use crate::error::{Result, TensorError};
use crate::ops::row_scaled::{RowInput, RowKernel, RowNumbers, RowScaled};
use crate::tensor::Tensor;

/// Which normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Norm {
    /// μ = 0.
    RootMeanSquare,
    /// μ is the mean over the last axis.
    Layer,
}

impl Norm {
    /// True where the mean is subtracted.
    fn is_centred(self) -> bool {
        self == Norm::Layer
    }
}

impl Tensor {
    /// RMS normalisation over the last axis: `y = x / √(mean(x²) + epsilon) · weight`, weight `[hidden]`.
    ///
    /// # Errors
    /// [`TensorError::Shape`] for a scalar or a weight that is not `[hidden]`, [`TensorError::DType`] for other types
    /// than f32, [`TensorError::DeviceMismatch`], or the device's own errors.
    pub fn rms_norm(&self, weight: &Tensor, epsilon: f32) -> Result<Tensor> {
        forward(self, weight, None, epsilon, Norm::RootMeanSquare, "rms_norm")
    }

    /// As [`Tensor::rms_norm`], as a matrix of rows along the last axis that are rounded as [`Tensor::row_scaled`] does: one
    /// pass over memory, and the result never exists in f32.
    ///
    /// # Errors
    /// As [`Tensor::rms_norm`].
    pub fn rms_norm_row_scaled(&self, weight: &Tensor, epsilon: f32) -> Result<RowScaled> {
        const NAME: &str = "rms_norm_row_scaled";
        let hidden = checked_hidden(self, NAME)?;
        check_operand(self, weight, &[hidden], NAME)?;
        let rows = self.shape()[..self.rank() - 1].iter().product();
        match self.device().backend() {
            Backend::Gpu(device) if self.elements() > 0 => {
                let (x, weight) = (self.contiguous()?, weight.contiguous()?);
                let kernel = RowKernel {
                    name: NAME,
                    text: include_str!("rounded.wgsl"),
                    inputs: vec![("x", RowInput::Rows(&x)), ("weight", RowInput::Shared(&weight))],
                    shape: [rows, hidden],
                    operands: 1,
                    numbers: RowNumbers { epsilon, ..RowNumbers::default() },
                };
                let [rounded] = kernel.run(device)?;
                Ok(rounded)
            }
            _ => self.rms_norm(weight, epsilon)?.reshape(&[rows, hidden])?.row_scaled(),
        }
    }

    /// Layer normalisation over the last axis: `y = (x − mean(x)) / √(variance(x) + epsilon) · weight + bias` with the
    /// biased variance; weight and bias `[hidden]`.
    ///
    /// # Errors
    /// As [`Tensor::rms_norm`].
    pub fn layer_norm(&self, weight: &Tensor, bias: &Tensor, epsilon: f32) -> Result<Tensor> {
        forward(self, weight, Some(bias), epsilon, Norm::Layer, "layer_norm")
    }
}

/// Gradient of [`Tensor::rms_norm`] with respect to x, of x's shape: with r = 1/√(mean(x²) + epsilon), x̂ = x·r and
/// g = upstream·weight, `dx = r·(g − x̂·mean(g·x̂))`; plus `total`, the gradient that x has from elsewhere. The sum is formed
/// in place when the handle of `total` is the only holder of its elements.
///
/// # Errors
/// [`TensorError::Shape`] when `upstream` or `total` does not have x's shape or `weight` is not `[hidden]`, otherwise as
/// [`Tensor::rms_norm`].
pub fn rms_norm_backward(
    x: &Tensor,
    weight: &Tensor,
    epsilon: f32,
    upstream: &Tensor,
    total: Option<Tensor>,
) -> Result<Tensor> {
    backward(x, weight, epsilon, upstream, total, (Norm::RootMeanSquare, "rms_norm_backward"))
}

/// Gradient of [`Tensor::rms_norm`] with respect to the weight, `[hidden]`: `Σ upstream·x̂` over all rows.
///
/// # Errors
/// As [`rms_norm_backward`].
pub fn rms_norm_weight_gradient(x: &Tensor, epsilon: f32, upstream: &Tensor) -> Result<Tensor> {
    Ok(parameter_gradients(x, epsilon, upstream, Norm::RootMeanSquare, "rms_norm_weight_gradient")?.0)
}

/// Gradient of [`Tensor::layer_norm`] with respect to x, of x's shape: with r = 1/√(variance(x) + epsilon),
/// x̂ = (x − mean(x))·r and g = upstream·weight, `dx = r·(g − mean(g) − x̂·mean(g·x̂))`; plus `total` as in
/// [`rms_norm_backward`].
///
/// # Errors
/// As [`rms_norm_backward`].
pub fn layer_norm_backward(
    x: &Tensor,
    weight: &Tensor,
    epsilon: f32,
    upstream: &Tensor,
    total: Option<Tensor>,
) -> Result<Tensor> {
    backward(x, weight, epsilon, upstream, total, (Norm::Layer, "layer_norm_backward"))
}

/// Gradients of [`Tensor::layer_norm`] with respect to weight and bias, each `[hidden]`: `Σ upstream·x̂` and
/// `Σ upstream` over all rows.
///
/// # Errors
/// As [`rms_norm_backward`].
pub fn layer_norm_parameter_gradients(x: &Tensor, epsilon: f32, upstream: &Tensor) -> Result<(Tensor, Tensor)> {
    parameter_gradients(x, epsilon, upstream, Norm::Layer, "layer_norm_parameter_gradients")
}

fn forward(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    epsilon: f32,
    norm: Norm,
    name: &'static str,
) -> Result<Tensor> {
    let hidden = checked_hidden(x, name)?;
    for parameter in [Some(weight), bias].into_iter().flatten() {
        check_operand(x, parameter, &[hidden], name)?;
    }
    if x.elements() == 0 {
        return Tensor::zeros(x.device(), x.shape(), DType::F32);
    }
    let (x, weight) = (x.contiguous()?, weight.contiguous()?);
    let bias = bias.map(Tensor::contiguous).transpose()?;
    match x.device().backend() {
        Backend::Cpu => cpu::forward(&x, &weight, bias.as_ref(), epsilon, norm),
        Backend::Gpu(device) => gpu::forward(device, &x, &weight, bias.as_ref(), epsilon, norm, name),
    }
}

fn backward(
    x: &Tensor,
    weight: &Tensor,
    epsilon: f32,
    upstream: &Tensor,
    mut total: Option<Tensor>,
    (norm, name): (Norm, &'static str),
) -> Result<Tensor> {
    let hidden = checked_hidden(x, name)?;
    check_operand(x, weight, &[hidden], name)?;
    for operand in [Some(upstream), total.as_ref()].into_iter().flatten() {
        check_operand(x, operand, x.shape(), name)?;
    }
    if x.elements() == 0 {
        return Tensor::zeros(x.device(), x.shape(), DType::F32);
    }
    let (x, weight, upstream) = (x.contiguous()?, weight.contiguous()?, upstream.contiguous()?);
    match x.device().backend() {
        Backend::Cpu => cpu::backward(&x, &weight, epsilon, &upstream, total, norm),
        Backend::Gpu(device) => {
            total.as_mut().map(Tensor::make_unique).transpose()?;
            gpu::backward(device, &x, &weight, epsilon, &upstream, total, (norm, name))
        }
    }
}

/// The gradients of weight and bias; for RMS normalisation the second is the first again and of no meaning.
fn parameter_gradients(
    x: &Tensor,
    epsilon: f32,
    upstream: &Tensor,
    norm: Norm,
    name: &'static str,
) -> Result<(Tensor, Tensor)> {
    let hidden = checked_hidden(x, name)?;
    check_operand(x, upstream, x.shape(), name)?;
    if x.elements() == 0 {
        let zeros = Tensor::zeros(x.device(), &[hidden], DType::F32)?;
        return Ok((zeros.clone(), zeros));
    }
    let (x, upstream) = (x.contiguous()?, upstream.contiguous()?);
    let gradients = match x.device().backend() {
        Backend::Cpu => cpu::parameter_gradients(&x, epsilon, &upstream, norm)?,
        Backend::Gpu(device) => gpu::parameter_gradients(device, &x, epsilon, &upstream, norm, name)?,
    };
    // [1 or 2, hidden]: the weight's gradient first, the bias's last.
    Ok((gradients.select(0, 0)?, gradients.select(0, gradients.shape()[0] - 1)?))
}

/// The extent of the normalised axis.
fn checked_hidden(x: &Tensor, operation: &'static str) -> Result<usize> {
    x.expect_dtype(operation, DType::F32)?;
    match x.shape().last() {
        Some(&hidden) => Ok(hidden),
        None => Err(TensorError::Shape { operation, expected: "at least one axis".into(), found: *x.shape() }),
    }
}

fn check_operand(x: &Tensor, operand: &Tensor, shape: &[usize], operation: &'static str) -> Result<()> {
    operand.expect_dtype(operation, DType::F32)?;
    x.expect_same_device(operation, operand)?;
    operand.expect_shape(operation, shape)
}
