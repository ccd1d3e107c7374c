//! Stochastic gradient descent, with momentum if wanted.

use std::collections::BTreeMap;

use tensor::{Result, SgdStep, SgdTarget, Tensor, sgd_update_in_place};

use super::{Exceptions, MomentsMut, Optimizer, follow, split_state};
use crate::gradients::Gradients;
use crate::parameters::Parameters;

/// The numbers of gradient descent, apart from the learning rate. All 0 and false by default.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SgdConfig {
    /// μ: how much of the last direction is kept.
    pub momentum: f64,
    /// λ: added to the gradient as λ times the parameter.
    pub weight_decay: f64,
    /// Looks one step ahead along the momentum.
    pub nesterov: bool,
}

/// Gradient descent with PyTorch's meaning; the equation is at [`sgd_update_in_place`]. State, where the momentum is
/// not 0: `{parameter}.momentum`.
#[derive(Clone, Debug)]
pub struct Sgd {
    config: SgdConfig,
    momenta: BTreeMap<String, Tensor>,
    exceptions: Exceptions,
}

const NAME: &str = "sgd";
const PARTS: [&str; 1] = ["momentum"];

impl Sgd {
    /// An optimizer that has taken no step.
    pub fn new(config: SgdConfig) -> Self {
        Sgd { config, momenta: BTreeMap::new(), exceptions: Exceptions::default() }
    }

    /// The numbers it works with.
    pub fn config(&self) -> &SgdConfig {
        &self.config
    }

    /// A momentum for every parameter that has a gradient, on its device.
    fn prepare(&mut self, parameters: &Parameters, gradients: &Gradients) -> Result<()> {
        if self.config.momentum == 0.0 {
            return Ok(());
        }
        for (name, parameter) in parameters.iter().filter(|(name, _)| gradients.get(name).is_some()) {
            match self.momenta.get_mut(name) {
                Some(momentum) => follow(momentum, parameter.device())?,
                None => {
                    self.momenta.insert(name.to_string(), parameter.zeros_like()?);
                }
            }
        }
        Ok(())
    }
}

impl Optimizer for Sgd {
    fn step(&mut self, parameters: &mut Parameters, gradients: &Gradients, learning_rate: f32) -> Result<()> {
        self.prepare(parameters, gradients)?;
        // Targets that share a rate and decay go together, in one call for all of them.
        let mut groups: BTreeMap<(u32, bool), Vec<SgdTarget<'_>>> = BTreeMap::new();
        let mut momenta: BTreeMap<&str, &mut Tensor> =
            self.momenta.iter_mut().map(|(name, momentum)| (name.as_str(), momentum)).collect();
        for (name, parameter) in parameters.iter_mut() {
            let Some(gradient) = gradients.get(name) else { continue };
            let rate = learning_rate * self.exceptions.rate(name);
            let target = SgdTarget { parameter, gradient, momentum: momenta.remove(name) };
            groups.entry((rate.to_bits(), self.exceptions.decays(name))).or_default().push(target);
        }
        let SgdConfig { momentum, weight_decay, nesterov } = self.config;
        for ((rate, decays), mut targets) in groups {
            let weight_decay = if decays { weight_decay } else { 0.0 };
            let learning_rate = f64::from(f32::from_bits(rate));
            sgd_update_in_place(&mut targets, &SgdStep { learning_rate, momentum, weight_decay, nesterov })?;
        }
        Ok(())
    }

    fn set_rate_multiplier(&mut self, name: &str, multiplier: f32) {
        self.exceptions.set_rate(name, multiplier);
    }

    fn exempt_from_decay(&mut self, name: &str) {
        self.exceptions.exempt(name);
    }

    fn reset(&mut self, name: &str) {
        self.momenta.remove(name);
    }

    fn moments_mut(&mut self) -> BTreeMap<&str, MomentsMut<'_>> {
        let mut all = BTreeMap::new();
        for (name, momentum) in &mut self.momenta {
            all.insert(name.as_str(), MomentsMut { first: Some(momentum), second: None });
        }
        all
    }

    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        Ok(self.momenta.iter().map(|(name, momentum)| (format!("{name}.momentum"), momentum.clone())).collect())
    }

    fn load_state(&mut self, state: Vec<(String, Tensor)>) -> Result<()> {
        let saved = split_state(NAME, state, &PARTS)?;
        self.momenta =
            saved.into_iter().filter_map(|(name, mut parts)| Some((name, parts.remove("momentum")?))).collect();
        Ok(())
    }
}
