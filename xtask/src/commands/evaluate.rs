//! `evaluate`: a model's loss and perplexity on text, or a task's measures on its validation files.

use std::path::PathBuf;
use std::process::ExitCode;

use lora::{AdapterSet, BatchSource, Model, evaluate, write_whole};
use models::{DropoutOverrides, Llama, Tokenizer};
use serde_json::json;

use super::finetune::{Precision, positive};
use crate::Common;
use crate::classification;
use crate::commonsense::{self, AnswerBy};
use crate::data::labelled::{self, Encoded};
use crate::data::masked;
use crate::data::options::{LossOn, RowOptions};
use crate::data::rows;
use crate::data::task::{Target, Task};
use crate::data::{Data, Shape};
use crate::failure::{Failure, Outcome};
use crate::identity::BaseCheck;
use crate::loading::{self, ClassifierOptions, Loaded, Weights, lora_failure};
use crate::output::Output;

/// Example: cargo xtask evaluate --model path/to/deberta --adapter my-adapter --task sst2 --data path/to/glue
#[derive(clap::Args)]
pub struct Arguments {
    /// Directory of a Hugging Face checkpoint, or its name on the hub (owner/name).
    #[arg(long)]
    pub model: PathBuf,
    /// Directory of a PEFT adapter.
    #[arg(long)]
    adapter: Option<PathBuf>,
    #[command(flatten)]
    base_check: BaseCheck,
    /// What to measure.
    #[arg(long, value_enum, default_value_t = Task::Causal)]
    task: Task,
    /// Names of the classes for --task classify, in the order of the training.
    #[arg(long, num_args = 1.., value_delimiter = ',')]
    labels: Vec<String>,
    /// As for `finetune`; a task of GLUE also takes one .tsv file instead of the directory.
    #[arg(long, num_args = 1.., required = true)]
    data: Vec<PathBuf>,
    /// Sequences in a batch.
    #[arg(long, default_value_t = 8, value_parser = positive)]
    batch: usize,
    /// Tokens in a sequence; longer rows are cut.
    #[arg(long, visible_alias = "max-length", default_value_t = 128, value_parser = positive)]
    seq: usize,
    /// How --task commonsense finds the model's answers.
    #[arg(long, value_enum, default_value_t = AnswerBy::Likelihood)]
    answer_by: AnswerBy,
    /// As for `finetune`.
    #[arg(long, value_enum)]
    loss_on: Option<LossOn>,
    /// As for `finetune`.
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    dtype: Precision,
    /// Write the prediction for each row to this file: a table of row number and class or score.
    #[arg(long, value_name = "FILE")]
    predictions: Option<PathBuf>,
}

pub fn run(arguments: &Arguments, common: &Common, output: &Output) -> Outcome<ExitCode> {
    let target = arguments.task.target(&arguments.labels)?;
    if arguments.predictions.is_some() && target.is_none() {
        return Err(Failure::input("--predictions belongs to tasks with labels"));
    }
    let device = common.open_device(output)?;
    let tokenizer = loading::tokenizer(&arguments.model)?;
    let loaded = match &target {
        None => {
            let (model, weights) = (&arguments.model, Weights::Stored(arguments.dtype.weight_type()));
            match arguments.task {
                Task::MaskedLm => {
                    let dropout = DropoutOverrides::default();
                    Loaded::Masked(Box::new(loading::masked_model(model, &device, weights, dropout, output)?))
                }
                _ => Loaded::Language(Box::new(loading::language_model(model, &device, weights, output)?)),
            }
        }
        Some(target) => {
            let options = ClassifierOptions {
                weight_type: arguments.dtype.weight_type(),
                seed: common.seed,
                dropout: DropoutOverrides::default(),
                checkpoint_activations: false,
            };
            loading::classifier(&arguments.model, &device, target, &options, output)?
        }
    };
    if arguments.seq > loaded.positions() {
        let (asked, limit) = (arguments.seq, loaded.positions());
        return Err(Failure::input(format!("--seq {asked}: the model has {limit} positions")));
    }
    let adapters = match &arguments.adapter {
        Some(directory) => {
            arguments.base_check.check(directory, &arguments.model, output)?;
            Some(loading::adapter(directory, loaded.model(), output)?.0)
        }
        None => None,
    };
    match (&loaded, &target) {
        (Loaded::Classifier { model, .. }, Some(target)) => {
            classify(arguments, target, &**model, adapters.as_ref(), &tokenizer, output)
        }
        (Loaded::Language(model), _) if arguments.task == Task::Commonsense => {
            choose(arguments, model, adapters.as_ref(), &tokenizer, output)
        }
        _ => perplexity(arguments, loaded.model(), adapters.as_ref(), &tokenizer, output),
    }
}

fn classify(
    arguments: &Arguments,
    target: &Target,
    model: &dyn classification::Classifier,
    adapters: Option<&AdapterSet>,
    tokenizer: &Tokenizer,
    output: &Output,
) -> Outcome<ExitCode> {
    let mut report = serde_json::Map::new();
    let validation = labelled::read_validation(arguments.task, target, &arguments.data)?;
    for part in &validation {
        let encoded = Encoded::new(&part.rows, tokenizer, arguments.seq)?;
        encoded.cut().warning("validation", arguments.seq).iter().for_each(|warning| output.say(warning));
        let rows = encoded.batches(arguments.batch, None)?;
        let outputs = classification::predict(model, adapters, &rows)?;
        let scores = classification::score(&outputs, rows.labels(), target.measures);
        let label = if part.name.is_empty() { "validation" } else { part.name };
        output.say(format!("{label}: {} rows, {}", part.rows.len(), scores.line()));
        report.insert(label.into(), scores.json());
        if let Some(path) = &arguments.predictions {
            // Several parts go to several files, each with its name.
            let path = match part.name {
                "" => path.clone(),
                name => path.with_file_name(format!("{name}-{}", path.file_name().unwrap_or_default().display())),
            };
            write_whole(&path, labelled::predictions_table(&outputs, target).as_bytes())
                .map_err(|error| Failure::input(format!("--predictions: {error}")))?;
            output.say(format!("predictions: {}", path.display()));
        }
    }
    output.result(&json!({"command": "evaluate", "metrics": report}));
    Ok(ExitCode::SUCCESS)
}

fn choose(
    arguments: &Arguments,
    model: &Llama,
    adapters: Option<&AdapterSet>,
    tokenizer: &Tokenizer,
    output: &Output,
) -> Outcome<ExitCode> {
    let mut report = serde_json::Map::new();
    for file in &arguments.data {
        let questions = rows::questions(file)?;
        let answers = commonsense::answer(model, adapters, tokenizer, &questions, arguments.seq, arguments.answer_by)?;
        if answers.cut > 0 {
            output.say(format!("warning: {} questions are longer than --seq and lose their beginning", answers.cut));
        }
        let (name, accuracy) = (file.display().to_string(), answers.accuracy());
        output.say(format!("{name}: {} questions, accuracy {accuracy:.4}", answers.questions));
        if answers.unanswered > 0 {
            output.say(format!("{} of them without any of the options in the answer", answers.unanswered));
        }
        let facts = json!({
            "accuracy": accuracy, "questions": answers.questions, "cut": answers.cut, "unanswered": answers.unanswered,
        });
        report.insert(name, facts);
    }
    output.result(&json!({"command": "evaluate", "metrics": report}));
    Ok(ExitCode::SUCCESS)
}

fn perplexity(
    arguments: &Arguments,
    model: &dyn Model,
    adapters: Option<&AdapterSet>,
    tokenizer: &Tokenizer,
    output: &Output,
) -> Outcome<ExitCode> {
    let padding = tokenizer.pad().or(tokenizer.eos()).unwrap_or(0);
    let mut data = Data::read(&arguments.data, tokenizer, arguments.task.style(arguments.loss_on))?;
    let rows = RowOptions::default();
    let shape = Shape { sequence: arguments.seq, batch: arguments.batch, seed: 0, rows };
    let (cut, source): (_, Box<dyn BatchSource>) = match arguments.task {
        Task::MaskedLm => (data.too_long(arguments.seq), Box::new(masked::validation(data, shape, tokenizer)?)),
        _ => (data.cut(arguments.seq), data.batches(shape, padding, None)?),
    };
    cut.warning("validation", arguments.seq).iter().for_each(|warning| output.say(warning));
    let evaluation = evaluate(model, adapters, &*source).map_err(lora_failure)?;
    let (loss, tokens) = (evaluation.loss, evaluation.tokens);
    output.say(format!("loss {loss:.4}, perplexity {:.3}, over {tokens} tokens", loss.exp()));
    output.result(&json!({
        "command": "evaluate", "loss": loss, "perplexity": loss.exp(), "tokens": tokens,
        "seconds": evaluation.seconds,
    }));
    Ok(ExitCode::SUCCESS)
}
