//! Opening what the user names: models, tokenizers, adapters. Whatever is wrong with them is the user's to mend
//! (exit code 2), except what the device refuses.

use std::path::Path;

use lora::{AdapterOrigin, AdapterSet, Base, LoraError, Model};
use models::{Llama, ModelError, Tokenizer, WeightType};
use tensor::Device;

use crate::failure::{Failure, Outcome};
use crate::output::{Output, bytes};

/// A model error as the command's failure.
pub fn model_failure(error: ModelError) -> Failure {
    match error {
        ModelError::Tensor(error) => error.into(),
        other => Failure::input(other),
    }
}

/// An adapter or training error as the command's failure.
pub fn lora_failure(error: LoraError) -> Failure {
    match error {
        LoraError::Tensor(_) | LoraError::NotFinite { .. } | LoraError::Other(_) => error.into(),
        other => Failure::input(other),
    }
}

/// Loads a checkpoint and says what it is.
pub fn model(directory: &Path, device: &Device, weight_type: WeightType, output: &Output) -> Outcome<Llama> {
    let model = Llama::from_directory(directory, device, weight_type).map_err(model_failure)?;
    let config = model.config();
    output.say(format!(
        "model: LLaMA, {:.1} M parameters, {} layers, {} in memory",
        config.parameters() as f64 / 1e6,
        config.num_hidden_layers,
        bytes(device.counters().bytes_in_use)
    ));
    Ok(model)
}

/// Loads a checkpoint's tokenizer; called before [`model`], since it is quick.
pub fn tokenizer(directory: &Path) -> Outcome<Tokenizer> {
    if !directory.is_dir() {
        return Err(Failure::input(format!(
            "--model {}: no such directory; give the directory of a Hugging Face checkpoint (config.json, \
             model.safetensors, tokenizer.json)",
            directory.display()
        )));
    }
    Tokenizer::read(directory).map_err(model_failure)
}

/// Loads a PEFT adapter for a model.
pub fn adapter(directory: &Path, model: &Llama, output: &Output) -> Outcome<(AdapterSet, AdapterOrigin)> {
    if !directory.is_dir() {
        return Err(Failure::input(format!(
            "adapter {}: no such directory; give a directory with adapter_config.json and adapter_model.safetensors",
            directory.display()
        )));
    }
    let loaded = AdapterSet::load(directory, Base::of(model), model.device()).map_err(lora_failure)?;
    output.say(format!("adapter: {}, rank {}", directory.display(), loaded.0.config().rank));
    Ok(loaded)
}
