//! Training data from files, by extension: `.txt` is packed language modelling; `.jsonl` and `.json` are rows of
//! `text`, `prompt` + `completion`, or `instruction` + `input` + `output`. Texts with labels are in `labelled`, GLUE's
//! files in `glue`. What becomes of the tokens is the `lora` crate's affair.

pub mod glue;
pub mod labelled;
pub mod masked;
pub mod rows;
pub mod task;

use std::path::{Path, PathBuf};

use lora::{BatchSource, Example, PackedTokens, PaddedExamples};
use models::Tokenizer;

use crate::failure::{Failure, Outcome};
use rows::Style;

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

/// Sequence length, sequences a batch, and the seed of the order.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub sequence: usize,
    pub batch: usize,
    pub seed: u64,
}

/// Training and validation batches.
pub struct Sources {
    pub training: Box<dyn BatchSource>,
    pub validation: Box<dyn BatchSource>,
    /// Tokens for training, padding not counted.
    pub training_tokens: usize,
    /// Tokens for validation, padding not counted.
    pub validation_tokens: usize,
    /// Training rows longer than the sequence, which are cut.
    pub truncated: usize,
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

    /// Training and validation batches of these data.
    pub fn sources(self, validation: Data, shape: Shape, padding_id: u32) -> Outcome<Sources> {
        let wrong = |error: lora::LoraError| Failure::input(format!("--data: {error}"));
        let (training_tokens, validation_tokens) = (self.tokens(), validation.tokens());
        let truncated = self.longer_than(shape.sequence);
        let Shape { sequence, batch, seed } = shape;
        let training: Box<dyn BatchSource> = match self {
            Data::Text(tokens) => Box::new(PackedTokens::shuffled(tokens, sequence, batch, seed).map_err(wrong)?),
            Data::Examples(rows) => {
                Box::new(PaddedExamples::new(rows, batch, sequence, padding_id, Some(seed)).map_err(wrong)?)
            }
        };
        let validation: Box<dyn BatchSource> = match validation {
            Data::Text(tokens) => Box::new(PackedTokens::in_order(tokens, sequence, batch).map_err(wrong)?),
            Data::Examples(rows) => {
                Box::new(PaddedExamples::new(rows, batch, sequence, padding_id, None).map_err(wrong)?)
            }
        };
        Ok(Sources { training, validation, training_tokens, validation_tokens, truncated })
    }

    /// Rows of more tokens than this.
    fn longer_than(&self, sequence: usize) -> usize {
        match self {
            Data::Text(_) => 0,
            Data::Examples(examples) => examples.iter().filter(|example| example.ids.len() > sequence).count(),
        }
    }

    fn tokens(&self) -> usize {
        match self {
            Data::Text(tokens) => tokens.len(),
            Data::Examples(examples) => examples.iter().map(|example| example.ids.len()).sum(),
        }
    }
}
