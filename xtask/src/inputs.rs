//! What training and restoring read besides a model: batches to train on and to judge by, and what judges predictions.

use std::path::PathBuf;

use lora::{AdapterSet, LabelledSequences, PaddingSide};
use models::Tokenizer;

use crate::classification;
use crate::data::labelled::{self, Encoded, Row, Validation};
use crate::data::masked;
use crate::data::options::RowOptions;
use crate::data::task::{Target, Task};
use crate::data::{Data, Shape, Sources};
use crate::failure::{Failure, Outcome};
use crate::loading::Loaded;
use crate::output::Output;

/// Which data a run reads, and as what.
#[derive(Clone, Copy, Debug)]
pub struct DataRequest<'a> {
    pub task: Task,
    /// What sequences are labelled with; `None` for language modelling.
    pub target: Option<&'a Target>,
    pub data: &'a [PathBuf],
    /// Empty: a part of the data is held out.
    pub validation: &'a [PathBuf],
    pub shape: Shape,
}

/// Data for a run.
pub struct TaskData {
    pub sources: Sources,
    pub judge: Judge,
}

/// What can be read before a model is loaded, so that what is wrong with it is known soon: rows with labels. Texts are read
/// when they are turned into tokens.
pub enum Rows {
    Labelled { target: Target, training: Vec<Row>, validation: Vec<Validation> },
    Language,
}

/// Measures a model on the validation rows of a task with labels.
pub struct Judge {
    target: Option<Target>,
    validation: Vec<(&'static str, LabelledSequences)>,
}

impl DataRequest<'_> {
    /// Reads rows with labels.
    pub fn rows(&self) -> Outcome<Rows> {
        let Some(target) = self.target else { return Ok(Rows::Language) };
        let (training, validation) = labelled::read(self.task, target, self.data, self.validation)?;
        Ok(Rows::Labelled { target: target.clone(), training, validation })
    }

    /// Turns the data into batches of tokens for a model with a number of positions.
    pub fn batches(&self, rows: Rows, tokenizer: &Tokenizer, positions: usize) -> Outcome<TaskData> {
        let sequence = self.shape.sequence;
        if sequence > positions {
            return Err(Failure::input(format!("--seq {sequence}: the model has {positions} positions")));
        }
        match rows {
            Rows::Labelled { target, training, validation } => self.labelled(target, training, validation, tokenizer),
            Rows::Language => self.language(tokenizer),
        }
    }

    fn labelled(
        &self,
        target: Target,
        training: Vec<Row>,
        validation: Vec<Validation>,
        tokenizer: &Tokenizer,
    ) -> Outcome<TaskData> {
        let Shape { sequence, batch, seed, rows: options } = self.shape;
        if options.loss_on.is_some() || options.padding() == PaddingSide::Left {
            return Err(Failure::input(
                "--loss-on and --padding-side left belong to tasks that predict the next token",
            ));
        }
        let encode = |rows: &[Row]| Encoded::new(rows, tokenizer, sequence);
        let training = encode(&training)?;
        let mut encoded = Vec::with_capacity(validation.len());
        for part in &validation {
            encoded.push((part.name, encode(&part.rows)?));
        }
        let Some((_, first)) = encoded.first().cloned() else {
            return Err(Failure::input("--data: there are no validation rows"));
        };
        let (training_cut, validation_cut) = (training.cut(), first.cut());
        let (training, first) = (training.batches(batch, Some(seed))?, first.batches(batch, None)?);
        let training = if options.group_by_length { training.grouped_by_length() } else { training };
        let sources = Sources {
            training_tokens: training.tokens(),
            validation_tokens: first.tokens(),
            training_cut,
            validation_cut,
            training: Box::new(training),
            validation: Box::new(first),
        };
        let validation: Outcome<Vec<_>> =
            encoded.into_iter().map(|(name, rows)| Ok((name, rows.batches(batch, None)?))).collect();
        Ok(TaskData { sources, judge: Judge { target: Some(target), validation: validation? } })
    }

    fn language(&self, tokenizer: &Tokenizer) -> Outcome<TaskData> {
        let style = self.task.style(self.shape.rows.loss_on);
        let data = Data::read(self.data, tokenizer, style)?;
        let (training, validation) = match self.validation.is_empty() {
            true => data.hold_out(self.shape.sequence),
            false => (data, Data::read(self.validation, tokenizer, style)?),
        };
        let sources = match self.task {
            Task::MaskedLm if self.shape.rows != RowOptions::default() => {
                return Err(Failure::input(
                    "--loss-on, --padding-side left and --group-by-length are not for --task masked-lm",
                ));
            }
            Task::MaskedLm => masked::sources(training, validation, self.shape, tokenizer)?,
            _ => {
                let padding = tokenizer.pad().or(tokenizer.eos()).unwrap_or(0);
                training.sources(validation, self.shape, padding)?
            }
        };
        Ok(TaskData { sources, judge: Judge { target: None, validation: Vec::new() } })
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
