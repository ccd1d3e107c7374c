//! RefLoRA (Zhang, Li, Giannakis, NeurIPS 2025, arXiv 2505.18877): at every step pick the low-rank factorisation that
//! minimises an upper bound of the loss.
//!
//! A product B·A has many factorisations (B·P, P⁻¹·A), all of the same weight but each with a different next update. With
//! S = P·Pᵀ, X = A·Aᵀ and Y = Bᵀ·B, the bound is smallest at S̃ = X⁻¹ # Y, the matrix geometric mean. The update of the
//! refactored pair, written back in the old coordinates, is the ordinary update with ∇A ← S̃⁻¹·∇A and ∇B ← ∇B·S̃; the
//! factors stay ordinary LoRA factors, and no file, merge or inference knows of the method.
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
