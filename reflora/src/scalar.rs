//! RefLoRA-S: factors and moments rescaled after each step.

use std::collections::BTreeMap;

use autograd::{MomentsMut, Optimizer, Parameters};
use lora::{Adapter, AdapterSet, GradientTransform, Result};
use tensor::{BalancePair, BalanceTarget, Tensor, balance_in_place};

use crate::pairs;

/// RefLoRA-S, S = s·I with s = ‖B‖/‖A‖: after each optimizer step from the warm-up on, A ← √s·A and B ← B/√s, and the
/// optimizer's moments with them (equations at [`balance_in_place`]). Works with any optimizer; one without state has
/// nothing to rescale. An adapter with a factor that is zero or not finite stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefLoraScalar {
    /// Optimizer steps at the beginning that are left as they are.
    pub warmup_steps: u64,
}

impl GradientTransform for RefLoraScalar {
    fn after_update(&mut self, adapters: &mut AdapterSet, optimizer: &mut dyn Optimizer, step: u64) -> Result<()> {
        // Counted in optimizer steps that are done, this one included.
        if step + 1 >= self.warmup_steps {
            let pairs = pairs::pairs(adapters);
            rescale(&pairs, adapters.parameters_mut(), optimizer.moments_mut())?;
        }
        Ok(())
    }
}

fn rescale(pairs: &[Adapter], parameters: &mut Parameters, mut moments: BTreeMap<&str, MomentsMut<'_>>) -> Result<()> {
    let mut factors: BTreeMap<&str, &mut Tensor> = parameters.iter_mut().collect();
    let mut target = |name: &str| {
        let moments = moments.remove(name);
        let (first_moment, second_moment) = moments.map_or((None, None), |both| (both.first, both.second));
        Some(BalanceTarget { factor: factors.remove(name)?, first_moment, second_moment })
    };
    let mut pairs: Vec<BalancePair<'_>> =
        pairs.iter().filter_map(|pair| Some(BalancePair { a: target(&pair.a)?, b: target(&pair.b)? })).collect();
    Ok(balance_in_place(&mut pairs)?)
}
