//! How the adapters are trained: the flags of methods and optimizers, and what is told about the factors.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use autograd::{AdamW, AdamWConfig, Optimizer, Sgd, SgdConfig};
use lora::{GradientTransform, Initialisation, LoraError};
use reflora::{Balance, LogBalance, Method, MethodOptions};
use serde_json::json;

use crate::failure::{Failure, Outcome};
use crate::identity::as_text;
use crate::loading::lora_failure;

/// The flags that choose a method and an optimizer.
#[derive(clap::Args, Clone, Debug, serde::Serialize)]
pub struct MethodArguments {
    /// How the adapters are trained: lora, lora-plus (B learns faster), scaled (gradients divided by the other factor's Gram
    /// matrix), reflora (the optimal factorisation at every step) or reflora-s (its scalar form).
    #[arg(long, default_value_t = Method::Lora)]
    #[serde(serialize_with = "as_text")]
    pub method: Method,
    /// reflora, reflora-s: steps of plain LoRA at the beginning. With 0, reflora begins with two random factors whose
    /// product is subtracted; the adapter that is written then has twice the rank.
    #[arg(long, default_value_t = 100, value_name = "STEPS")]
    pub method_warmup: u64,
    /// reflora: steps between two computations of the factorisation.
    #[arg(long, default_value_t = 1, value_name = "STEPS")]
    pub method_interval: u64,
    /// lora-plus: learning rate of B beside that of A.
    #[arg(long, default_value_t = 16.0, value_name = "RATIO")]
    pub lora_plus_ratio: f32,
    /// scaled: what is added to the diagonal of Gram matrices.
    #[arg(long, default_value_t = 1e-6, value_name = "EPSILON")]
    pub scaled_epsilon: f32,
    /// What turns gradients into steps; sgd and momentum ignore --weight-decay's decoupling and add it to gradients.
    #[arg(long, value_enum, default_value_t = OptimizerKind::Adamw)]
    pub optimizer: OptimizerKind,
    /// Write norms, condition numbers, sharpness bound and balance of every adapter to balance.jsonl in --out, every so
    /// many steps; each time waits for the device.
    #[arg(long, num_args = 0..=1, default_missing_value = "1", value_name = "STEPS")]
    #[serde(skip)]
    pub log_balance: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
pub enum OptimizerKind {
    /// Adam with decoupled weight decay.
    Adamw,
    /// Gradient descent with momentum 0.9.
    Momentum,
    /// Plain gradient descent.
    Sgd,
}

impl OptimizerKind {
    /// As the flag spells it.
    pub fn name(self) -> &'static str {
        match self {
            OptimizerKind::Adamw => "adamw",
            OptimizerKind::Momentum => "momentum",
            OptimizerKind::Sgd => "sgd",
        }
    }

    /// The optimizer that [`OptimizerKind::name`] calls so.
    pub fn by_name(name: &str) -> Outcome<Self> {
        let unknown = |_| Failure::input(format!("`{name}` is none of adamw, momentum and sgd"));
        <Self as clap::ValueEnum>::from_str(name, false).map_err(unknown)
    }

    /// The optimizer at the beginning of a run.
    pub fn build(self, weight_decay: f64) -> Box<dyn Optimizer> {
        let sgd = |momentum| Sgd::new(SgdConfig { momentum, weight_decay, nesterov: false });
        match self {
            OptimizerKind::Adamw => Box::new(AdamW::new(AdamWConfig { weight_decay, ..AdamWConfig::default() })),
            OptimizerKind::Momentum => Box::new(sgd(0.9)),
            OptimizerKind::Sgd => Box::new(sgd(0.0)),
        }
    }
}

impl MethodArguments {
    /// RefLoRA needs two factors of full rank at its first step.
    pub fn starts_from_random_factors(&self) -> bool {
        self.method == Method::RefLora && self.method_warmup == 0
    }

    /// How fresh factors begin.
    pub fn initialisation(&self) -> Initialisation {
        if self.starts_from_random_factors() { Initialisation::Random } else { Initialisation::Kaiming }
    }

    /// The method at the beginning of a run that writes to `out`.
    pub fn transform(&self, out: &Path, resume: bool) -> Outcome<Box<dyn GradientTransform>> {
        let options = MethodOptions {
            warmup_steps: self.method_warmup,
            interval: self.method_interval,
            lora_plus_ratio: self.lora_plus_ratio,
            scaled_epsilon: self.scaled_epsilon,
        };
        let transform = self.method.transform(&options).map_err(lora_failure)?;
        let Some(every) = self.log_balance else { return Ok(transform) };
        let path = out.join("balance.jsonl");
        let file = OpenOptions::new().create(true).write(true).append(resume).truncate(!resume).open(&path);
        let mut file = file.map_err(|error| Failure::input(format!("{}: {error}", path.display())))?;
        let sink = move |step: u64, balances: &[Balance]| {
            let written = balances.iter().try_for_each(|balance| write_line(&mut file, step, balance));
            written.map_err(|error| LoraError::other(format!("{}: {error}", path.display())))
        };
        Ok(Box::new(LogBalance::new(transform, every, sink)))
    }
}

fn write_line(file: &mut File, step: u64, balance: &Balance) -> std::io::Result<()> {
    let line = json!({
        "step": step, "module": balance.module, "norm_a": balance.norm_a, "norm_b": balance.norm_b,
        "condition_a": finite(balance.condition_a), "condition_b": finite(balance.condition_b),
        "sharpness_bound": balance.sharpness_bound, "distance": balance.distance,
    });
    writeln!(file, "{line}")
}

/// JSON has no infinity; a singular factor's condition is null.
fn finite(x: f64) -> Option<f64> {
    x.is_finite().then_some(x)
}
