//! The models that suite `step` trains: well-known shapes with random weights.

use lora::{LoraConfig, Model, Targets};
use models::{Deberta, DebertaConfig, DebertaHead, DebertaOptions, Llama, LlamaConfig, WeightType};
use tensor::Device;

use crate::failure::{Failure, Outcome};
use crate::loading::model_failure;

/// What names of DeBERTa's presets begin with.
const DEBERTA_PREFIX: &str = "deberta-v3-";

/// An architecture and what it is trained for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// A causal language model.
    Llama,
    /// A classifier of sequences with two classes.
    Deberta,
}

impl Family {
    /// The adapters that the peer's benchmark trains.
    pub fn lora_config(self, rank: usize) -> LoraConfig {
        let targets = match self {
            Family::Llama => ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"].as_slice(),
            Family::Deberta => &["query_proj", "key_proj", "value_proj", "output.dense", "intermediate.dense"],
        };
        let modules_to_save = match self {
            Family::Llama => Vec::new(),
            Family::Deberta => vec!["classifier".into()],
        };
        let targets = Targets::names(targets.iter().copied());
        LoraConfig { rank, alpha: 2.0 * rank as f64, targets, modules_to_save, ..LoraConfig::default() }
    }
}

/// What is trained in a measurement, written as preset:batch:sequence:rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    pub preset: String,
    pub batch: usize,
    pub sequence: usize,
    pub rank: usize,
}

impl Case {
    pub fn parse(text: &str) -> Outcome<Self> {
        let wrong =
            || Failure::input(format!("--case {text}: write name:batch:sequence:rank, as deberta-v3-base:32:128:8"));
        let [name, numbers @ ..] = &text.split(':').collect::<Vec<_>>()[..] else { return Err(wrong()) };
        let numbers: Vec<usize> = numbers.iter().map(|x| x.parse().map_err(|_| wrong())).collect::<Outcome<_>>()?;
        match numbers[..] {
            [batch, sequence, rank] if batch * sequence * rank > 0 => {
                Ok(Case { preset: name.to_string(), batch, sequence, rank })
            }
            _ => Err(wrong()),
        }
    }

    /// The model with random weights.
    pub fn subject(&self, device: &Device, seed: u64) -> Outcome<Subject> {
        // Weights of 7 B parameters in f32 leave no room for activations on most devices.
        let large = self.preset.ends_with("7b") || self.preset.ends_with("8b");
        let weights = if large { WeightType::F16 } else { WeightType::F32 };
        Subject::new(&self.preset, weights, large, seed, device)
    }
}

/// A model to be timed.
pub struct Subject {
    pub model: Box<dyn Model>,
    pub family: Family,
    pub preset: String,
    /// For people.
    pub name: String,
    pub vocabulary: usize,
}

impl Subject {
    pub fn new(preset: &str, weights: WeightType, checkpointed: bool, seed: u64, device: &Device) -> Outcome<Self> {
        let subject = |model: Box<dyn Model>, family, name, vocabulary| {
            Ok(Subject { model, family, preset: preset.into(), name, vocabulary })
        };
        if let Some(config) = preset.strip_prefix(DEBERTA_PREFIX).and_then(DebertaConfig::preset) {
            let (vocabulary, name) = (config.vocab_size, format!("DeBERTaV3 {}", &preset[DEBERTA_PREFIX.len()..]));
            let head = DebertaHead::Classifier { labels: 2 };
            let options = DebertaOptions { weight_type: weights, seed, ..DebertaOptions::new(head) };
            let model = Deberta::random(config, &options, device).map_err(model_failure)?;
            return subject(
                Box::new(model.with_checkpointed_activations(checkpointed)),
                Family::Deberta,
                name,
                vocabulary,
            );
        }
        let config = LlamaConfig::preset(preset).ok_or_else(|| {
            Failure::input(format!(
                "--preset {preset}: the presets are {}, and {DEBERTA_PREFIX} with {}",
                LlamaConfig::PRESETS.join(", "),
                DebertaConfig::PRESETS.join(", ")
            ))
        })?;
        let vocabulary = config.vocab_size;
        // Checkpoints with 16 bits come in bf16, as the peer's weights do.
        let random = if weights == WeightType::F16 { Llama::random_from_bf16 } else { Llama::random };
        let model = random(config, seed, device, weights).map_err(model_failure)?;
        let model = model.with_checkpointed_activations(checkpointed);
        subject(Box::new(model), Family::Llama, format!("LLaMA {preset}"), vocabulary)
    }
}
