//! The flags of `finetune` and what they mean for the library.

use std::path::PathBuf;

use autograd::{Decay, Schedule};
use lora::{Bias, Initialisation, Length, LoraConfig, OnNonFinite, Targets};
use models::{DropoutOverrides, WeightType};

use super::full::FullArguments;
use super::method::MethodArguments;
use crate::data::options::RowOptions;
use crate::data::task::Task;
use crate::identity::BaseCheck;

// Serialised are the settings that a resumed run must share; base and data are known by their contents.
/// Example: cargo xtask finetune --model path/to/llama --data notes.txt --out my-adapter --steps 300
#[derive(clap::Args, Clone, Debug, serde::Serialize)]
#[command(args_override_self = true)]
pub struct Arguments {
    /// Directory of a Hugging Face checkpoint (config.json, model.safetensors, tokenizer.json), or its name on the hub
    /// (owner/name).
    #[arg(long)]
    #[serde(skip)]
    pub model: PathBuf,
    /// What to train for: the next token, a class or score of each row, or a task of GLUE.
    #[arg(long, value_enum, default_value_t = Task::Causal)]
    pub task: Task,
    /// Names of the classes for --task classify.
    #[arg(long, num_args = 1.., value_delimiter = ',')]
    pub labels: Vec<String>,
    /// Training data: .txt (packed text), .jsonl or .json (rows of text, prompt + completion, or instruction + output;
    /// with --task classify or regress text, perhaps text_pair, and label); with a task of GLUE the directory of its
    /// files.
    #[arg(long, num_args = 1.., required = true)]
    #[serde(skip)]
    pub data: Vec<PathBuf>,
    /// Validation data; default: 5 % of the training data is held out, at most 64 blocks or rows.
    #[arg(long, num_args = 1..)]
    #[serde(skip)]
    pub validation: Vec<PathBuf>,
    /// Directory for the adapter (PEFT files) or, with --full, the model; metrics.jsonl and resumable checkpoints.
    #[arg(long)]
    #[serde(skip)]
    pub out: PathBuf,
    /// Read settings from a TOML file with the same names; flags given here win.
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Rank of the adapter.
    #[arg(long, default_value_t = 8)]
    pub rank: usize,
    /// Numerator of the adapter's scaling alpha/rank; default: twice the rank.
    #[arg(long)]
    pub alpha: Option<f64>,
    /// Modules that get an adapter: names or suffixes such as q_proj, or all-linear.
    #[arg(long, num_args = 1.., value_delimiter = ',', default_value = "all-linear")]
    pub targets: Vec<String>,
    /// Probability of dropping an element of an adapter's input in training.
    #[arg(long, default_value_t = 0.0)]
    pub dropout: f32,
    /// Where fresh factors come from, as PEFT spells it: true (A uniform, B zero), gaussian, pissa, pissa_niter_4, olora,
    /// orthogonal.
    #[arg(long, value_name = "NAME", conflicts_with = "init_adapter")]
    pub init_lora_weights: Option<Initialisation>,
    /// Scale by alpha/√rank instead of alpha/rank.
    #[arg(long)]
    pub use_rslora: bool,
    /// Biases to train as well, as PEFT spells it: none, lora_only (of adapted modules), all.
    #[arg(long, default_value_t = Bias::None)]
    pub bias: Bias,
    /// DoRA: train the magnitude of each row of the weight beside the adapter.
    #[arg(long)]
    pub use_dora: bool,
    /// Modules to train as a whole beside the adapters; default: pooler and classifier, or score, for a
    /// task with labels.
    #[arg(long, num_args = 1.., value_delimiter = ',')]
    pub modules_to_save: Vec<String>,
    /// Dropout of hidden states in the model itself; default: as config.json says. DeBERTa only, like the next two.
    #[arg(long)]
    pub hidden_dropout: Option<f32>,
    /// Dropout of attention probabilities; default: as config.json says.
    #[arg(long)]
    pub attention_dropout: Option<f32>,
    /// Dropout before the classifier; default: as config.json says.
    #[arg(long)]
    pub classifier_dropout: Option<f32>,
    /// Highest learning rate.
    #[arg(long, default_value_t = 2e-3)]
    pub lr: f32,
    /// What the learning rate does after the warm-up.
    #[arg(long, value_enum, default_value_t = ScheduleKind::Cosine)]
    pub schedule: ScheduleKind,
    /// Steps over which the learning rate rises from 0; default: 5 % of the run.
    #[arg(long)]
    pub warmup: Option<u64>,
    /// Decoupled weight decay; with --full not of norms and biases.
    #[arg(long, default_value_t = 0.0)]
    pub weight_decay: f64,
    /// Global norm to which gradients are clipped; 0 for no clipping.
    #[arg(long, default_value_t = 1.0)]
    pub clip: f32,
    /// What becomes of a step whose loss or gradients are NaN or infinite: stop ends the run; skip leaves its gradients out,
    /// unless that happens ten times in a row.
    #[arg(long, value_enum, default_value_t = NonFinite::Stop)]
    pub on_nonfinite: NonFinite,
    /// Optimizer steps.
    #[arg(long, default_value_t = 200, conflicts_with = "epochs")]
    pub steps: u64,
    /// Passes over the data instead of a number of steps.
    #[arg(long)]
    pub epochs: Option<u64>,
    /// Sequences in a batch.
    #[arg(long, default_value_t = 8, value_parser = positive)]
    pub batch: usize,
    /// Batches whose gradients are averaged before a step.
    #[arg(long, default_value_t = 1)]
    pub grad_accumulation: u64,
    /// Tokens in a sequence; longer rows are cut.
    #[arg(long, visible_alias = "max-length", default_value_t = 128, value_parser = positive)]
    pub seq: usize,
    #[command(flatten)]
    #[serde(flatten)]
    pub rows: RowOptions,
    /// Steps between evaluations; default: four over the run.
    #[arg(long)]
    #[serde(skip)]
    pub eval_every: Option<u64>,
    /// Steps between resumable checkpoints; default: only when interrupted.
    #[arg(long)]
    #[serde(skip)]
    pub save_every: Option<u64>,
    /// Compute each block again in the backward pass instead of keeping its activations.
    #[arg(long)]
    pub checkpoint_activations: bool,
    /// Compute nothing again in the backward pass: with --dtype mixed a little faster, for more memory.
    #[arg(long, conflicts_with = "checkpoint_activations")]
    pub keep_activations: bool,
    /// f32: everything in f32. mixed: frozen weights and their inputs in 16 bits, on tensor cores where the device has them;
    /// sums, activations between the layers, adapters and optimizer in f32.
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    pub dtype: Precision,
    /// Begin though the device seems to have too little memory.
    #[arg(long)]
    #[serde(skip)]
    pub ignore_memory_estimate: bool,
    /// Go on from the newest checkpoint in --out.
    #[arg(long)]
    #[serde(skip)]
    pub resume: bool,
    /// Start from the factors of this PEFT adapter instead of new ones; its rank, alpha and targets count.
    #[arg(long, conflicts_with = "resume")]
    pub init_adapter: Option<PathBuf>,
    /// Write over an adapter that is already in --out.
    #[arg(long)]
    #[serde(skip)]
    pub overwrite: bool,
    #[command(flatten)]
    #[serde(skip)]
    pub base_check: BaseCheck,
    #[command(flatten)]
    #[serde(flatten)]
    pub full: FullArguments,
    #[command(flatten)]
    #[serde(flatten)]
    pub method: MethodArguments,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
pub enum ScheduleKind {
    Constant,
    Linear,
    Cosine,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
pub enum Precision {
    F32,
    Mixed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
pub enum NonFinite {
    Stop,
    Skip,
}

impl From<NonFinite> for OnNonFinite {
    fn from(chosen: NonFinite) -> Self {
        match chosen {
            NonFinite::Stop => OnNonFinite::Stop,
            NonFinite::Skip => OnNonFinite::Skip,
        }
    }
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if *self == Precision::F32 { "f32" } else { "mixed" })
    }
}

impl Precision {
    /// How the frozen weights are kept.
    pub fn weight_type(self) -> WeightType {
        match self {
            Precision::F32 => WeightType::F32,
            Precision::Mixed => WeightType::F16,
        }
    }
}

/// A clap parser for counts of at least 1.
pub fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".into()),
        Ok(value) => Ok(value),
        Err(_) => Err("is not a whole number".into()),
    }
}

/// What classifiers of any architecture put on top of the model they were made of.
const HEADS: [&str; 3] = ["pooler", "classifier", "score"];

/// Whether one of the modules is called so, or lies under one that is.
fn has_module(modules: &[String], name: &str) -> bool {
    modules.iter().any(|module| module.split('.').any(|part| part == name))
}

impl Arguments {
    /// The adapter that is asked for; `savable` are the modules that the model offers to train as a whole.
    pub fn lora_config(&self, savable: &[String]) -> LoraConfig {
        let all = self.targets.iter().any(|target| target == "all-linear");
        LoraConfig {
            rank: self.rank,
            alpha: self.alpha.unwrap_or(2.0 * self.rank as f64),
            dropout: self.dropout,
            targets: if all { Targets::AllLinear } else { Targets::names(self.targets.clone()) },
            modules_to_save: match self.modules_to_save.is_empty() && !self.task.is_language() {
                true => HEADS.iter().filter(|head| has_module(savable, head)).map(|head| head.to_string()).collect(),
                false => self.modules_to_save.clone(),
            },
            init_lora_weights: self.init_lora_weights.unwrap_or(self.method.initialisation()),
            use_rslora: self.use_rslora,
            use_dora: self.use_dora,
            bias: self.bias,
            ..LoraConfig::default()
        }
    }

    /// Dropout in the model itself, where it is not config.json's.
    pub fn model_dropout(&self) -> DropoutOverrides {
        DropoutOverrides {
            hidden: self.hidden_dropout,
            attention: self.attention_dropout,
            pooler: None,
            classifier: self.classifier_dropout,
        }
    }

    /// The task as the flag spells it.
    pub fn task_name(&self) -> String {
        use clap::ValueEnum;
        self.task.to_possible_value().map_or_else(String::new, |task| task.get_name().to_string())
    }

    /// The length of the run.
    pub fn length(&self) -> Length {
        self.epochs.map_or(Length::Steps(self.steps), Length::Epochs)
    }

    /// The learning rate over a run of `steps`.
    pub fn learning_rates(&self, steps: u64) -> Schedule {
        let decay = match self.schedule {
            ScheduleKind::Constant => Decay::Constant,
            ScheduleKind::Linear => Decay::Linear,
            ScheduleKind::Cosine => Decay::Cosine { floor: 0.0 },
        };
        Schedule { peak: self.lr, warmup_steps: self.warmup.unwrap_or(steps / 20), total_steps: steps, decay }
    }
}
