//! Rows of JSON into examples. A row that cannot be used is an error that names file and line.

use std::path::Path;

use lora::Example;
use models::Tokenizer;
use serde_json::{Map, Value};

use crate::failure::{Failure, Outcome};

/// One example per non-empty line.
pub fn from_lines(file: &Path, text: &str, tokenizer: &Tokenizer) -> Outcome<Vec<Example>> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(index, line)| {
            let place = format!("{} line {}", file.display(), index + 1);
            let row = serde_json::from_str(line).map_err(|error| Failure::input(format!("{place}: {error}")))?;
            example(&place, &row, tokenizer)
        })
        .collect()
}

/// One example per element of one JSON array.
pub fn from_array(file: &Path, text: &str, tokenizer: &Tokenizer) -> Outcome<Vec<Example>> {
    let rows: Vec<Value> = serde_json::from_str(text)
        .map_err(|error| Failure::input(format!("{} is not a JSON array of rows: {error}", file.display())))?;
    let rows = rows.iter().enumerate();
    rows.map(|(index, row)| example(&format!("{} row {}", file.display(), index + 1), row, tokenizer)).collect()
}

/// The parts of a row: what is given and what is to be learned.
fn parts(row: &Map<String, Value>) -> Option<(String, String)> {
    let field = |name: &str| row.get(name).and_then(Value::as_str);
    if let Some(text) = field("text") {
        return Some((String::new(), text.to_string()));
    }
    if let (Some(prompt), Some(completion)) = (field("prompt"), field("completion")) {
        return Some((prompt.to_string(), completion.to_string()));
    }
    let (instruction, output) = (field("instruction")?, field("output")?);
    let input = field("input").filter(|input| !input.is_empty());
    let prompt = match input {
        Some(input) => format!("{instruction}\n{input}\n"),
        None => format!("{instruction}\n"),
    };
    Some((prompt, output.to_string()))
}

fn example(place: &str, row: &Value, tokenizer: &Tokenizer) -> Outcome<Example> {
    let Some((prompt, answer)) = row.as_object().and_then(parts) else {
        return Err(Failure::input(format!(
            "{place}: a row has the text field `text`, or `prompt` and `completion`, or `instruction` and `output` \
             (and perhaps `input`)"
        )));
    };
    let mut ids: Vec<u32> = tokenizer.bos().into_iter().collect();
    if !prompt.is_empty() {
        ids.extend(tokenizer.encode(&prompt, false)?);
    }
    let given = ids.len();
    ids.extend(tokenizer.encode(&answer, false)?);
    ids.extend(tokenizer.eos());
    if ids.len() < 2 || ids.len() == given {
        return Err(Failure::input(format!("{place}: there is nothing to learn in this row")));
    }
    let learned = (0..ids.len()).map(|position| position >= given).collect();
    Ok(Example { ids, learned })
}
