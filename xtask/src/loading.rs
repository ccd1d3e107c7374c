//! Opening what the user names: models, tokenizers, adapters. Whatever is wrong with them is the user's to mend
//! (exit code 2), except what the device refuses.

use std::path::Path;
use std::time::Instant;

use lora::{AdapterOrigin, AdapterSet, Base, LoraError, Model};
use models::{
    Deberta, DebertaHead, DebertaOptions, DropoutOverrides, Llama, LlamaClassifier, ModelConfig, ModelError, Tokenizer,
    WeightType,
};
use tensor::Device;

use crate::classification::Classifier;
use crate::data::task::Target;
use crate::failure::{Failure, Outcome};
use crate::output::{Output, bytes};

/// What a checkpoint has besides tensors and config.json, where it has it.
pub const COMPANIONS: [&str; 9] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "spm.model",
    "tokenizer.model",
];

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

/// A model for some task.
pub enum Loaded {
    /// Predicts the next token.
    Language(Box<Llama>),
    /// Predicts hidden tokens.
    Masked(Box<Deberta>),
    /// Gives each sequence a class or a score.
    Classifier {
        model: Box<dyn Classifier>,
        /// Tokens in a sequence at most.
        positions: usize,
    },
}

impl Loaded {
    /// What training sees.
    pub fn model(&self) -> &dyn Model {
        match self {
            Loaded::Language(model) => &**model,
            Loaded::Masked(model) => &**model,
            Loaded::Classifier { model, .. } => &**model,
        }
    }

    /// Tokens in a sequence at most.
    pub fn positions(&self) -> usize {
        match self {
            Loaded::Language(model) => model.config().max_position_embeddings,
            Loaded::Masked(model) => model.config().max_position_embeddings,
            Loaded::Classifier { positions, .. } => *positions,
        }
    }
}

/// What a classifier is made with besides its checkpoint.
#[derive(Clone, Copy, Debug)]
pub struct ClassifierOptions {
    pub weight_type: WeightType,
    /// What a head that the checkpoint lacks is drawn from.
    pub seed: u64,
    /// Other probabilities of dropout than the checkpoint's.
    pub dropout: DropoutOverrides,
    pub checkpoint_activations: bool,
}

/// Where a model's weights come from.
#[derive(Clone, Copy, Debug)]
pub enum Weights {
    /// The checkpoint, kept in this type.
    Stored(WeightType),
    /// Random numbers, in f32, for the model that config.json describes.
    Random { seed: u64 },
}

/// Loads a language model and says what it is.
pub fn language_model(directory: &Path, device: &Device, weights: Weights, output: &Output) -> Outcome<Llama> {
    let config = ModelConfig::read(directory).map_err(model_failure)?;
    if let ModelConfig::Deberta(_) = config {
        return Err(Failure::input(format!(
            "--model {}: DeBERTa does not predict next tokens; give --task (masked-lm, sst2, classify, …), or a LLaMA \
             checkpoint",
            directory.display()
        )));
    }
    let started = Instant::now();
    let model = match (weights, config) {
        (Weights::Random { seed }, ModelConfig::Llama(config)) => Llama::random(config, seed, device, WeightType::F32),
        (Weights::Random { .. }, _) => {
            return Err(Failure::input("--from-scratch: no such language model is made here"));
        }
        (Weights::Stored(weight_type), _) => Llama::from_directory(directory, device, weight_type),
    };
    let model = model.map_err(model_failure)?;
    device.synchronize()?;
    let config = model.config();
    output.say(format!(
        "model: LLaMA, {:.1} M parameters, {} layers, {} in memory after {:.1} s",
        config.parameters() as f64 / 1e6,
        config.num_hidden_layers,
        bytes(device.counters().bytes_in_use),
        started.elapsed().as_secs_f64()
    ));
    Ok(model)
}

/// Loads a masked language model, or makes one, and says what it is.
pub fn masked_model(
    directory: &Path,
    device: &Device,
    weights: Weights,
    dropout: DropoutOverrides,
    output: &Output,
) -> Outcome<Deberta> {
    let ModelConfig::Deberta(config) = ModelConfig::read(directory).map_err(model_failure)? else {
        return Err(Failure::input(format!(
            "--model {}: --task masked-lm is for DeBERTa; LLaMA predicts next tokens (--task causal)",
            directory.display()
        )));
    };
    let options = DebertaOptions { dropout, ..DebertaOptions::new(DebertaHead::MaskedLanguageModel) };
    let model = match weights {
        Weights::Random { seed } => Deberta::random(config, &DebertaOptions { seed, ..options }, device),
        Weights::Stored(weight_type) => {
            Deberta::from_directory(directory, &DebertaOptions { weight_type, ..options }, device)
        }
    };
    let model = model.map_err(model_failure)?;
    let (config, memory) = (model.config(), bytes(device.counters().bytes_in_use));
    let (layers, vocabulary) = (config.num_hidden_layers, config.vocab_size);
    output.say(format!("model: DeBERTa, {layers} layers, a vocabulary of {vocabulary}, {memory} in memory"));
    Ok(model)
}

/// Loads a model with a head for `target` and says what it is.
pub fn classifier(
    directory: &Path,
    device: &Device,
    target: &Target,
    options: &ClassifierOptions,
    output: &Output,
) -> Outcome<Loaded> {
    let (name, layers, fresh, loaded) = match ModelConfig::read(directory).map_err(model_failure)? {
        ModelConfig::Deberta(config) => {
            let model = deberta(directory, device, target, options)?;
            if !model.unused_tensors().is_empty() {
                output.say(format!("left out: {} tensors of other heads", model.unused_tensors().len()));
            }
            let (fresh, positions) = (model.fresh_modules().to_vec(), config.max_position_embeddings);
            ("DeBERTa", config.num_hidden_layers, fresh, Loaded::Classifier { model: Box::new(model), positions })
        }
        ModelConfig::Llama(config) => {
            if options.dropout != DropoutOverrides::default() {
                return Err(Failure::input(
                    "--hidden-dropout, --attention-dropout and --classifier-dropout belong to DeBERTa; LLaMA has no dropout",
                ));
            }
            let ClassifierOptions { weight_type, seed, checkpoint_activations, .. } = *options;
            let model = LlamaClassifier::from_directory(directory, target.outputs(), seed, device, weight_type)
                .map_err(model_failure)?
                .with_checkpointed_activations(checkpoint_activations);
            let fresh = if model.is_head_fresh() { vec!["score".to_string()] } else { Vec::new() };
            let positions = config.max_position_embeddings;
            ("LLaMA", config.num_hidden_layers, fresh, Loaded::Classifier { model: Box::new(model), positions })
        }
        _ => return Err(Failure::input(format!("--model {}: has no classifier here", directory.display()))),
    };
    output.say(format!(
        "model: {name}, {layers} layers, {} outputs for each sequence, {} in memory",
        target.outputs(),
        bytes(device.counters().bytes_in_use)
    ));
    if !fresh.is_empty() {
        output.say(format!("new in this model: {} (seed {})", fresh.join(", "), options.seed));
    }
    Ok(loaded)
}

fn deberta(directory: &Path, device: &Device, target: &Target, options: &ClassifierOptions) -> Outcome<Deberta> {
    let head = match target.labels.len() {
        0 => DebertaHead::Regression,
        labels => DebertaHead::Classifier { labels },
    };
    let ClassifierOptions { weight_type, seed, dropout, checkpoint_activations } = *options;
    let options = DebertaOptions { head, weight_type, seed, dropout };
    let model = Deberta::from_directory(directory, &options, device).map_err(model_failure)?;
    Ok(model.with_checkpointed_activations(checkpoint_activations))
}

/// Loads a checkpoint's tokenizer; called before the model, since it is quick.
pub fn tokenizer(directory: &Path) -> Outcome<Tokenizer> {
    if !directory.is_dir() {
        return Err(Failure::input(format!(
            "--model {}: no such directory; give the directory of a Hugging Face checkpoint (config.json, \
             model.safetensors, tokenizer.json), or the name of one on the hub (owner/name)",
            directory.display()
        )));
    }
    Tokenizer::read(directory).map_err(model_failure)
}

/// Loads a PEFT adapter for a model.
pub fn adapter(directory: &Path, model: &dyn Model, output: &Output) -> Outcome<(AdapterSet, AdapterOrigin)> {
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
