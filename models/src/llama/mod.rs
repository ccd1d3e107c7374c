//! LLaMA: configuration, rotary tables, model.

mod config;
mod rotary;

pub use config::{LlamaConfig, RopeScaling};
pub use rotary::inverse_frequencies;
