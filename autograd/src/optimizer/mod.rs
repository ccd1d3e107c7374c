//! Optimizers: from parameters and gradients to new parameters, in place, with a state that can be saved.

mod adamw;
mod sgd;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use tensor::{Device, Result, Tensor};

use crate::gradients::Gradients;
use crate::parameters::Parameters;
use crate::tape::misuse;

pub use adamw::{AdamW, AdamWConfig};
pub use sgd::{Sgd, SgdConfig};

/// Updates parameters from gradients.
///
/// A parameter without a gradient is left alone, and its state with it: no decay, no step counted. A gradient without
/// a parameter of its name is left alone as well; it may belong to another optimizer. Parameters that anyone else
/// still holds are copied before they are written (see [`crate::Tape`] on copy on write).
pub trait Optimizer {
    /// One step with this learning rate.
    ///
    /// # Errors
    /// When a gradient does not have its parameter's shape, type or device, when a loaded state does not fit, or the
    /// device's own errors.
    fn step(&mut self, parameters: &mut Parameters, gradients: &Gradients, learning_rate: f32) -> Result<()>;

    /// Multiplies the learning rate of one parameter from now on; 1 is where all begin. Part of the configuration,
    /// not of the state.
    fn set_rate_multiplier(&mut self, name: &str, multiplier: f32);

    /// Exempts one parameter from weight decay from now on, as is usual for norms and biases. Part of the configuration.
    fn exempt_from_decay(&mut self, name: &str);

    /// Starts the state of one parameter again from nothing.
    fn reset(&mut self, name: &str);

    /// The moments of every parameter that has had a gradient, to be rescaled together with the parameter.
    fn moments_mut(&mut self) -> BTreeMap<&str, MomentsMut<'_>>;

    /// Everything that a later run needs to go on, as tensors named `{parameter}.{what}`. Counts are u32 scalars on
    /// the CPU.
    ///
    /// # Errors
    /// The device's own errors.
    fn state(&self) -> Result<Vec<(String, Tensor)>>;

    /// Replaces the state by one that [`Optimizer::state`] returned, in any order. The tensors may be on any device;
    /// the next step moves them to their parameters' devices.
    ///
    /// # Errors
    /// [`tensor::TensorError::InvalidArgument`] for a name that is not of this optimizer, or a state with parts
    /// missing. The old state then stays.
    fn load_state(&mut self, state: Vec<(String, Tensor)>) -> Result<()>;
}

impl<T: Optimizer + ?Sized> Optimizer for Box<T> {
    fn step(&mut self, parameters: &mut Parameters, gradients: &Gradients, learning_rate: f32) -> Result<()> {
        (**self).step(parameters, gradients, learning_rate)
    }

    fn set_rate_multiplier(&mut self, name: &str, multiplier: f32) {
        (**self).set_rate_multiplier(name, multiplier);
    }

    fn exempt_from_decay(&mut self, name: &str) {
        (**self).exempt_from_decay(name);
    }

    fn reset(&mut self, name: &str) {
        (**self).reset(name);
    }

    fn moments_mut(&mut self) -> BTreeMap<&str, MomentsMut<'_>> {
        (**self).moments_mut()
    }

    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        (**self).state()
    }

    fn load_state(&mut self, state: Vec<(String, Tensor)>) -> Result<()> {
        (**self).load_state(state)
    }
}

/// What an optimizer keeps for one parameter; both have its shape.
#[derive(Debug)]
pub struct MomentsMut<'a> {
    /// On the scale of gradients: Adam's first moment, momentum.
    pub first: Option<&'a mut Tensor>,
    /// On the scale of squared gradients: Adam's second moment.
    pub second: Option<&'a mut Tensor>,
}

/// What is not the same for all parameters.
#[derive(Clone, Debug, Default)]
struct Exceptions {
    /// Multipliers of the learning rate.
    rates: BTreeMap<String, f32>,
    /// Those whose weights do not decay.
    undecayed: BTreeSet<String>,
}

impl Exceptions {
    fn set_rate(&mut self, name: &str, multiplier: f32) {
        self.rates.insert(name.to_string(), multiplier);
    }

    fn rate(&self, name: &str) -> f32 {
        self.rates.get(name).copied().unwrap_or(1.0)
    }

    fn exempt(&mut self, name: &str) {
        self.undecayed.insert(name.to_string());
    }

    fn decays(&self, name: &str) -> bool {
        !self.undecayed.contains(name)
    }
}

/// The saved parts of each parameter: `what → tensor` by parameter name.
type SavedParts = BTreeMap<String, BTreeMap<String, Tensor>>;

/// Sorts a saved state by parameter. `parts` are the names it may consist of.
fn split_state(optimizer: &'static str, state: Vec<(String, Tensor)>, parts: &[&str]) -> Result<SavedParts> {
    let mut saved = SavedParts::new();
    for (name, tensor) in state {
        match name.rsplit_once('.') {
            Some((parameter, part)) if parts.contains(&part) => {
                saved.entry(parameter.to_string()).or_default().insert(part.to_string(), tensor);
            }
            _ => return Err(misuse(optimizer, format!("`{name}` is not part of this optimizer's state"))),
        }
    }
    for (parameter, found) in &saved {
        if let Some(missing) = parts.iter().find(|&&part| !found.contains_key(part)) {
            return Err(misuse(optimizer, format!("the saved state has no `{parameter}.{missing}`")));
        }
    }
    Ok(saved)
}

/// Moves a tensor of the state to where its parameter is.
fn follow(tensor: &mut Tensor, device: &Device) -> Result<()> {
    if tensor.device() != device {
        *tensor = tensor.to_device(device)?;
    }
    Ok(())
}
