//! The two places where a method changes the training step.

use autograd::{Gradients, Optimizer};

use crate::adapter_set::AdapterSet;
use crate::error::Result;

/// Changes gradients before the optimizer sees them, and what the optimizer left behind after it. Every method does
/// nothing unless it is written.
pub trait GradientTransform {
    /// Called after clipping and before the optimizer's step, `step` counting from 0.
    ///
    /// # Errors
    /// The method's own, or the device's.
    fn apply(&mut self, adapters: &mut AdapterSet, gradients: &mut Gradients, step: u64) -> Result<()> {
        let _ = (adapters, gradients, step);
        Ok(())
    }

    /// Called after the optimizer's step, for methods that rescale the factors and with them the optimizer's state.
    ///
    /// # Errors
    /// The method's own, or the device's.
    fn after_update(&mut self, adapters: &mut AdapterSet, optimizer: &mut dyn Optimizer, step: u64) -> Result<()> {
        let _ = (adapters, optimizer, step);
        Ok(())
    }
}

/// Changes the factors after the step, as decoupled regularisers do. Does nothing unless it is written.
pub trait Regulariser {
    /// Called last in a step, `step` counting from 0, with the learning rate the step had.
    ///
    /// # Errors
    /// The method's own, or the device's.
    fn after_step(&mut self, adapters: &mut AdapterSet, step: u64, learning_rate: f32) -> Result<()> {
        let _ = (adapters, step, learning_rate);
        Ok(())
    }
}

/// Plain LoRA: changes nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unchanged;

impl GradientTransform for Unchanged {}

impl Regulariser for Unchanged {}
