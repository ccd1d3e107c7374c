//! Training every parameter instead of an adapter: its flags, and the checkpoint it ends with.

use lora::Outcome as Trained;
use models::{ModelConfig, TokenizerFamily, train_unigram};
use serde_json::json;
use tensor::DType;

use super::Arguments;
use crate::checkpoints::{describe_trained, read_config, write_companions, write_trained};
use crate::data;
use crate::failure::{Failure, Outcome};
use crate::loading::model_failure;
use crate::output::Output;

/// The flags of full training.
#[derive(clap::Args, Clone, Debug, serde::Serialize)]
pub struct FullArguments {
    /// Train every parameter of the model instead of an adapter; --out then becomes a Hugging Face checkpoint.
    #[arg(long, conflicts_with_all = ["rank", "alpha", "targets", "dropout", "init_lora_weights", "use_rslora", "use_dora", "bias",
        "modules_to_save", "init_adapter", "method", "log_balance"])]
    pub full: bool,
    /// With --full: begin with random weights, drawn by --seed for the model that --model's config.json describes. For
    /// tasks of language; no weights need be there.
    #[arg(long, requires = "full")]
    pub from_scratch: bool,
    /// With --from-scratch: train a tokenizer on --data, unigram:SIZE with at most SIZE tokens; the configuration's
    /// vocabulary follows. --model then needs to hold a config.json only.
    #[arg(long, value_name = "unigram:SIZE", value_parser = unigram, requires = "from_scratch")]
    pub train_tokenizer: Option<usize>,
    /// With --full: element type of the checkpoint's tensors; training is in f32 in any case.
    #[arg(long, value_enum, default_value_t = Stored::F32, requires = "full")]
    pub store: Stored,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
pub enum Stored {
    F32,
    F16,
    Bf16,
}

impl Stored {
    fn dtype(self) -> DType {
        match self {
            Stored::F32 => DType::F32,
            Stored::F16 => DType::F16,
            Stored::Bf16 => DType::Bf16,
        }
    }
}

fn unigram(text: &str) -> Result<usize, String> {
    let size = text.strip_prefix("unigram:").and_then(|size| size.parse().ok());
    size.ok_or_else(|| "is not `unigram:SIZE` with a whole number".into())
}

/// Where a configuration and a tokenizer that were made for a run stand, inside its output directory.
const START: &str = "start";

/// With --train-tokenizer, the run with a tokenizer of its own: trains it, and puts it and the configuration that goes with
/// it into a directory in --out that takes the place of --model. A resumed run finds them there.
pub fn with_own_tokenizer(arguments: &Arguments, output: &Output) -> Outcome<Arguments> {
    let Some(size) = arguments.full.train_tokenizer else { return Ok(arguments.clone()) };
    let start = arguments.out.join(START);
    let own = Arguments { model: start.clone(), ..arguments.clone() };
    if arguments.resume && start.join("config.json").exists() {
        return Ok(own);
    }
    let family = match ModelConfig::read(&arguments.model).map_err(model_failure)? {
        ModelConfig::Llama(_) => TokenizerFamily::Llama,
        ModelConfig::Deberta(_) => TokenizerFamily::Deberta,
        _ => return Err(Failure::input("--train-tokenizer: no tokenizer is made for this architecture")),
    };
    let texts = data::texts(&arguments.data, arguments.task.style(arguments.rows.loss_on))?;
    let wrong = |error| Failure::input(format!("--train-tokenizer: {error}"));
    let tokens = train_unigram(&texts, size, family, &start).map_err(wrong)?;
    let mut config = read_config(&arguments.model)?;
    config.insert("vocab_size".into(), json!(tokens));
    match family {
        TokenizerFamily::Deberta => config.extend([("pad_token_id".to_string(), json!(0))]),
        TokenizerFamily::Llama => {
            let ids = [("bos_token_id", json!(1)), ("eos_token_id", json!(2)), ("pad_token_id", json!(null))];
            config.extend(ids.map(|(name, id)| (name.to_string(), id)));
        }
    }
    write_companions(&start, &start, config)?;
    output.say(format!("tokenizer: {tokens} tokens, trained on the data"));
    Ok(own)
}

/// Writes what was trained as a checkpoint, and makes one of the parameters in `best`, which the trainer wrote.
pub fn write(arguments: &Arguments, trained: &Trained) -> Outcome<()> {
    let (source, out) = (&arguments.model, &arguments.out);
    write_trained(&trained.adapters, arguments.full.store.dtype(), source, out)?;
    match &trained.best {
        Some(best) => describe_trained(&best.adapters, DType::F32, source, &out.join("best")),
        None => Ok(()),
    }
}
