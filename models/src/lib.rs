//! Models from Hugging Face checkpoints: the architectures of LLaMA and DeBERTaV3, files, tokenizer and generation. Layers are built from
//! `lora::Linear`, so that adapters are a matter of names.
//!
//! ```no_run
//! use std::{ops::ControlFlow, path::Path};
//!
//! use models::{GenerationOptions, Llama, Tokenizer, WeightType, generate};
//! use tensor::Device;
//!
//! let directory = Path::new("checkpoints/TinyStories");
//! let model = Llama::from_directory(directory, &Device::auto(), WeightType::F32)?;
//! let tokenizer = Tokenizer::read(directory)?;
//! let options = GenerationOptions {
//!     max_new_tokens: 100,
//!     stop_tokens: model.config().eos_token_ids.clone(),
//!     ..GenerationOptions::default()
//! };
//! let prompt = tokenizer.encode("Once upon a time", true)?;
//! let generated = generate(&model, None, &prompt, &options, |_| ControlFlow::Continue(()))?;
//! println!("{}", tokenizer.decode(&generated.tokens, true)?);
//! # Ok::<(), models::ModelError>(())
//! ```
//!
//! What lives here: architectures and files. What does not: how adapters are trained, or what users are shown.

#![forbid(unsafe_code)]

mod architecture;
mod checkpoint;
mod classifier;
mod deberta;
mod error;
mod generate;
mod json;
mod llama;
mod loss;
mod merge;
mod tokenizer;
mod trained;
mod update;
mod weights;

pub use architecture::ModelConfig;
pub use checkpoint::{Checkpoint, StoredTensor, read_tensor_table};
pub use classifier::SequenceClassifier;
pub use deberta::{Deberta, DebertaConfig, DebertaHead, DebertaOptions, DropoutOverrides};
pub use error::{ModelError, Result};
pub use generate::{Finish, Generated, GenerationOptions, Sampling, generate};
pub use llama::{Cache, Llama, LlamaClassifier, LlamaConfig, RopeScaling, inverse_frequencies};
pub use merge::{MergedCheckpoint, load_adapter, merge_checkpoint};
pub use tokenizer::{EncodedPair, TokenStream, Tokenizer, TokenizerFamily, train_unigram};
pub use trained::write_checkpoint;
pub use update::{ModelUpdate, Side};
pub use weights::WeightType;
