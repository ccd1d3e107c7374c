//! NOT the ReLoRA of Lialin et al. 2023 (arXiv 2307.05695), which merges and restarts adapters during pretraining: this
//! is "ReLoRA: Knowledge-Reusing Adaptation for Fast Rollout of Evolving LLM Services" (Xu et al., arXiv 2606.02606).
//! When a base model is updated, it restores old adapters instead of training each from scratch. It knows no model.
//!
//! | part | where |
//! |---|---|
//! | what changed between the bases | [`Evolution`] |
//! | adapters from the old one and the change | [`fuse`], [`transfer`](transfer()) |
//! | search for the point to start from | [`bayesian`] |

#![forbid(unsafe_code)]

pub mod bayesian;
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
