//! Rows of JSON into examples, or into questions with options. A row that cannot be used is an error that names file and
//! line.

use std::path::Path;

use lora::Example;
use models::Tokenizer;
use serde_json::{Map, Value};

use crate::failure::{Failure, Outcome};

/// What `make` gives for the row in each non-empty line; its first argument names the place.
pub fn from_lines<T>(file: &Path, text: &str, make: impl Fn(&str, &Value) -> Outcome<T>) -> Outcome<Vec<T>> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(index, line)| {
            let place = format!("{} line {}", file.display(), index + 1);
            let row = serde_json::from_str(line).map_err(|error| Failure::input(format!("{place}: {error}")))?;
            make(&place, &row)
        })
        .collect()
}

/// How a row becomes a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// What is given, a line end, what is to be learned.
    Plain,
    /// The prompt of LLM-Adapters' commonsense sets, all of it to be learned.
    Commonsense,
}

/// The prompt of LLM-Adapters; the indentation belongs to it.
fn commonsense_prompt(instruction: &str) -> String {
    const INDENT: &str = "                ";
    format!(
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.  \n\n\
         {INDENT}### Instruction:\n{INDENT}{instruction}\n{INDENT}\n{INDENT}### Response:\n{INDENT}"
    )
}

/// A multiple-choice question of a commonsense set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub prompt: String,
    /// All answers, as the model should give them.
    pub options: Vec<String>,
    /// The number of the right one.
    pub right: usize,
}

/// The questions of one file, a JSON array of `instruction`, `output` and `answer`. The options are what the instruction
/// lists after `Answer format:`.
pub fn questions(file: &Path) -> Outcome<Vec<Question>> {
    let rows: Vec<Value> = serde_json::from_str(&super::read_text(file)?)
        .map_err(|error| Failure::input(format!("{} is not a JSON array of rows: {error}", file.display())))?;
    let place = |index: usize, message| Failure::input(format!("{} row {}: {message}", file.display(), index + 1));
    let rows = rows.iter().enumerate();
    rows.map(|(index, row)| question(row).map_err(|message| place(index, message))).collect()
}

fn question(row: &Value) -> Result<Question, String> {
    let field = |name: &str| row.get(name).and_then(Value::as_str).ok_or_else(|| format!("there is no text `{name}`"));
    let (instruction, answer) = (field("instruction")?, field("answer")?.trim());
    let (_, listed) = instruction.rsplit_once("Answer format:").ok_or("the instruction has no `Answer format:`")?;
    let names: Vec<&str> = listed.trim().split('/').map(str::trim).collect();
    let right = names.iter().position(|name| *name == answer);
    let right = right.ok_or_else(|| format!("the answer `{answer}` is not one of {}", names.join(", ")))?;
    Ok(Question {
        prompt: commonsense_prompt(instruction),
        options: names.iter().map(|name| format!("the correct answer is {name}")).collect(),
        right,
    })
}

/// What `make` gives for each element of one JSON array; its first argument names the place.
pub fn from_array<T>(file: &Path, text: &str, make: impl Fn(&str, &Value) -> Outcome<T>) -> Outcome<Vec<T>> {
    let rows: Vec<Value> = serde_json::from_str(text)
        .map_err(|error| Failure::input(format!("{} is not a JSON array of rows: {error}", file.display())))?;
    let rows = rows.iter().enumerate();
    rows.map(|(index, row)| make(&format!("{} row {}", file.display(), index + 1), row)).collect()
}

/// The parts of a row: what is given and what is to be learned.
fn parts(row: &Map<String, Value>, style: Style) -> Option<(String, String)> {
    let field = |name: &str| row.get(name).and_then(Value::as_str);
    if style == Style::Commonsense {
        return Some((commonsense_prompt(field("instruction")?), field("output")?.to_string()));
    }
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

fn parts_of(place: &str, row: &Value, style: Style) -> Outcome<(String, String)> {
    row.as_object().and_then(|row| parts(row, style)).ok_or_else(|| {
        Failure::input(format!(
            "{place}: a row has the text field `text`, or `prompt` and `completion`, or `instruction` and `output` \
             (and perhaps `input`)"
        ))
    })
}

/// The text of a row.
pub fn text(place: &str, row: &Value, style: Style) -> Outcome<String> {
    let (prompt, answer) = parts_of(place, row, style)?;
    Ok(prompt + &answer)
}

/// The tokens of a row, and which of them are to be learned.
pub fn example(place: &str, row: &Value, tokenizer: &Tokenizer, style: Style) -> Outcome<Example> {
    let (prompt, answer) = parts_of(place, row, style)?;
    let mut ids: Vec<u32> = tokenizer.bos().into_iter().collect();
    let given = match style {
        Style::Plain => {
            if !prompt.is_empty() {
                ids.extend(tokenizer.encode(&prompt, false)?);
            }
            let given = ids.len();
            ids.extend(tokenizer.encode(&answer, false)?);
            given
        }
        // LLM-Adapters tokenises the whole and learns all of it.
        Style::Commonsense => {
            ids.extend(tokenizer.encode(&format!("{prompt}{answer}"), false)?);
            1
        }
    };
    ids.extend(tokenizer.eos());
    if ids.len() < 2 || ids.len() == given {
        return Err(Failure::input(format!("{place}: there is nothing to learn in this row")));
    }
    let learned = (0..ids.len()).map(|position| position >= given).collect();
    Ok(Example { ids, learned })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn questions_have_the_prompt_and_options_of_llm_adapters() {
        let instruction = "Is it?\n\nAnswer format: true/false";
        let found = question(&json!({"instruction": instruction, "output": "x", "answer": "false"})).unwrap();
        let indent = " ".repeat(16);
        let prompt = format!(
            "Below is an instruction that describes a task. Write a response that appropriately completes the request.  \n\n\
             {indent}### Instruction:\n{indent}{instruction}\n{indent}\n{indent}### Response:\n{indent}"
        );
        assert_eq!(found.prompt, prompt);
        assert_eq!(found.options, ["the correct answer is true", "the correct answer is false"]);
        assert_eq!(found.right, 1);
        let refusal = |row: Value| question(&row).unwrap_err();
        assert!(refusal(json!({"instruction": instruction, "answer": "maybe"})).contains("`maybe` is not one of"));
        assert!(refusal(json!({"instruction": "Is it?", "answer": "true"})).contains("no `Answer format:`"));
        assert!(refusal(json!({"answer": "true"})).contains("`instruction`"));
    }
}
