//! The two places where a method changes the training step.

use autograd::{Gradients, Optimizer};
use tensor::Tensor;

use crate::adapter_set::AdapterSet;
use crate::error::{LoraError, Result};

/// Changes gradients before the optimizer sees them, and what the optimizer left behind after it. Every method does
/// nothing unless it is written.
pub trait GradientTransform {
    /// Called once before the first step of a run, resumed or not, for methods that set the optimizer up.
    ///
    /// # Errors
    /// Adapters that the method cannot train.
    fn prepare(&mut self, adapters: &AdapterSet, optimizer: &mut dyn Optimizer) -> Result<()> {
        let _ = (adapters, optimizer);
        Ok(())
    }

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

    /// What a later run needs to go on bit for bit, by names of the method's own.
    ///
    /// # Errors
    /// The device's own errors.
    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        Ok(Vec::new())
    }

    /// Replaces the state by one that [`GradientTransform::state`] returned, after [`GradientTransform::prepare`].
    ///
    /// # Errors
    /// [`LoraError::Setting`] for the state of another method or other adapters.
    fn load_state(&mut self, state: Vec<(String, Tensor)>) -> Result<()> {
        match state.first() {
            None => Ok(()),
            Some((name, _)) => Err(LoraError::Setting {
                setting: "method",
                message: format!("the checkpoint has `{name}`, which belongs to another method than this run's"),
            }),
        }
    }

    /// What the method has to tell about the run: names and numbers. May wait for the device.
    ///
    /// # Errors
    /// The device's own errors.
    fn report(&self) -> Result<Vec<(String, f64)>> {
        Ok(Vec::new())
    }
}

impl<T: GradientTransform + ?Sized> GradientTransform for Box<T> {
    fn prepare(&mut self, adapters: &AdapterSet, optimizer: &mut dyn Optimizer) -> Result<()> {
        (**self).prepare(adapters, optimizer)
    }

    fn apply(&mut self, adapters: &mut AdapterSet, gradients: &mut Gradients, step: u64) -> Result<()> {
        (**self).apply(adapters, gradients, step)
    }

    fn after_update(&mut self, adapters: &mut AdapterSet, optimizer: &mut dyn Optimizer, step: u64) -> Result<()> {
        (**self).after_update(adapters, optimizer, step)
    }

    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        (**self).state()
    }

    fn load_state(&mut self, state: Vec<(String, Tensor)>) -> Result<()> {
        (**self).load_state(state)
    }

    fn report(&self) -> Result<Vec<(String, f64)>> {
        (**self).report()
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

    /// What a later run needs to go on bit for bit, by names of the method's own.
    ///
    /// # Errors
    /// The device's own errors.
    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        Ok(Vec::new())
    }

    /// Replaces the state by one that [`Regulariser::state`] returned.
    ///
    /// # Errors
    /// [`LoraError::Setting`] for the state of another method, other adapters or other settings.
    fn load_state(&mut self, state: Vec<(String, Tensor)>) -> Result<()> {
        match state.first() {
            None => Ok(()),
            Some((name, _)) => Err(LoraError::Setting {
                setting: "regulariser",
                message: format!("the checkpoint has `{name}`, which belongs to another regulariser than this run's"),
            }),
        }
    }

    /// What the method has to tell about the run, given the adapters it ended with: names and numbers. May wait for
    /// the device.
    ///
    /// # Errors
    /// The device's own errors.
    fn report(&self, adapters: &AdapterSet) -> Result<Vec<(String, f64)>> {
        let _ = adapters;
        Ok(Vec::new())
    }
}

impl<T: Regulariser + ?Sized> Regulariser for Box<T> {
    fn after_step(&mut self, adapters: &mut AdapterSet, step: u64, learning_rate: f32) -> Result<()> {
        (**self).after_step(adapters, step, learning_rate)
    }

    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        (**self).state()
    }

    fn load_state(&mut self, state: Vec<(String, Tensor)>) -> Result<()> {
        (**self).load_state(state)
    }

    fn report(&self, adapters: &AdapterSet) -> Result<Vec<(String, f64)>> {
        (**self).report(adapters)
    }
}

/// Plain LoRA: changes nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unchanged;

impl GradientTransform for Unchanged {}

impl Regulariser for Unchanged {}
