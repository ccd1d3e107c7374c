//! LLaMA: configuration, rotary tables, blocks, model.

mod classifier;
mod config;
mod layer;
mod model;
mod norm;
mod rotary;
mod scoring;

pub use classifier::LlamaClassifier;
pub use config::{LlamaConfig, RopeScaling};
pub use model::{Cache, Llama};
pub use rotary::inverse_frequencies;
