//! Models from Hugging Face checkpoints: LLaMA's architecture, files, tokenizer and generation. Layers are built from
//! `lora::Linear`, so that adapters are a matter of names.
//!
//! What lives here: architectures and files. What does not: how adapters are trained, or what users are shown.

#![forbid(unsafe_code)]

mod architecture;
mod checkpoint;
mod error;
mod json;
mod llama;
mod tokenizer;
mod weights;

pub use architecture::ModelConfig;
pub use checkpoint::{Checkpoint, StoredTensor};
pub use error::{ModelError, Result};
pub use llama::{LlamaConfig, RopeScaling, inverse_frequencies};
pub use tokenizer::{TokenStream, Tokenizer};
pub use weights::WeightType;
