//! What a run starts from: the model for its task, batches, and what judges the outcome.

use lora::AdapterSet;
use models::Tokenizer;
use tensor::Device;

use super::Arguments;
use crate::Common;
use crate::classification;
use crate::data::labelled::{self, Encoded};
use crate::data::task::Target;
use crate::data::{Data, Shape, Sources};
use crate::failure::{Failure, Outcome};
use crate::loading::{self, ClassifierOptions, Loaded};
use crate::output::Output;

/// The parts of a run.
pub struct Inputs {
    pub loaded: Loaded,
    pub sources: Sources,
    pub judge: Judge,
}

/// Measures a model on the validation rows of a task with labels.
pub struct Judge {
    target: Option<Target>,
    validation: Vec<(&'static str, lora::LabelledSequences)>,
}

/// Reads all inputs; small and quick ones first, so that what is wrong with them is known soon.
pub fn read(arguments: &Arguments, common: &Common, device: &Device, output: &Output) -> Outcome<Inputs> {
    let target = arguments.task.target(&arguments.labels)?;
    let tokenizer = loading::tokenizer(&arguments.model)?;
    let Some(target) = target else { return language(arguments, common, device, &tokenizer, output) };
    let (training, validation) = labelled::read(arguments.task, &target, &arguments.data, &arguments.validation)?;
    let options = ClassifierOptions {
        weight_type: arguments.dtype.weight_type(),
        seed: common.seed,
        dropout: arguments.model_dropout(),
        checkpoint_activations: arguments.checkpoint_activations,
    };
    let loaded = loading::classifier(&arguments.model, device, &target, &options, output)?;
    check_length(arguments, &loaded)?;
    let encode = |rows: &[labelled::Row]| Encoded::new(rows, &tokenizer, arguments.seq);
    let training = encode(&training)?;
    let mut encoded = Vec::with_capacity(validation.len());
    for part in &validation {
        encoded.push((part.name, encode(&part.rows)?));
    }
    let Some((_, first)) = encoded.first().cloned() else {
        return Err(Failure::input("--data: there are no validation rows"));
    };
    let truncated = training.cut;
    let (training, first) =
        (training.batches(arguments.batch, Some(common.seed))?, first.batches(arguments.batch, None)?);
    let sources = Sources {
        training_tokens: training.tokens(),
        validation_tokens: first.tokens(),
        truncated,
        training: Box::new(training),
        validation: Box::new(first),
    };
    let validation: Outcome<Vec<_>> =
        encoded.into_iter().map(|(name, rows)| Ok((name, rows.batches(arguments.batch, None)?))).collect();
    Ok(Inputs { loaded, sources, judge: Judge { target: Some(target), validation: validation? } })
}

fn language(
    arguments: &Arguments,
    common: &Common,
    device: &Device,
    tokenizer: &Tokenizer,
    output: &Output,
) -> Outcome<Inputs> {
    let dropouts = [arguments.hidden_dropout, arguments.attention_dropout, arguments.classifier_dropout];
    if dropouts.iter().any(Option::is_some) {
        let message = "--hidden-dropout, --attention-dropout and --classifier-dropout belong to tasks with labels";
        return Err(Failure::input(message));
    }
    let model = loading::language_model(&arguments.model, device, arguments.dtype.weight_type(), output)?
        .with_checkpointed_activations(arguments.checkpoint_activations);
    let loaded = Loaded::Language(Box::new(model));
    check_length(arguments, &loaded)?;
    let data = Data::read(&arguments.data, tokenizer, arguments.task.style())?;
    let (training, validation) = match arguments.validation.is_empty() {
        true => data.hold_out(arguments.seq),
        false => (data, Data::read(&arguments.validation, tokenizer, arguments.task.style())?),
    };
    let shape = Shape { sequence: arguments.seq, batch: arguments.batch, seed: common.seed };
    let padding = tokenizer.pad().or(tokenizer.eos()).unwrap_or(0);
    let sources = training.sources(validation, shape, padding)?;
    Ok(Inputs { loaded, sources, judge: Judge { target: None, validation: Vec::new() } })
}

fn check_length(arguments: &Arguments, loaded: &Loaded) -> Outcome<()> {
    let limit = loaded.positions();
    match arguments.seq > limit {
        true => Err(Failure::input(format!("--seq {}: the model has {limit} positions", arguments.seq))),
        false => Ok(()),
    }
}

impl Judge {
    /// Gives the measures of each validation part, by its name; nothing for language modelling.
    pub fn measure(&self, loaded: &Loaded, adapters: Option<&AdapterSet>) -> Outcome<Option<serde_json::Value>> {
        let (Loaded::Classifier { model, .. }, Some(target)) = (loaded, &self.target) else { return Ok(None) };
        let mut report = serde_json::Map::new();
        for (name, rows) in &self.validation {
            let outputs = classification::predict(&**model, adapters, rows)?;
            let scores = classification::score(&outputs, rows.labels(), target.measures);
            let label = if name.is_empty() { "validation" } else { name };
            report.insert(label.into(), scores.json());
        }
        Ok(Some(report.into()))
    }

    /// As [`Judge::measure`], and says them.
    pub fn score(
        &self,
        loaded: &Loaded,
        adapters: Option<&AdapterSet>,
        output: &Output,
    ) -> Outcome<Option<serde_json::Value>> {
        let report = self.measure(loaded, adapters)?;
        for (part, measures) in report.iter().filter_map(serde_json::Value::as_object).flatten() {
            let measures = measures.as_object().into_iter().flatten();
            let word = |(name, value): (&String, &serde_json::Value)| match value.as_f64() {
                Some(value) => format!("{name} {value:.4}"),
                None => format!("{name} undefined"),
            };
            let words: Vec<String> = measures.map(word).collect();
            output.say(format!("{part}: {}", words.join(", ")));
        }
        Ok(report)
    }
}
