//! How a base model changed: E = W_new − W_old of the adapted weights as low-rank factors with an error estimate, read
//! tensor by tensor, so that neither model is ever in memory whole.

mod alignment;
mod cache;
mod range_finder;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use lora::{Adapter, AdapterSet, LoraError, Result};
use rayon::prelude::*;
use tensor::{Device, RandomKey, Tensor};

pub use alignment::Alignment;
pub use cache::EvolutionCache;
use range_finder::LowRank;

/// Ranks of the evolution for each rank of the adapter, as the published experiments' simulation recommends.
pub const RANKS_PER_ADAPTER_RANK: usize = 4;

/// Elements of a weight up to which its change is measured on the host, beside that of others: a product of this size is
/// too little work for a device, and many of them wait for it many times.
const SMALL: usize = 1 << 20;

/// The weights of one version of a model.
pub trait Weights: Sync {
    /// Paths of the modules that [`Weights::weight`] knows.
    fn names(&self) -> Vec<String>;

    /// The weight of a linear module, f32 `[outputs, inputs]`, or of an embedding, f32 `[vocabulary, width]`, on the CPU.
    ///
    /// # Errors
    /// What keeps it from being read.
    fn weight(&self, module: &str) -> Result<Tensor>;
}

/// How closely E is looked at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EvolutionOptions {
    /// Rank of E's approximation for each rank of the adapter: k = 4·r by default.
    pub ranks_per_adapter_rank: usize,
    /// What the random projections are drawn from, together with each module's path.
    pub seed: u64,
}

impl Default for EvolutionOptions {
    fn default() -> Self {
        EvolutionOptions { ranks_per_adapter_rank: RANKS_PER_ADAPTER_RANK, seed: 0 }
    }
}

/// The change of one module's weight: `E ≈ left·right` of rank k.
#[derive(Clone, Debug)]
pub struct ModuleEvolution {
    /// P = U·√Σ, f32 `[outputs, k]`.
    pub left: Tensor,
    /// Q = √Σ·Vᵀ, f32 `[k, inputs]`.
    pub right: Tensor,
    /// What is known of E.
    pub statistics: Statistics,
}

/// What is known of one module's change E.
#[derive(Clone, Debug, PartialEq)]
pub struct Statistics {
    /// ‖E‖_F.
    pub norm: f64,
    /// ‖W_old‖_F.
    pub weight_norm: f64,
    /// The largest singular values of E that are kept, descending.
    pub singular_values: Vec<f64>,
    /// An upper bound of the largest singular value of `E − left·right`, right with a probability of 1 − 10⁻⁶ (Halko,
    /// Martinsson and Tropp, 2011, equation 4.3).
    pub spectral_error_bound: f64,
    /// Power iterations that the range finder needed.
    pub power_iterations: usize,
    /// Rows that the new weight has beyond the old one's, which are no part of E.
    pub added_rows: usize,
}

impl Statistics {
    /// ‖E‖_F/‖W_old‖_F; 0 for weights that are zero.
    pub fn relative_size(&self) -> f64 {
        if self.norm == 0.0 { 0.0 } else { self.norm / self.weight_norm.max(f64::MIN_POSITIVE) }
    }

    /// The effective rank ‖E‖²_F/σ₁², which counts directions by their energy: between 1 and the rank, 0 for E = 0.
    pub fn effective_rank(&self) -> f64 {
        match self.singular_values.first() {
            Some(&largest) if largest > 0.0 => (self.norm / largest).powi(2),
            _ => 0.0,
        }
    }

    /// The share of E's energy in the factors, Σσᵢ²/‖E‖²_F; 1 for E = 0.
    pub fn captured(&self) -> f64 {
        let kept: f64 = self.singular_values.iter().map(|sigma| sigma.powi(2)).sum();
        if self.norm == 0.0 { 1.0 } else { (kept / self.norm.powi(2)).min(1.0) }
    }

    /// ‖E − left·right‖_F/‖E‖_F, from what is left of the energy; 0 for E = 0. Good to about 10⁻³, where rounding ends.
    pub fn relative_error(&self) -> f64 {
        (1.0 - self.captured()).sqrt()
    }
}

/// The change of a base model, for every weight that an adapter adapts.
#[derive(Clone, Debug, Default)]
pub struct Evolution {
    modules: BTreeMap<String, ModuleEvolution>,
}

impl Evolution {
    /// The change of every weight that `adapter` adapts, each with k = `ranks_per_adapter_rank`·r, read from the cache
    /// where it is known and written to it as soon as it is.
    ///
    /// Large weights are read one after another, and the products run on `device`; small ones are worked on by the host, one
    /// by each thread. What comes out lies on the CPU. The numbers depend on the seed, the module's path, k and the weights
    /// alone, so that adapters restored together get what each would get alone.
    ///
    /// # Errors
    /// [`LoraError::Setting`] naming the module for a weight that only one side has or whose shape differs (an embedding
    /// and an output head may have grown by rows); [`LoraError::NotFinite`]; what reading returns, or the device's own
    /// errors.
    pub fn measure(
        adapter: &AdapterSet,
        old: &dyn Weights,
        new: &dyn Weights,
        options: &EvolutionOptions,
        cache: Option<&EvolutionCache>,
        device: &Device,
    ) -> Result<Self> {
        let host = Device::cpu();
        let module = |adapter: &Adapter, device: &Device| -> Result<(String, ModuleEvolution)> {
            let rank = (options.ranks_per_adapter_rank * adapter.rank).min(adapter.inputs).min(adapter.outputs);
            let known = cache.and_then(|cache| cache.load(adapter, rank, options.seed));
            let module = match known {
                Some(module) => module,
                None => {
                    let module = measure_module(adapter, rank, old, new, options.seed, device)?;
                    if let Some(cache) = cache {
                        cache.store(&adapter.module, rank, options.seed, &module)?;
                    }
                    module
                }
            };
            Ok((adapter.module.clone(), module))
        };
        let (small, large): (Vec<&Adapter>, Vec<&Adapter>) =
            adapter.adapters().partition(|adapter| adapter.inputs * adapter.outputs <= SMALL);
        let mut modules =
            small.into_par_iter().map(|adapter| module(adapter, &host)).collect::<Result<BTreeMap<_, _>>>()?;
        for adapter in large {
            modules.extend([module(adapter, device)?]);
        }
        Ok(Evolution { modules })
    }

    /// An evolution of given parts, by module path.
    pub fn from_modules(modules: BTreeMap<String, ModuleEvolution>) -> Self {
        Evolution { modules }
    }

    /// The change of one module.
    pub fn module(&self, module: &str) -> Option<&ModuleEvolution> {
        self.modules.get(module)
    }

    /// The changes by module path, in order.
    pub fn modules(&self) -> impl ExactSizeIterator<Item = (&str, &ModuleEvolution)> {
        self.modules.iter().map(|(module, evolution)| (module.as_str(), evolution))
    }

    /// ‖E‖_F/‖W_old‖_F over all weights together.
    pub fn relative_size(&self) -> f64 {
        let sum = |of: fn(&Statistics) -> f64| -> f64 {
            self.modules.values().map(|module| of(&module.statistics).powi(2)).sum()
        };
        let (changed, weights) = (sum(|statistics| statistics.norm), sum(|statistics| statistics.weight_norm));
        if changed == 0.0 { 0.0 } else { (changed / weights.max(f64::MIN_POSITIVE)).sqrt() }
    }
}

fn refused(message: String) -> LoraError {
    LoraError::Setting { setting: "base update", message }
}

/// Both weights of a module as `[outputs, inputs]` of the old shape, and how many rows the new one has more.
fn both_weights(adapter: &Adapter, old: &dyn Weights, new: &dyn Weights) -> Result<(Tensor, Tensor, usize)> {
    let (before, after) = (old.weight(&adapter.module)?, new.weight(&adapter.module)?);
    let (&[rows, columns], &[new_rows, new_columns]) = (&before.shape()[..], &after.shape()[..]) else {
        return Err(refused(format!("the weight of `{}` is not a matrix", adapter.module)));
    };
    let wanted = if adapter.embedding { [adapter.inputs, adapter.outputs] } else { [adapter.outputs, adapter.inputs] };
    // The adapter may already have been fitted to the grown weight.
    let of_adapter = |rows: usize| wanted == [rows, columns];
    if new_columns != columns || new_rows < rows || !(of_adapter(rows) || of_adapter(new_rows)) {
        return Err(refused(format!(
            "the weight of `{}` is {} in the old base, {} in the new one and {wanted:?} for the adapter; only added rows \
             of an embedding or an output head can be bridged",
            adapter.module,
            before.shape(),
            after.shape()
        )));
    }
    let after = if new_rows > rows { after.slice(0, 0, rows)?.contiguous()? } else { after };
    Ok((before, after, new_rows - rows))
}

fn measure_module(
    adapter: &Adapter,
    rank: usize,
    old: &dyn Weights,
    new: &dyn Weights,
    seed: u64,
    device: &Device,
) -> Result<ModuleEvolution> {
    let (before, after, added_rows) = both_weights(adapter, old, new)?;
    let shape = [before.shape()[0], before.shape()[1]];
    let (before, mut change) = (before.to_vec::<f32>()?, after.to_vec::<f32>()?);
    change.par_iter_mut().zip(&before).for_each(|(new, &old)| *new -= old);
    let (norm, weight_norm) = (frobenius(&change), frobenius(&before));
    drop(before);
    if !(norm.is_finite() && weight_norm.is_finite()) {
        return Err(LoraError::NotFinite {
            tensor: format!("{}.weight", adapter.module),
            message: "one of the two bases holds NaN or infinity".into(),
        });
    }
    let change = Tensor::from_vec(device, &shape, change)?;
    let change = if adapter.embedding { change.t()?.contiguous()? } else { change };
    let key = RandomKey::named(seed, &adapter.module, 0);
    let LowRank { u, sigma, vt, spectral_error_bound, power_iterations } =
        range_finder::low_rank(&change, rank, norm, key)?;
    let root = sigma.sqrt()?;
    let (left, right) = (u.mul(&root)?, vt.mul(&root.unsqueeze(1)?)?);
    let singular_values = sigma.to_vec::<f32>()?.into_iter().map(f64::from).collect();
    let host = Device::cpu();
    let (left, right) = (left.to_device(&host)?, right.to_device(&host)?);
    // Rows that are new did not change.
    let (left, right) = match (adapter.embedding, added_rows) {
        (_, 0) => (left, right),
        (true, added) => (left, right.pad(1, 0, added, 0.0)?),
        (false, added) => (left.pad(0, 0, added, 0.0)?, right),
    };
    Ok(ModuleEvolution {
        left: left.contiguous()?,
        right: right.contiguous()?,
        statistics: Statistics {
            norm,
            weight_norm,
            singular_values,
            spectral_error_bound,
            power_iterations,
            added_rows,
        },
    })
}

/// The Frobenius norm in f64, in chunks of one size, so that it does not depend on the number of threads.
fn frobenius(values: &[f32]) -> f64 {
    const CHUNK: usize = 1 << 16;
    let sums: Vec<f64> =
        values.par_chunks(CHUNK).map(|chunk| chunk.iter().map(|&x| f64::from(x).powi(2)).sum()).collect();
    sums.iter().sum::<f64>().sqrt()
}
