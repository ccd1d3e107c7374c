//! AdamW: Adam with decoupled weight decay.

use std::collections::BTreeMap;

use tensor::{AdamWStep, AdamWTarget, Device, Result, Tensor, adamw_update_in_place};

use super::{Exceptions, MomentsMut, Optimizer, follow, split_state};
use crate::gradients::Gradients;
use crate::parameters::Parameters;
use crate::tape::misuse;

/// The numbers of AdamW, apart from the learning rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWConfig {
    /// β₁: decay of the first moment.
    pub beta1: f64,
    /// β₂: decay of the second moment.
    pub beta2: f64,
    /// ε: added to the root of the second moment.
    pub epsilon: f64,
    /// λ: decoupled weight decay.
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    /// PyTorch's defaults: β = (0.9, 0.999), ε = 10⁻⁸, λ = 0.01.
    fn default() -> Self {
        AdamWConfig { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 }
    }
}

/// AdamW with PyTorch's meaning; the equation is at [`adamw_update_in_place`]. State: `{parameter}.first_moment`,
/// `{parameter}.second_moment`, `{parameter}.step`.
#[derive(Clone, Debug)]
pub struct AdamW {
    config: AdamWConfig,
    moments: BTreeMap<String, Moments>,
    exceptions: Exceptions,
}

#[derive(Clone, Debug)]
struct Moments {
    first: Tensor,
    second: Tensor,
    /// Steps taken so far. Each parameter has its own count: one may have got no gradient at times.
    steps: u64,
}

const NAME: &str = "adamw";
const PARTS: [&str; 3] = ["first_moment", "second_moment", "step"];

impl AdamW {
    /// An optimizer that has taken no step.
    pub fn new(config: AdamWConfig) -> Self {
        AdamW { config, moments: BTreeMap::new(), exceptions: Exceptions::default() }
    }

    /// The numbers it works with.
    pub fn config(&self) -> &AdamWConfig {
        &self.config
    }

    /// Moments for every parameter that has a gradient, on its device.
    fn prepare(&mut self, parameters: &Parameters, gradients: &Gradients) -> Result<()> {
        for (name, parameter) in parameters.iter().filter(|(name, _)| gradients.get(name).is_some()) {
            match self.moments.get_mut(name) {
                Some(moments) => {
                    follow(&mut moments.first, parameter.device())?;
                    follow(&mut moments.second, parameter.device())?;
                }
                None => {
                    // Two tensors of their own: handles that share storage would be copied at the first update.
                    let [first, second] = [parameter.zeros_like()?, parameter.zeros_like()?];
                    self.moments.insert(name.to_string(), Moments { first, second, steps: 0 });
                }
            }
        }
        Ok(())
    }
}

impl Optimizer for AdamW {
    fn step(&mut self, parameters: &mut Parameters, gradients: &Gradients, learning_rate: f32) -> Result<()> {
        self.prepare(parameters, gradients)?;
        // Targets that share a step count, a rate and decay go together, in one call for all of them.
        let mut groups: BTreeMap<(u64, u32, bool), Vec<AdamWTarget<'_>>> = BTreeMap::new();
        let mut counts = Vec::new();
        let mut moments: BTreeMap<&str, &mut Moments> =
            self.moments.iter_mut().map(|(name, moments)| (name.as_str(), moments)).collect();
        for (name, parameter) in parameters.iter_mut() {
            let (Some(gradient), Some(moments)) = (gradients.get(name), moments.remove(name)) else { continue };
            let rate = learning_rate * self.exceptions.rate(name);
            let Moments { first, second, steps } = moments;
            let target = AdamWTarget { parameter, gradient, first_moment: first, second_moment: second };
            groups.entry((*steps + 1, rate.to_bits(), self.exceptions.decays(name))).or_default().push(target);
            counts.push(steps);
        }
        let AdamWConfig { beta1, beta2, epsilon, weight_decay } = self.config;
        for ((step, rate, decays), mut targets) in groups {
            let weight_decay = if decays { weight_decay } else { 0.0 };
            let learning_rate = f64::from(f32::from_bits(rate));
            let step = AdamWStep { learning_rate, beta1, beta2, epsilon, weight_decay, step };
            adamw_update_in_place(&mut targets, &step)?;
        }
        counts.into_iter().for_each(|steps| *steps += 1);
        Ok(())
    }

    fn set_rate_multiplier(&mut self, name: &str, multiplier: f32) {
        self.exceptions.set_rate(name, multiplier);
    }

    fn exempt_from_decay(&mut self, name: &str) {
        self.exceptions.exempt(name);
    }

    fn reset(&mut self, name: &str) {
        self.moments.remove(name);
    }

    fn moments_mut(&mut self) -> BTreeMap<&str, MomentsMut<'_>> {
        let mut all = BTreeMap::new();
        for (name, Moments { first, second, .. }) in &mut self.moments {
            all.insert(name.as_str(), MomentsMut { first: Some(first), second: Some(second) });
        }
        all
    }

    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let mut state = Vec::with_capacity(3 * self.moments.len());
        for (name, moments) in &self.moments {
            let steps = u32::try_from(moments.steps)
                .map_err(|_| misuse(NAME, format!("the step count of `{name}` does not fit 32 bits")))?;
            let parts = [moments.first.clone(), moments.second.clone(), Tensor::scalar(&Device::cpu(), steps)?];
            state.extend(PARTS.iter().zip(parts).map(|(part, tensor)| (format!("{name}.{part}"), tensor)));
        }
        Ok(state)
    }

    fn load_state(&mut self, state: Vec<(String, Tensor)>) -> Result<()> {
        let mut moments = BTreeMap::new();
        for (name, mut parts) in split_state(NAME, state, &PARTS)? {
            if let [Some(first), Some(second), Some(steps)] = PARTS.map(|part| parts.remove(part)) {
                moments.insert(name, Moments { first, second, steps: u64::from(steps.item::<u32>()?) });
            }
        }
        self.moments = moments;
        Ok(())
    }
}
