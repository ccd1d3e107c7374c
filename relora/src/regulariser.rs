//! Stage 2's pull towards the start of fine-tuning.

use autograd::{Gradients, Optimizer, Sgd, SgdConfig};
use lora::{AdapterSet, LoraError, Regulariser, Result};
use tensor::{Device, Tensor};

use crate::schedule::RegularisationSchedule;

const ANCHOR: &str = "relora.start.";
const SCHEDULE: &str = "relora.schedule";

/// The regulariser ½·λ_t·‖θ − θ₀‖² over the adapters' factors, decoupled from the optimizer as AdamW's decay is
/// (Loshchilov and Hutter 2019): after the step, θ ← θ − min(η_t·λ_t, 1)·(θ − θ₀).
///
/// Without a strength nothing is touched, so that the run is bit for bit the plain one; a strength beyond 1/η holds the
/// factors at θ₀. With an optimizer whose steps are at most c·η for each coordinate, |θ − θ₀| stays at or below c/λ.
///
/// Transforms of gradients, RefLoRA's among them, act on the task's gradient alone and compose with it. A method that
/// rescales the factors themselves (RefLoRA-S) moves θ while θ₀ stays, and does not. Magnitudes of DoRA and modules that
/// are trained as a whole are left free. State: θ₀ and the schedule.
#[derive(Clone, Debug)]
pub struct AnchoredRegulariser {
    schedule: RegularisationSchedule,
    /// −θ₀, the gradient to which plain descent with weight decay 1 adds θ: one fused update for all factors.
    negated: Gradients,
    descent: Sgd,
}

impl AnchoredRegulariser {
    /// A pull towards these adapters as they are.
    ///
    /// # Errors
    /// The device's own errors.
    pub fn new(schedule: RegularisationSchedule, start: &AdapterSet) -> Result<Self> {
        let mut negated = Gradients::new();
        for adapter in start.adapters() {
            for name in [&adapter.a, &adapter.b] {
                if let Some(factor) = start.parameters().get(name) {
                    negated.insert(name, factor.neg()?);
                }
            }
        }
        let descent = Sgd::new(SgdConfig { weight_decay: 1.0, ..SgdConfig::default() });
        Ok(AnchoredRegulariser { schedule, negated, descent })
    }

    /// The schedule of its strength.
    pub fn schedule(&self) -> &RegularisationSchedule {
        &self.schedule
    }

    /// ‖θ − θ₀‖/‖θ₀‖ over all factors; 0/0 is 0. Waits for the device.
    ///
    /// # Errors
    /// The device's own errors.
    pub fn relative_deviation(&self, adapters: &AdapterSet) -> Result<f64> {
        let (mut moved, mut whole) = (0.0, 0.0);
        for (name, negated) in self.negated.iter() {
            let Some(now) = adapters.parameters().get(name) else { continue };
            for (now, negated) in now.to_vec::<f32>()?.into_iter().zip(negated.to_vec::<f32>()?) {
                moved += (f64::from(now) + f64::from(negated)).powi(2);
                whole += f64::from(negated).powi(2);
            }
        }
        Ok(if moved == 0.0 { 0.0 } else { (moved / whole).sqrt() })
    }
}

impl Regulariser for AnchoredRegulariser {
    fn after_step(&mut self, adapters: &mut AdapterSet, step: u64, learning_rate: f32) -> Result<()> {
        let share = (f64::from(learning_rate) * self.schedule.at(step)).min(1.0);
        if share >= 1.0 {
            for (name, negated) in self.negated.iter() {
                adapters.parameters_mut().insert(name, negated.neg()?)?;
            }
        } else if share > 0.0 {
            self.descent.step(adapters.parameters_mut(), &self.negated, share as f32)?;
        }
        Ok(())
    }

    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let words = self.schedule.words();
        let mut state = vec![(SCHEDULE.to_string(), Tensor::from_slice(&Device::cpu(), &[words.len()], &words)?)];
        for (name, negated) in self.negated.iter() {
            state.push((format!("{ANCHOR}{name}"), negated.neg()?));
        }
        Ok(state)
    }

    fn load_state(&mut self, state: Vec<(String, Tensor)>) -> Result<()> {
        let mut negated = Gradients::new();
        let mut words = None;
        for (name, tensor) in state {
            match name.strip_prefix(ANCHOR) {
                Some(factor) => drop(negated.insert(factor, tensor.neg()?)),
                None if name == SCHEDULE => words = Some(tensor.to_vec::<u32>()?),
                None => return Err(refused(format!("the checkpoint has `{name}`, which is not this regulariser's"))),
            }
        }
        if words.is_none() {
            return Err(refused("the checkpoint is of a run without this regulariser; go on without it".into()));
        }
        if words != Some(self.schedule.words()) {
            return Err(refused("the run was begun with another schedule of the strength; give that one".into()));
        }
        for (name, expected) in self.negated.iter() {
            let found = negated.get(name).map(Tensor::shape);
            if found != Some(expected.shape()) {
                let found = found.map_or("nothing".to_string(), |shape| shape.to_string());
                return Err(refused(format!("the start of `{name}` is {} here and {found} there", expected.shape())));
            }
        }
        if let Some(name) = negated.names().find(|name| self.negated.get(name).is_none()) {
            return Err(refused(format!("the checkpoint holds the start of `{name}`, which the adapters lack")));
        }
        self.negated = negated;
        Ok(())
    }

    fn report(&self, adapters: &AdapterSet) -> Result<Vec<(String, f64)>> {
        Ok(vec![("relative_deviation_from_start".into(), self.relative_deviation(adapters)?)])
    }
}

fn refused(message: String) -> LoraError {
    LoraError::Setting { setting: "regulariser", message }
}
