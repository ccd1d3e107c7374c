//! Losses of whole tensors.

use tensor::{Result, Tensor};

use super::record_unary;
use crate::tape::misuse;
use crate::var::Var;

/// The mean cross-entropy of `logits`, `[rows, vocab]`, against `labels`, i32 `[rows]`, over the `valid` rows whose
/// label is not `ignore`: Σ (ln Σ eˣ − x\[label\]) / valid; dx = (softmax(x) − onehot(label)) · dy / valid, 0 in ignored
/// rows. Keeps the logits.
///
/// `valid` is counted by the caller, who had the labels on the host: counting here would wait for the device. It is
/// the divisor of the sum, so the micro-batches of one step may share the count of them all.
///
/// # Errors
/// [`tensor::TensorError::InvalidArgument`] when `valid` is 0; otherwise those of the tensor operation.
pub fn cross_entropy(logits: &Var, labels: &Tensor, ignore: i32, valid: usize) -> Result<Var> {
    let scale = mean_scale("cross_entropy", valid)?;
    let forward = tensor::cross_entropy(logits.tensor(), labels, ignore)?;
    let loss = forward.losses.sum(&[0], false)?.affine(scale, 0.0)?;
    let (x, labels, log_sum_exp) = (logits.tensor().clone(), labels.clone(), forward.log_sum_exp);
    Ok(record_unary("cross_entropy", logits, loss, move |dy| {
        tensor::cross_entropy_backward(x, &labels, ignore, &log_sum_exp, scale)?.mul(dy)
    }))
}

/// 1 / valid, where there is something to divide by.
pub(super) fn mean_scale(operation: &'static str, valid: usize) -> Result<f32> {
    match valid {
        0 => Err(misuse(operation, "no label is left to learn from: every one is ignored")),
        _ => Ok(1.0 / valid as f32),
    }
}

/// The mean of (a − b)² over all elements; da = 2·(a − b)/n · dy, db = −da. Made of `sub`, `square` and `mean`.
///
/// # Errors
/// Those of the tensor operations.
pub fn mse_loss(a: &Var, b: &Var) -> Result<Var> {
    let squares = a.sub(b)?.square()?;
    let axes: Vec<usize> = (0..squares.rank()).collect();
    squares.mean(&axes, false)
}

#[cfg(test)]
mod tests {
    use tensor::testing::on_each_backend;

    use super::*;
    use crate::check::{check_gradients, random_cases};

    on_each_backend! {
        fn cross_entropy_derivative(device) {
            random_cases(3, |random| {
                let (rows, vocab) = (random.extent() + 1, random.extent() + 1);
                let mut labels: Vec<i32> = random.indices(rows, vocab).into_iter().map(|label| label as i32).collect();
                labels[random.integer(1, rows - 1)] = -100;
                let labels = Tensor::from_vec(device, &[rows], labels)?;
                check_gradients("cross_entropy", device, random, &[&[rows, vocab]], |v| {
                    cross_entropy(&v[0].affine(3.0, 0.0)?, &labels, -100, rows - 1)
                })
            });
        }

        fn mse_derivative(device) {
            random_cases(2, |random| {
                let shape = random.shape(2);
                check_gradients("mse_loss", device, random, &[&shape, &shape], |v| mse_loss(&v[0], &v[1]))
            });
        }
    }

    #[test]
    fn nothing_to_learn_from_is_an_error() {
        let device = tensor::Device::cpu();
        let logits = Var::constant(Tensor::zeros(&device, &[1, 2], tensor::DType::F32).unwrap());
        let labels = Tensor::from_slice(&device, &[1], &[-100i32]).unwrap();
        let message = cross_entropy(&logits, &labels, -100, 0).unwrap_err().to_string();
        assert_eq!(message, "cross_entropy: no label is left to learn from: every one is ignored");
    }
}
