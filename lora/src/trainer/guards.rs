//! What must not pass in silence: parameters that no gradient reaches, losses and gradients that are no numbers.
//!
//! Nothing here waits for the device inside a step. A gradient that is not finite becomes zero where it is (see
//! [`tensor::clip_scale`]), so that parameters stay finite until the step's loss and norm are read with the others.

use std::collections::BTreeMap;

use autograd::Gradients;
use tensor::Tensor;

use super::pending::read_scalars;
use crate::adapter_set::AdapterSet;
use crate::error::{LoraError, Result};

#[cfg(test)]
mod tests;

/// What happens when the loss or a gradient of a step is NaN or infinite. The step's gradients count as zero in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnNonFinite {
    /// The run ends with [`LoraError::NotFinite`].
    #[default]
    Stop,
    /// The run goes on, unless it happens in [`MOST_SKIPPED`] steps in a row.
    Skip,
}

/// Steps in a row without a usable gradient after which nothing is learned any more.
pub const MOST_SKIPPED: u64 = 10;

/// Refuses to train parameters that the loss does not depend on.
pub(super) fn check_all_reached(adapters: &AdapterSet, gradients: &Gradients) -> Result<()> {
    let missing: Vec<&str> = adapters.parameters().names().filter(|name| gradients.get(name).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(LoraError::Setting {
        setting: "adapter",
        message: format!(
            "the loss of the first step does not depend on {}; train only what the task uses (target_modules, modules_to_save, \
             bias)",
            in_short(&missing)
        ),
    })
}

/// The squared norm of the first step's gradients for each module with an adapter, and each parameter trained as a whole: an
/// adapter's A has no gradient while B is zero, but both together must have one.
pub(super) struct FirstGradients(Vec<(String, Tensor)>);

impl FirstGradients {
    pub fn of(gradients: &Gradients) -> Result<Self> {
        let mut groups: BTreeMap<&str, Vec<&Tensor>> = BTreeMap::new();
        for (name, gradient) in gradients.iter() {
            let group = name.split_once(".lora_").map_or(name, |(module, _)| module);
            groups.entry(group).or_default().push(gradient);
        }
        let square = |(name, group): (&str, Vec<&Tensor>)| Ok((name.to_string(), tensor::sum_of_squares(&group)?));
        Ok(FirstGradients(groups.into_iter().map(square).collect::<Result<_>>()?))
    }

    /// Waits for the device; a warning where some gradients are exactly zero.
    pub fn warning(&self) -> Result<Option<String>> {
        let squares = read_scalars(self.0.iter().map(|(_, square)| square))?;
        let zero = self.0.iter().zip(squares).filter(|(_, square)| *square == 0.0);
        let zero: Vec<&str> = zero.map(|((name, _), _)| name.as_str()).collect();
        let told = || format!("the gradients of {} are exactly zero at the first step", in_short(&zero));
        Ok((!zero.is_empty()).then(told))
    }
}

/// The first names of a list that may be long.
fn in_short(names: &[&str]) -> String {
    const TOLD: usize = 5;
    let told: Vec<String> = names.iter().take(TOLD).map(|name| format!("`{name}`")).collect();
    match names.len().saturating_sub(TOLD) {
        0 => told.join(", "),
        more => format!("{} and {more} more", told.join(", ")),
    }
}
