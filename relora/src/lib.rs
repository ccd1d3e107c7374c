//! ReLoRA, "Knowledge-Reusing Adaptation" (Xu et al., arXiv 2606.02606); not the 2023 method of that name (Lialin et
//! al., arXiv 2307.05695), which merges and restarts adapters during pretraining. When a base model is updated, it
//! restores old adapters instead of training each from scratch. It knows no model.

#![forbid(unsafe_code)]

mod dense;
mod evolution;
mod fusion;
mod transfer;

pub use evolution::{
    Alignment, Evolution, EvolutionCache, EvolutionOptions, ModuleEvolution, RANKS_PER_ADAPTER_RANK, Statistics,
    Weights,
};
pub use fusion::{Coefficients, Fusion, fill_idle_directions, fuse};
pub use transfer::transfer;
