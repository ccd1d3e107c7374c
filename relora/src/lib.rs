//! NOT the ReLoRA of Lialin et al. 2023 (arXiv 2307.05695), which merges and restarts adapters during pretraining: this
//! is "ReLoRA: Knowledge-Reusing Adaptation for Fast Rollout of Evolving LLM Services" (Xu et al., arXiv 2606.02606).
//! When a base model is updated, it restores old adapters instead of training each from scratch. It knows no model.
//!
//! The change of a base's weights, and an adapter made of an old one and that change:
//! ```
//! use lora::{AdapterSet, LoraConfig, ModuleShape, Targets};
//! use relora::{Evolution, EvolutionOptions, Weights, fuse};
//! use tensor::{Device, RandomKey, Tensor};
//!
//! /// A base with one linear layer.
//! struct Base(Tensor);
//!
//! impl Weights for Base {
//!     fn names(&self) -> Vec<String> {
//!         vec!["q_proj".into()]
//!     }
//!
//!     fn weight(&self, _module: &str) -> lora::Result<Tensor> {
//!         Ok(self.0.clone())
//!     }
//! }
//!
//! let device = Device::cpu();
//! let normal = |name: &str| Tensor::random_normal(&device, &[6, 8], 0.0, 1.0, RandomKey::named(0, name, 0));
//! let (old, new) = (Base(normal("old")?), Base(normal("old")?.add(&normal("change")?)?));
//! let config = LoraConfig { rank: 2, targets: Targets::names(["q_proj"]), ..LoraConfig::default() };
//! let adapter = AdapterSet::new(config, &[ModuleShape::new("q_proj", 8, 6)], &device, 0)?;
//! let evolution = Evolution::measure(&adapter, &old, &new, &EvolutionOptions::default(), None, &device)?;
//! let start = fuse(&adapter, &evolution, 0.8, -0.5)?; // α of the old adapter, β of the change
//! assert_eq!(start.adapters().len(), 1);
//! # Ok::<(), lora::LoraError>(())
//! ```
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
