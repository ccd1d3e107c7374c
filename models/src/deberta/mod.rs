//! DeBERTa-v2 and v3: configuration, relative positions, blocks, heads, model.

mod config;
mod head;
mod layer;
mod model;
mod norm;
mod options;
mod positions;

pub use config::DebertaConfig;
pub use model::Deberta;
pub use options::{DebertaHead, DebertaOptions, DropoutOverrides};
