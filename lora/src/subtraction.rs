//! Initial products that are taken out of the weights: what an initialiser needs whose factors do not multiply to zero.
//!
//! PiSSA, OLoRA and RefLoRA's re-initialisation begin with factors whose product s·B₀·A₀ is not zero, and subtract it from
//! the base weight, so that training starts from the model as it was. Here the base is never written: the set keeps the
//! frozen factors, layers compute with `W + s·(B·A − B₀·A₀)`, and saving writes one adapter of twice the rank with the
//! factors `[A; A₀]` and `[B, −B₀]`, which plain PEFT applies to the untouched checkpoint (as its own
//! `path_initial_model_for_weight_conversion` does).

use std::collections::BTreeMap;
use std::sync::Arc;

use tensor::Tensor;

use crate::adapter::Factors;
use crate::adapter_set::AdapterSet;
use crate::config::LoraConfig;
use crate::error::{LoraError, Result};
use crate::init::Initialisation;

/// The frozen factors (A₀, B₀) by module.
pub(crate) type InitialFactors = BTreeMap<String, (Tensor, Tensor)>;

impl AdapterSet {
    /// Takes the product of the factors as they are now out of every adapted weight: the model computes with
    /// `W + s·(B·A − B₀·A₀)` from here on, which is what it computed without adapters until the factors move. What is
    /// subtracted stays frozen, and is not dropped by dropout.
    ///
    /// # Errors
    /// [`LoraError::Setting`] for DoRA, whose norm is that of the weight itself, and when a product is subtracted already.
    pub fn subtract_initial_product(&mut self) -> Result<()> {
        let setting = |message: &str| LoraError::Setting { setting: "init_lora_weights", message: message.into() };
        if self.config().use_dora {
            return Err(setting("an initial product cannot be subtracted with use_dora; choose one of them"));
        }
        if self.inner.subtracted.is_some() {
            return Err(setting("an initial product is subtracted already"));
        }
        let factors = self.adapters().filter_map(|adapter| {
            let factors = self.factors(&adapter.module)?;
            Some((adapter.module.clone(), (factors.a.clone(), factors.b.clone())))
        });
        let factors = factors.collect();
        Arc::make_mut(&mut self.inner).subtracted = Some(factors);
        Ok(())
    }

    /// The factors A₀ and B₀ whose product is taken out of a module's weight, where there are any.
    pub fn subtracted_product(&self, module: &str) -> Option<Factors<'_>> {
        let (a, b) = self.inner.subtracted.as_ref()?.get(module)?;
        Some(Factors { a, b, scaling: self.adapter(module)?.scaling })
    }

    /// Factors of a plain adapter that does the same: A and B themselves, or `[A; A₀]` and `[B, −B₀]`.
    pub(crate) fn plain_factors(&self, module: &str) -> Option<Result<(Tensor, Tensor)>> {
        let factors = self.factors(module)?;
        let Some(initial) = self.subtracted_product(module) else {
            return Some(Ok((factors.a.clone(), factors.b.clone())));
        };
        let join = || {
            let a = Tensor::concat(&[factors.a, initial.a], 0)?;
            Ok((a, Tensor::concat(&[factors.b, &initial.b.neg()?], 1)?))
        };
        Some(join())
    }

    /// The configuration of the adapter that [`AdapterSet::save`] writes.
    pub(crate) fn plain_config(&self) -> LoraConfig {
        if self.inner.subtracted.is_some() { doubled(self.config()) } else { self.config().clone() }
    }
}

/// Twice the rank at the same scaling: s = alpha/r, or alpha/√r where it is rank-stabilised.
fn doubled(config: &LoraConfig) -> LoraConfig {
    let factor = if config.use_rslora { std::f64::consts::SQRT_2 } else { 2.0 };
    LoraConfig {
        rank: 2 * config.rank,
        alpha: factor * config.alpha,
        rank_pattern: config.rank_pattern.iter().map(|(key, rank)| (key.clone(), 2 * rank)).collect(),
        alpha_pattern: config.alpha_pattern.iter().map(|(key, alpha)| (key.clone(), factor * alpha)).collect(),
        init_lora_weights: Initialisation::Kaiming,
        ..config.clone()
    }
}

#[cfg(test)]
mod tests;
