//! LoRA+: a learning rate of its own for B.

use autograd::Optimizer;
use lora::{AdapterSet, GradientTransform, LoraError, Result};

use crate::pairs;

/// LoRA+ (Hayou, Ghosh, Yu 2024, arXiv 2402.12354): B learns `ratio` times as fast as A. The authors recommend 16 (their
/// λ = η_B/η_A of about 2⁴) with a smaller rate for A.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LoraPlus {
    ratio: f32,
}

impl LoraPlus {
    /// The method with a ratio η_B/η_A.
    ///
    /// # Errors
    /// [`LoraError::Setting`] for a ratio that is not positive and finite.
    pub fn new(ratio: f32) -> Result<Self> {
        if ratio > 0.0 && ratio.is_finite() {
            return Ok(LoraPlus { ratio });
        }
        let message = format!("the ratio of B's learning rate to A's must be positive and finite, found {ratio}");
        Err(LoraError::Setting { setting: "lora_plus_ratio", message })
    }
}

impl GradientTransform for LoraPlus {
    fn prepare(&mut self, adapters: &AdapterSet, optimizer: &mut dyn Optimizer) -> Result<()> {
        for adapter in pairs::linear(adapters) {
            optimizer.set_rate_multiplier(&adapter.b, self.ratio);
        }
        Ok(())
    }
}
