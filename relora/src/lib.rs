//! NOT the ReLoRA of Lialin et al. 2023 (arXiv 2307.05695), which merges and restarts adapters during pretraining: this
//! is "ReLoRA: Knowledge-Reusing Adaptation for Fast Rollout of Evolving LLM Services" (Xu et al., arXiv 2606.02606).
//! When a base model is updated, it restores old adapters instead of training each from scratch. It knows no model.
//!
//! | part | where |
//! |---|---|
//! | what changed between the bases | [`Evolution`] |
//! | adapters from the old one and the change | [`fuse`], [`transfer`](transfer()) |
//! | stage 0: whether anything has to be done | [`gate`] |
//! | stage 1: the point to start from | [`search_start`], by [`bayesian`] optimisation of an [`Objective`] |
//! | stage 2: fine-tuning held at that point | [`AnchoredRegulariser`], [`RegularisationSchedule`] |

#![forbid(unsafe_code)]

pub mod bayesian;
mod candidates;
mod dense;
mod evolution;
mod fusion;
mod groups;
mod initialise;
mod objective;
mod regulariser;
mod schedule;
mod transfer;

pub use candidates::PairedDifference;
pub use evolution::{
    Alignment, Evolution, EvolutionCache, EvolutionOptions, ModuleEvolution, RANKS_PER_ADAPTER_RANK, Statistics,
    Weights,
};
pub use fusion::{Coefficients, Fusion, fill_idle_directions, fuse};
pub use groups::{GroupCoefficients, Grouping, Groups};
pub use initialise::{CandidateReport, Gate, Start, StartOptions, StartOrigin, UNCHANGED, Verdict, gate, search_start};
pub use objective::{Objective, SearchCost};
pub use regulariser::AnchoredRegulariser;
pub use schedule::{
    DataAmount, RegularisationSchedule, Relaxation, TRUST_RADIUS, fine_tuning_rate, strong_regularisation,
};
pub use transfer::transfer;
