//! Low-rank adapters: configuration, layers, initialisers, merge, PEFT files and the training loop.
//!
//! What lives here: everything that knows that a linear layer may carry an adapter. What does not: architectures of
//! models, tokenizers, command lines.
#![forbid(unsafe_code)]

mod batch;
mod config;
mod error;
mod files;
mod peft_config;
mod sources;
mod targets;

pub use batch::{Batch, BatchSource, HostBatch, IGNORED};
pub use config::{LoraConfig, Overrides};
pub use error::{LoraError, Result};
pub use files::write_whole;
pub use peft_config::{AdapterOrigin, read_adapter_config, write_adapter_config};
pub use sources::{Example, PackedTokens, PaddedExamples};
pub use targets::{Matcher, ModuleShape, Targets};
