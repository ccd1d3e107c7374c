//! Low-rank adapters: configuration, layers, initialisers, merge, PEFT files and the training loop.
//!
//! What lives here: everything that knows that a linear layer may carry an adapter. What does not: architectures of
//! models, tokenizers, command lines.
//!
//! Adapters go to a model's linear modules by name; the layer reads them from the pass it takes part in:
//! ```
//! use autograd::{Tape, Var};
//! use lora::{AdapterOrigin, AdapterSet, DropoutSource, Forward, Linear, LoraConfig, Targets};
//! use tensor::{DType, Device, Tensor};
//!
//! let device = Device::cpu();
//! let layer = Linear::new("layers.0.q_proj", Tensor::ones(&device, &[3, 4], DType::Bf16)?, None)?;
//! let config = LoraConfig { rank: 2, targets: Targets::names(["q_proj"]), ..LoraConfig::default() };
//! let adapters = AdapterSet::new(config, &[layer.shape()], &device, 0)?;
//! let tape = Tape::new();
//! let pass = Forward::training(&tape, &adapters, DropoutSource { seed: 0, step: 0 });
//! let y = layer.forward(&pass, &Var::constant(Tensor::ones(&device, &[5, 4], DType::F32)?))?;
//! let gradients = tape.backward(&y.square()?.mean(&[0, 1], false)?)?;
//! assert_eq!(gradients.get("layers.0.q_proj.lora_B.weight").unwrap().shape()[..], [3, 2]);
//! # let directory = std::env::temp_dir().join(format!("adapter-{}", std::process::id()));
//! adapters.save(&directory, &AdapterOrigin::default())?; // as Python's PEFT reads it
//! # std::fs::remove_dir_all(&directory).unwrap();
//! # Ok::<(), lora::LoraError>(())
//! ```
//!
//! [`Trainer`] is the training loop; [`GradientTransform`] and [`Regulariser`] are the two places where methods such as
//! RefLoRA and ReLoRA enter it.
#![forbid(unsafe_code)]

mod adapter;
mod adapter_set;
mod base;
mod batch;
mod combine;
mod config;
mod embedding;
mod error;
mod files;
mod forward;
mod full;
mod init;
mod labelled;
mod layers;
mod linear;
mod masked;
mod merge;
mod metrics;
mod peft;
mod peft_config;
mod provenance;
mod sources;
mod stack;
mod subtraction;
mod targets;
mod trainer;

pub use adapter::{Adapter, Factors};
pub use adapter_set::AdapterSet;
pub use base::Base;
pub use batch::{Batch, BatchSource, HostBatch, IGNORED, LabelKind, Labelled};
pub use combine::Combination;
pub use config::{Bias, LoraConfig, Overrides};
pub use embedding::Embedding;
pub use error::{LoraError, Result};
pub use files::{read_small, write_replaceable, write_whole, write_whole_with};
pub use forward::{DropoutSource, Forward, Model};
pub use init::{Initialisation, kaiming_uniform};
pub use labelled::{LabelledSequences, SequenceLabels};
pub use linear::{Linear, RoundedFactors};
pub use masked::{MaskedSequences, MaskingTokens};
pub use metrics::MetricsWriter;
pub use peft::{CONFIG_FILE, WEIGHTS_FILE, little_endian_bytes, read_adapter_origin};
pub use peft_config::{AdapterOrigin, read_adapter_config, write_adapter_config};
pub use provenance::{BaseIdentity, Fingerprint, PROVENANCE_FILE, Provenance, RunIdentity};
pub use sources::{Example, PackedTokens, PaddedExamples, PaddingSide};
pub use stack::AdapterStack;
pub use targets::{Matcher, ModuleShape, Targets};
pub use trainer::{
    Best, CheckpointReport, Evaluation, EvaluationReport, GradientTransform, Length, MOST_SKIPPED, MemoryEstimate,
    Observer, OnNonFinite, Outcome, Regulariser, StepReport, Trainer, TrainingOptions, Unchanged, evaluate,
    latest_checkpoint,
};
