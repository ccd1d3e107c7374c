//! The methods by name, for commands and benchmarks that let people choose.

use std::fmt;
use std::str::FromStr;

use lora::{GradientTransform, LoraError, Result, Unchanged};

use crate::{LoraPlus, RefLora, RefLoraConfig, RefLoraScalar, ScaledGradients};

/// A way of training adapters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    /// Plain LoRA.
    Lora,
    /// [`LoraPlus`].
    LoraPlus,
    /// [`ScaledGradients`].
    Scaled,
    /// [`RefLora`].
    RefLora,
    /// [`RefLoraScalar`].
    RefLoraScalar,
}

/// The settings of all methods; each uses its own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MethodOptions {
    /// RefLoRA and RefLoRA-S: steps at the beginning that are plain LoRA.
    pub warmup_steps: u64,
    /// RefLoRA: steps between two computations of S̃.
    pub interval: u64,
    /// LoRA+: B's learning rate beside A's.
    pub lora_plus_ratio: f32,
    /// Scaled gradients: ε.
    pub scaled_epsilon: f32,
}

impl Default for MethodOptions {
    /// The authors' own: 100 steps of warm-up, S̃ at every step, ratio 16, ε = 10⁻⁶.
    fn default() -> Self {
        let RefLoraConfig { warmup_steps, interval } = RefLoraConfig::default();
        MethodOptions { warmup_steps, interval, lora_plus_ratio: 16.0, scaled_epsilon: 1e-6 }
    }
}

impl Method {
    /// All methods, plain LoRA first.
    pub const ALL: [Method; 5] =
        [Method::Lora, Method::LoraPlus, Method::Scaled, Method::RefLora, Method::RefLoraScalar];

    /// The name that [`Method::from_str`] reads.
    pub fn name(self) -> &'static str {
        match self {
            Method::Lora => "lora",
            Method::LoraPlus => "lora-plus",
            Method::Scaled => "scaled",
            Method::RefLora => "reflora",
            Method::RefLoraScalar => "reflora-s",
        }
    }

    /// The method at the beginning of a run.
    ///
    /// # Errors
    /// [`LoraError::Setting`] for settings out of range.
    pub fn transform(self, options: &MethodOptions) -> Result<Box<dyn GradientTransform>> {
        let MethodOptions { warmup_steps, interval, lora_plus_ratio, scaled_epsilon } = *options;
        Ok(match self {
            Method::Lora => Box::new(Unchanged),
            Method::LoraPlus => Box::new(LoraPlus::new(lora_plus_ratio)?),
            Method::Scaled => Box::new(ScaledGradients::new(scaled_epsilon)?),
            Method::RefLora => Box::new(RefLora::new(RefLoraConfig { warmup_steps, interval })?),
            Method::RefLoraScalar => Box::new(RefLoraScalar { warmup_steps }),
        })
    }
}

impl fmt::Display for Method {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Method {
    type Err = LoraError;

    fn from_str(text: &str) -> Result<Self> {
        Method::ALL.into_iter().find(|method| method.name() == text).ok_or_else(|| LoraError::Setting {
            setting: "method",
            message: format!("`{text}` is none of {}", Method::ALL.map(Method::name).join(", ")),
        })
    }
}
