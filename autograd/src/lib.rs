//! Reverse-mode differentiation over the `tensor` crate: a tape of what was computed from trainable leaves, a rule for
//! each operation, and what a training step does with the gradients (clipping, schedules, optimizers).
//!
//! ```
//! use autograd::{AdamW, AdamWConfig, Optimizer, Parameters, Schedule, Tape, Var, clip_by_global_norm, mse_loss};
//! use tensor::{DType, Device, Tensor};
//!
//! let device = Device::cpu();
//! let x = Var::constant(Tensor::from_slice(&device, &[3, 1], &[1.0f32, 2.0, 3.0])?);
//! let y = Var::constant(Tensor::from_slice(&device, &[3, 1], &[2.0f32, 4.0, 6.0])?);
//! let mut parameters = Parameters::new();
//! parameters.insert("slope", Tensor::zeros(&device, &[1, 1], DType::F32)?)?;
//! let mut optimizer = AdamW::new(AdamWConfig::default());
//! let schedule = Schedule::constant(0.1);
//! for step in 0..100 {
//!     let tape = Tape::new();
//!     let loss = mse_loss(&x.matmul(&tape.leaf("slope", parameters.get("slope").unwrap()))?, &y)?;
//!     let mut gradients = tape.backward(&loss)?;
//!     clip_by_global_norm(&mut gradients, 1.0)?;
//!     optimizer.step(&mut parameters, &gradients, schedule.at(step))?;
//! }
//! assert!((parameters.get("slope").unwrap().item::<f32>()? - 2.0).abs() < 0.1);
//! # Ok::<(), tensor::TensorError>(())
//! ```
//!
//! Where to look: [`Tape`] for recording and [`Tape::checkpoint`], [`Var`] for the differentiable operations,
//! `rules/` for their derivatives, [`Optimizer`], [`Schedule`], and the module `check` (feature `testing`) for
//! checking rules of your own against finite differences. Errors are those of the `tensor` crate.
#![forbid(unsafe_code)]

mod accumulation;
mod checkpoint;
mod clip;
mod finite;
mod gradients;
mod optimizer;
mod parameters;
mod rounded;
mod rules;
mod schedule;
mod tape;
#[cfg(test)]
mod tape_tests;
mod var;
mod walk;
#[cfg(test)]
mod walk_tests;

#[cfg(any(test, feature = "testing"))]
pub mod check;

pub use accumulation::{Gradient, Totals};
pub use clip::clip_by_global_norm;
pub use finite::{NonFinite, first_non_finite};
pub use gradients::Gradients;
pub use optimizer::{AdamW, AdamWConfig, MomentsMut, Optimizer, Sgd, SgdConfig};
pub use parameters::Parameters;
pub use rounded::{KeptRows, Operand, RoundedVar};
pub use rules::{
    DisentangledConfig, biased_linear_cross_entropy, cross_entropy, linear_cross_entropy, mse_loss, select_where,
};
pub use schedule::{Decay, Schedule};
pub use tape::{Tape, TapeInput, record, record_accumulating, record_outputs, record_rounded_outputs};
pub use tensor::{Result, TensorError};
pub use var::Var;
