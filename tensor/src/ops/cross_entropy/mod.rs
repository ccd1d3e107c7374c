//! Cross-entropy of rows of logits against labels, and its derivative in place of the logits.

mod cpu;
mod gpu;
#[cfg(test)]
mod tests;

use crate::device::Backend;
use crate::dtype::DType;
use crate::error::{Result, TensorError};
use crate::ops::row_scaled::{RowInput, RowKernel, RowNumbers, RowScaled};
use crate::tensor::Tensor;

/// What [`cross_entropy`] returns.
#[derive(Clone, Debug)]
pub struct CrossEntropy {
    /// −ln softmax(logits)\[label\] of every row, f32 `[rows]`; 0 where the label is ignored.
    pub losses: Tensor,
    /// ln Σ exp(logits) of every row, f32 `[rows]`; [`cross_entropy_backward`] needs it.
    pub log_sum_exp: Tensor,
}

/// The cross-entropy of each row of `logits`, f32 `[rows, vocabulary]`, against its label, i32 `[rows]`:
/// `losses[r] = ln Σⱼ exp(logits[r, j]) − logits[r, labels[r]]`. Rows whose label is `ignore` lose nothing.
///
/// A label that is neither `ignore` nor a column is an error on the CPU and a NaN loss on a GPU, which cannot report it
/// without being waited for.
///
/// # Errors
/// [`TensorError::Shape`] (also for a vocabulary of 0), [`TensorError::DType`], [`TensorError::InvalidArgument`] for a
/// label that is no column (on the CPU), [`TensorError::DeviceMismatch`], or the device's own errors.
pub fn cross_entropy(logits: &Tensor, labels: &Tensor, ignore: i32) -> Result<CrossEntropy> {
    check("cross_entropy", logits, labels)?;
    // Rows may lie apart; the elements of one may not.
    let rows_are_dense = logits.shape()[1] == 1 || logits.layout.strides[1] == 1;
    let logits = if rows_are_dense { logits.clone() } else { logits.contiguous()? };
    let labels = labels.contiguous()?;
    match logits.device().backend() {
        Backend::Cpu => cpu::forward(&logits, &labels, ignore),
        Backend::Gpu(gpu) => gpu::forward(gpu, &logits, &labels, ignore),
    }
}

/// The gradient with respect to the logits, `scale · (softmax(logits) − onehot(labels))`, where rows whose label is
/// `ignore` are 0. `log_sum_exp` is what [`cross_entropy`] returned. The logits are given up: where nobody else holds
/// them, the gradient takes their memory.
///
/// On a GPU the gradient of a row whose label is no column is NaN.
///
/// # Errors
/// As [`cross_entropy`].
pub fn cross_entropy_backward(
    mut logits: Tensor,
    labels: &Tensor,
    ignore: i32,
    log_sum_exp: &Tensor,
    scale: f32,
) -> Result<Tensor> {
    check("cross_entropy_backward", &logits, labels)?;
    log_sum_exp.expect_dtype("cross_entropy_backward", DType::F32)?;
    log_sum_exp.expect_shape("cross_entropy_backward", labels.shape())?;
    logits.expect_same_device("cross_entropy_backward", log_sum_exp)?;
    logits.make_unique()?;
    let (labels, log_sum_exp) = (labels.contiguous()?, log_sum_exp.contiguous()?);
    match logits.device().clone().backend() {
        Backend::Cpu => cpu::backward(&mut logits, &labels, ignore, &log_sum_exp, scale)?,
        Backend::Gpu(gpu) => gpu::backward(gpu, &logits, &labels, ignore, &log_sum_exp, scale)?,
    }
    Ok(logits)
}

/// The losses of [`cross_entropy`], and the gradient of [`cross_entropy_backward`] rounded to 16 bits row by row
/// ([`Tensor::row_scaled`]), which is all that products in mixed precision take: it never exists in f32. The logits stay as they
/// are.
///
/// # Errors
/// As [`cross_entropy`].
pub fn cross_entropy_with_gradient(
    logits: &Tensor,
    labels: &Tensor,
    ignore: i32,
    scale: f32,
) -> Result<(Tensor, RowScaled)> {
    check("cross_entropy_with_gradient", logits, labels)?;
    let (logits, labels) = (logits.contiguous()?, labels.contiguous()?);
    if let Backend::Gpu(gpu) = logits.device().backend()
        && gpu::reads_vectors(&logits)
    {
        return gpu::with_gradient(gpu, &logits, &labels, ignore, scale);
    }
    let CrossEntropy { losses, log_sum_exp } = cross_entropy(&logits, &labels, ignore)?;
    let gradient = backward_rounded(&logits, &labels, ignore, &log_sum_exp, scale)?;
    Ok((losses, gradient))
}

/// As [`cross_entropy_backward`] of contiguous operands, rounded.
fn backward_rounded(
    logits: &Tensor,
    labels: &Tensor,
    ignore: i32,
    log_sum_exp: &Tensor,
    scale: f32,
) -> Result<RowScaled> {
    let Backend::Gpu(gpu) = logits.device().backend() else {
        return cross_entropy_backward(logits.clone(), labels, ignore, log_sum_exp, scale)?.row_scaled();
    };
    let (rows, columns) = (logits.shape()[0], logits.shape()[1]);
    if rows == 0 {
        return RowScaled::without_elements(logits.device(), rows, columns);
    }
    let kernel = RowKernel {
        name: "cross_entropy_backward_rounded",
        text: include_str!("rounded.wgsl"),
        inputs: vec![
            ("x", RowInput::Rows(logits)),
            ("sum", RowInput::Floats(log_sum_exp)),
            ("label", RowInput::Integers(labels)),
        ],
        shape: [rows, columns],
        operands: 1,
        numbers: RowNumbers { scale, ignore, ..RowNumbers::default() },
    };
    let [rounded] = kernel.run(gpu)?;
    Ok(rounded)
}

fn check(operation: &'static str, logits: &Tensor, labels: &Tensor) -> Result<()> {
    logits.expect_dtype(operation, DType::F32)?;
    labels.expect_dtype(operation, DType::I32)?;
    logits.expect_same_device(operation, labels)?;
    match logits.shape()[..] {
        [rows, vocabulary] if vocabulary > 0 => labels.expect_shape(operation, &[rows]),
        _ => {
            let expected = "logits [rows, vocabulary] of at least one column".into();
            Err(TensorError::Shape { operation, expected, found: *logits.shape() })
        }
    }
}
