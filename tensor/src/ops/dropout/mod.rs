//! Dropout with masks that are computed, not stored.

mod cpu;
mod gpu;
#[cfg(test)]
mod tests;

use super::random::{RandomKey, check_count};
use crate::device::Backend;
use crate::dtype::DType;
use crate::error::{Result, TensorError};
use crate::tensor::Tensor;

/// An element is dropped when its random word lies below `threshold`; kept elements are multiplied by `scale`.
#[derive(Clone, Copy)]
pub(super) struct Rule {
    pub threshold: u32,
    pub scale: f32,
}

impl Rule {
    /// The rule for a probability below 1.
    pub fn new(operation: &'static str, probability: f32) -> Result<Self> {
        if !(0.0..1.0).contains(&probability) {
            let message = format!("{probability} is not a probability of dropout between 0 and 1, 1 excluded");
            return Err(TensorError::InvalidArgument { operation, message });
        }
        let wide = f64::from(probability);
        Ok(Rule { threshold: (wide * 4_294_967_296.0) as u32, scale: (1.0 / (1.0 - wide)) as f32 })
    }
}

impl Tensor {
    /// Inverted dropout: every element becomes 0 with the given probability, else x / (1 − probability).
    ///
    /// Which elements are dropped depends on `key` and each element's row-major index only, with the same result on
    /// every device. Applied to the upstream gradient with the same key this is also the derivative.
    /// Probability 0 returns the tensor itself, probability 1 gives zeros.
    ///
    /// # Errors
    /// [`TensorError::InvalidArgument`] for a probability outside [0, 1], [`TensorError::DType`] for other types than
    /// f32, or the device's own errors.
    pub fn dropout(&self, probability: f32, key: RandomKey) -> Result<Tensor> {
        self.expect_dtype("dropout", DType::F32)?;
        check_count("dropout", self.shape())?;
        if !(0.0..=1.0).contains(&probability) {
            return Err(TensorError::InvalidArgument {
                operation: "dropout",
                message: format!("{probability} is not a probability between 0 and 1"),
            });
        }
        if probability == 0.0 {
            return Ok(self.clone());
        }
        if probability == 1.0 {
            return self.zeros_like();
        }
        let rule = Rule::new("dropout", probability)?;
        let x = self.contiguous()?;
        match x.device().backend() {
            Backend::Cpu => cpu::dropout(&x, rule, key),
            Backend::Gpu(gpu) => gpu::dropout(gpu, &x, rule, key),
        }
    }
}
