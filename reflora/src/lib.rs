//! RefLoRA (Zhang, Li, Giannakis, NeurIPS 2025, arXiv 2505.18877): at every step pick the low-rank factorisation that
//! minimises an upper bound of the loss.
//!
//! A product B·A has many factorisations (B·P, P⁻¹·A), all of the same weight but each with a different next update. With
//! S = P·Pᵀ, X = A·Aᵀ and Y = Bᵀ·B, the bound is smallest at S̃ = X⁻¹ # Y, the matrix geometric mean. The update of the
//! refactored pair, written back in the old coordinates, is the ordinary update with ∇A ← S̃⁻¹·∇A and ∇B ← ∇B·S̃; the
//! factors stay ordinary LoRA factors, and no file, merge or inference knows of the method.
//!
//! A method stands between the backward pass and the optimizer:
//! ```
//! use autograd::{Gradients, Optimizer, Sgd, SgdConfig};
//! use lora::{AdapterSet, LoraConfig, ModuleShape, Targets};
//! use reflora::{Method, MethodOptions};
//! use tensor::{DType, Device, Tensor};
//!
//! let device = Device::cpu();
//! let config = LoraConfig { rank: 2, targets: Targets::names(["q_proj"]), ..LoraConfig::default() };
//! let mut adapters = AdapterSet::new(config, &[ModuleShape::new("q_proj", 4, 3)], &device, 0)?;
//! let mut optimizer = Sgd::new(SgdConfig::default());
//! let mut method = Method::RefLora.transform(&MethodOptions { warmup_steps: 1, ..MethodOptions::default() })?;
//! method.prepare(&adapters, &mut optimizer)?;
//! for step in 0..3 {
//!     let mut gradients = Gradients::new(); // in a training loop: of the backward pass
//!     gradients.insert("q_proj.lora_A.weight".to_string(), Tensor::ones(&device, &[2, 4], DType::F32)?);
//!     gradients.insert("q_proj.lora_B.weight".to_string(), Tensor::ones(&device, &[3, 2], DType::F32)?);
//!     method.apply(&mut adapters, &mut gradients, step)?;
//!     optimizer.step(adapters.parameters_mut(), &gradients, 0.1)?;
//!     method.after_update(&mut adapters, &mut optimizer, step)?;
//! }
//! # Ok::<(), lora::LoraError>(())
//! ```
//!
//! What lives here: the methods as [`lora::GradientTransform`]s, to be put into [`lora::Trainer::with_transform`], and the
//! numbers that show what they do.
//!
//! | method | type |
//! |---|---|
//! | RefLoRA | [`RefLora`] |
//! | RefLoRA-S, the scalar form | [`RefLoraScalar`] |
//! | LoRA+ (arXiv 2402.12354) | [`LoraPlus`] |
//! | scaled gradients (Riemannian preconditioning, arXiv 2402.02347) | [`ScaledGradients`] |
//! | plain LoRA | [`lora::Unchanged`] |
//!
//! What does not: S̃ itself, which is an operation on many adapters at once ([`tensor::Refactoring`]), and any model.

#![forbid(unsafe_code)]

mod balance;
mod full;
mod lora_plus;
mod method;
mod pairs;
mod scalar;
mod scaled;

pub use balance::{Balance, LogBalance, balance};
pub use full::{RefLora, RefLoraConfig};
pub use lora_plus::LoraPlus;
pub use method::{Method, MethodOptions};
pub use scalar::RefLoraScalar;
pub use scaled::ScaledGradients;
