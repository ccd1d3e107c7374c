//! RefLoRA: gradients preconditioned by S̃.

use autograd::{Gradients, Optimizer};
use lora::{Adapter, AdapterSet, GradientTransform, LoraError, Result};
use tensor::{FactorPair, Refactoring, Tensor, TensorError};

use crate::pairs;

/// When RefLoRA acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefLoraConfig {
    /// Optimizer steps with raw gradients at the beginning: with B = 0 there is no S̃. The authors use 100 and 200.
    pub warmup_steps: u64,
    /// Steps between two computations of S̃; the steps between them use the last one. At least 1.
    pub interval: u64,
}

impl Default for RefLoraConfig {
    /// 100 steps of warm-up, S̃ at every step.
    fn default() -> Self {
        RefLoraConfig { warmup_steps: 100, interval: 1 }
    }
}

/// RefLoRA as a gradient transform, before any optimizer: ∇A ← S̃⁻¹·∇A and ∇B ← ∇B·S̃ with S̃ = (A·Aᵀ)⁻¹ # (Bᵀ·B) for
/// every adapter, from the step after the warm-up on. Factors and the optimizer's state are left alone.
///
/// An adapter without S̃ (a factor that is zero or not finite) gets its raw gradients for that step, and
/// [`RefLora::undefined`] counts it. An adapter that lacks a gradient is skipped.
#[derive(Debug)]
pub struct RefLora {
    config: RefLoraConfig,
    /// Made with the first adapters seen.
    prepared: Option<Prepared>,
}

#[derive(Debug)]
struct Prepared {
    pairs: Vec<Adapter>,
    refactoring: Refactoring,
}

const MATRICES: &str = "reflora.matrices";
const UNDEFINED: &str = "reflora.undefined";

impl RefLora {
    /// RefLoRA at the beginning of a run.
    ///
    /// # Errors
    /// [`LoraError::Setting`] for an interval of 0.
    pub fn new(config: RefLoraConfig) -> Result<Self> {
        if config.interval == 0 {
            let message = "S̃ is computed every `interval` steps, so at least 1".into();
            return Err(LoraError::Setting { setting: "interval", message });
        }
        Ok(RefLora { config, prepared: None })
    }

    /// How often each adapter had no S̃ when one was computed, by module path. Waits for the device.
    ///
    /// # Errors
    /// The device's own errors.
    pub fn undefined(&self) -> Result<Vec<(String, u32)>> {
        let Some(Prepared { pairs, refactoring }) = &self.prepared else {
            return Ok(Vec::new());
        };
        let counts = refactoring.undefined().to_vec::<u32>()?;
        Ok(pairs.iter().map(|pair| pair.module.clone()).zip(counts).collect())
    }

    fn prepared(&mut self, adapters: &AdapterSet) -> Result<&mut Prepared> {
        let same = |prepared: &Prepared| prepared.pairs.iter().eq(pairs::linear(adapters));
        if !self.prepared.as_ref().is_some_and(same) {
            let pairs = pairs::pairs(adapters);
            let shapes: Vec<_> = pairs.iter().map(pairs::shape).collect();
            self.prepared = Some(Prepared { pairs, refactoring: Refactoring::new(adapters.device(), &shapes)? });
        }
        self.prepared.as_mut().ok_or_else(|| {
            // It was set above.
            LoraError::Setting { setting: "method", message: "the adapters were not prepared".into() }
        })
    }
}

impl GradientTransform for RefLora {
    fn prepare(&mut self, adapters: &AdapterSet, _: &mut dyn Optimizer) -> Result<()> {
        self.prepared(adapters).map(|_| ())
    }

    fn apply(&mut self, adapters: &mut AdapterSet, gradients: &mut Gradients, step: u64) -> Result<()> {
        let RefLoraConfig { warmup_steps, interval } = self.config;
        let Some(since) = step.checked_sub(warmup_steps) else {
            return Ok(());
        };
        let Prepared { pairs, refactoring } = self.prepared(adapters)?;
        if since.is_multiple_of(interval) {
            let factors: Vec<FactorPair<'_>> = pairs
                .iter()
                .map(|pair| match adapters.factors(&pair.module) {
                    Some(factors) => Ok(FactorPair { a: factors.a, b: factors.b }),
                    None => Err(TensorError::InvalidArgument {
                        operation: "reflora",
                        message: format!("the factors of `{}` are gone from the adapter set", pair.module),
                    }),
                })
                .collect::<tensor::Result<_>>()?;
            refactoring.update(&factors)?;
        }
        let given = pairs::gradients(pairs, gradients);
        let indices: Vec<usize> = given.iter().map(|given| given.0).collect();
        let new = refactoring.precondition(&given)?;
        pairs::replace(pairs, gradients, indices.into_iter().zip(new));
        Ok(())
    }

    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        Ok(self.prepared.as_ref().map_or_else(Vec::new, |Prepared { refactoring, .. }| {
            vec![
                (MATRICES.into(), refactoring.all_matrices().clone()),
                (UNDEFINED.into(), refactoring.undefined().clone()),
            ]
        }))
    }

    fn load_state(&mut self, state: Vec<(String, Tensor)>) -> Result<()> {
        let wrong = |message: String| LoraError::Setting { setting: "method", message };
        if let Some((name, _)) = state.iter().find(|(name, _)| ![MATRICES, UNDEFINED].contains(&name.as_str())) {
            return Err(wrong(format!("the checkpoint has `{name}`, which is not RefLoRA's")));
        }
        let part = |wanted: &str| state.iter().find(|(name, _)| name == wanted).map(|(_, tensor)| tensor);
        match (part(MATRICES), part(UNDEFINED), &mut self.prepared) {
            (Some(matrices), Some(undefined), Some(prepared)) => {
                Ok(prepared.refactoring.restore(matrices, undefined)?)
            }
            _ => Err(wrong("the checkpoint is not of a run with RefLoRA; use the method it was begun with".into())),
        }
    }

    fn report(&self) -> Result<Vec<(String, f64)>> {
        let total = self.undefined()?.iter().map(|(_, count)| f64::from(*count)).sum();
        Ok(vec![("undefined_refactorings".into(), total)])
    }
}
