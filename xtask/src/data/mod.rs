//! Training data from files, by extension: `.txt` is packed language modelling; `.jsonl` and `.json` are rows of
//! `text`, `prompt` + `completion`, or `instruction` + `input` + `output`. Texts with labels are in `labelled`, GLUE's
//! files in `glue`. What becomes of the tokens is the `lora` crate's affair.

pub mod glue;
pub mod labelled;
pub mod masked;
pub mod options;
pub mod rows;
pub mod task;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use lora::{BatchSource, Example, PackedTokens, PaddedExamples};
use models::Tokenizer;

use crate::failure::{Failure, Outcome};
use options::RowOptions;
use rows::Style;
use task::Task;

/// Share of the data that is held out for validation when no validation file is given.
const HELD_OUT: f64 = 0.05;

/// Blocks or rows that validation reads at the most when they are held out automatically: enough for a steady mean,
/// few enough not to slow training.
const HELD_OUT_LIMIT: usize = 64;

/// What was read from the files of one kind.
pub enum Data {
    /// One run of tokens.
    Text(Vec<u32>),
    /// Rows of their own lengths.
    Examples(Vec<Example>),
}

/// Sequence length, sequences a batch, the seed of the order, and how rows are put into batches.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub sequence: usize,
    pub batch: usize,
    pub seed: u64,
    pub rows: RowOptions,
}

/// Rows that do not fit the length of a sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// All rows.
    pub rows: usize,
    /// Those that are longer and lose their end.
    pub shortened: usize,
    /// Those that are left out, since nothing to learn lies within the length.
    pub dropped: usize,
}

impl Cut {
    /// What to tell the user, where there is something; `what` the rows are for.
    pub fn warning(&self, what: &str, sequence: usize) -> Option<String> {
        let Cut { rows, shortened, dropped } = *self;
        let dropped = match dropped {
            0 => String::new(),
            count => format!("; {count} of them are left out, since their answer lies beyond"),
        };
        (shortened > 0).then(|| {
            format!("warning: {shortened} of {rows} {what} rows are longer than --seq {sequence} and are cut{dropped}")
        })
    }
}

/// Training and validation batches.
pub struct Sources {
    pub training: Box<dyn BatchSource>,
    pub validation: Box<dyn BatchSource>,
    /// Tokens for training, padding not counted.
    pub training_tokens: usize,
    /// Tokens for validation, padding not counted.
    pub validation_tokens: usize,
    /// Training rows longer than the sequence.
    pub training_cut: Cut,
    /// Validation rows longer than the sequence.
    pub validation_cut: Cut,
}

/// The text of a data file, without its byte-order mark.
fn read_text(file: &Path) -> Outcome<String> {
    let bytes = std::fs::read(file)
        .map_err(|error| Failure::input(format!("the data file {} cannot be read: {error}", file.display())))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Failure::input(format!("the data file {} is not UTF-8 text (byte {at})", file.display()))
    })?;
    Ok(text.strip_prefix('\u{feff}').map_or_else(|| text.clone(), str::to_owned))
}

/// The texts of files, as [`Data::read`] would turn them into tokens.
pub fn texts(files: &[PathBuf], style: Style) -> Outcome<Vec<String>> {
    let mut texts = Vec::new();
    for file in files {
        let text = read_text(file)?;
        match Format::of(file)? {
            Format::Text => texts.push(text),
            Format::Lines => texts.extend(rows::from_lines(file, &text, |place, row| rows::text(place, row, style))?),
            Format::Array => texts.extend(rows::from_array(file, &text, |place, row| rows::text(place, row, style))?),
        }
    }
    Ok(texts)
}

/// What a data file holds, by its extension.
enum Format {
    Text,
    /// A row of JSON in each line.
    Lines,
    /// One array of rows.
    Array,
}

impl Format {
    fn of(file: &Path) -> Outcome<Self> {
        match file.extension().and_then(|extension| extension.to_str()).unwrap_or("") {
            "txt" => Ok(Format::Text),
            "jsonl" => Ok(Format::Lines),
            "json" => Ok(Format::Array),
            _ => Err(Failure::input(format!(
                "the data file {} has no known extension; known are .txt, .jsonl and .json",
                file.display()
            ))),
        }
    }
}

/// How much a task reads from a file: tokens of a text, rows or questions.
pub fn count(task: &str, file: &Path, tokenizer: &Tokenizer) -> Outcome<usize> {
    let task = <Task as clap::ValueEnum>::from_str(task, false).map_err(Failure::input)?;
    let labels = ["no", "yes"].map(String::from);
    let files = [file.to_path_buf()];
    match task.target(if task == Task::Classify { &labels } else { &[] })? {
        Some(target) => {
            let parts = labelled::read_validation(task, &target, &files)?;
            let rows: Vec<_> = parts.into_iter().flat_map(|part| part.rows).collect();
            labelled::Encoded::new(&rows, tokenizer, 16)?.batches(8, Some(0)).map(|_| rows.len())
        }
        None if task == Task::Commonsense && file.extension().is_some_and(|extension| extension == "json") => {
            rows::questions(file).map(|questions| questions.len())
        }
        None => match Data::read(&files, tokenizer, task.style(None))? {
            Data::Text(tokens) => Ok(tokens.len()),
            Data::Examples(rows) => Ok(rows.len()),
        },
    }
}

impl Data {
    /// Reads and tokenises files, which must be all text or all rows.
    pub fn read(files: &[PathBuf], tokenizer: &Tokenizer, style: Style) -> Outcome<Self> {
        let mut data: Option<Data> = None;
        for file in files {
            let next = Self::read_file(file, tokenizer, style)?;
            data = Some(match (data, next) {
                (None, next) => next,
                (Some(Data::Text(mut all)), Data::Text(more)) => {
                    all.extend(more);
                    Data::Text(all)
                }
                (Some(Data::Examples(mut all)), Data::Examples(more)) => {
                    all.extend(more);
                    Data::Examples(all)
                }
                _ => return Err(Failure::input("text files and files of rows cannot be mixed in one run")),
            });
        }
        data.ok_or_else(|| Failure::input("no data file given"))
    }

    fn read_file(file: &Path, tokenizer: &Tokenizer, style: Style) -> Outcome<Self> {
        let format = Format::of(file)?;
        let text = read_text(file)?;
        let example = |place: &str, row: &serde_json::Value| rows::example(place, row, tokenizer, style);
        Ok(match format {
            Format::Text => Data::Text(tokenizer.encode(&text, false)?),
            Format::Lines => Data::Examples(rows::from_lines(file, &text, example)?),
            Format::Array => Data::Examples(rows::from_array(file, &text, example)?),
        })
    }

    /// Splits off a validation part from the end of text, or evenly from rows.
    pub fn hold_out(self, sequence: usize) -> (Data, Data) {
        match self {
            Data::Text(mut tokens) => {
                let blocks = ((tokens.len() as f64 * HELD_OUT) as usize / sequence).clamp(1, HELD_OUT_LIMIT);
                let cut = tokens.len().saturating_sub(blocks * sequence + 1);
                let held = tokens.split_off(cut);
                (Data::Text(tokens), Data::Text(held))
            }
            Data::Examples(examples) => {
                let count = ((examples.len() as f64 * HELD_OUT) as usize).clamp(1, HELD_OUT_LIMIT);
                let every = examples.len().div_ceil(count).max(2);
                let (mut kept, mut held) = (Vec::new(), Vec::new());
                for (index, example) in examples.into_iter().enumerate() {
                    if index % every == every - 1 { held.push(example) } else { kept.push(example) }
                }
                (Data::Examples(kept), Data::Examples(held))
            }
        }
    }

    /// Drops the rows of which nothing is learned within a length, and counts those that are longer.
    pub fn cut(&mut self, sequence: usize) -> Cut {
        let cut = self.too_long(sequence);
        let Data::Examples(examples) = self else { return cut };
        // The first token has none before it to be predicted from.
        examples.retain(|example| example.learned.iter().take(sequence).skip(1).any(|&learned| learned));
        Cut { dropped: cut.rows - examples.len(), ..cut }
    }

    /// Counts the rows that are longer than a length.
    pub fn too_long(&self, sequence: usize) -> Cut {
        let Data::Examples(examples) = self else { return Cut::default() };
        let shortened = examples.iter().filter(|example| example.ids.len() > sequence).count();
        Cut { rows: examples.len(), shortened, dropped: 0 }
    }

    /// Training and validation batches of these data.
    pub fn sources(mut self, mut validation: Data, shape: Shape, padding_id: u32) -> Outcome<Sources> {
        let (training_cut, validation_cut) = (self.cut(shape.sequence), validation.cut(shape.sequence));
        Ok(Sources {
            training_tokens: self.tokens(),
            validation_tokens: validation.tokens(),
            training: self.batches(shape, padding_id, Some(shape.seed))?,
            validation: validation.batches(shape, padding_id, None)?,
            training_cut,
            validation_cut,
        })
    }

    /// Batches in a fresh order every epoch, or without a seed in the data's own.
    pub fn batches(self, shape: Shape, padding_id: u32, seed: Option<u64>) -> Outcome<Box<dyn BatchSource>> {
        let Shape { sequence, batch, rows: options, .. } = shape;
        let wrong = |error: lora::LoraError| Failure::input(format!("--data: {error}"));
        match (self, seed) {
            (Data::Text(tokens), Some(seed)) => {
                Ok(Box::new(PackedTokens::shuffled(tokens, sequence, batch, seed).map_err(wrong)?))
            }
            (Data::Text(tokens), None) => Ok(Box::new(PackedTokens::in_order(tokens, sequence, batch).map_err(wrong)?)),
            (Data::Examples(rows), _) if rows.is_empty() => Err(Failure::input(format!(
                "--data: there is no row of which something is learned within --seq {sequence}"
            ))),
            (Data::Examples(rows), _) => {
                let source = PaddedExamples::new(rows, batch, sequence, padding_id, seed).map_err(wrong)?;
                let source = source.padded_on(options.padding());
                Ok(Box::new(if options.group_by_length { source.grouped_by_length() } else { source }))
            }
        }
    }

    fn tokens(&self) -> usize {
        match self {
            Data::Text(tokens) => tokens.len(),
            Data::Examples(examples) => examples.iter().map(|example| example.ids.len()).sum(),
        }
    }
}
