//! Rows of JSON into examples, or into questions with options. A row that cannot be used is an error that names file and
//! line.

use std::path::Path;

use lora::Example;
use models::Tokenizer;
use serde_json::{Map, Value};

use super::options::LossOn;
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

/// How a row becomes a text, and which part of it is learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    pub template: Template,
    pub loss_on: LossOn,
}

/// How a row becomes a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Template {
    /// What is given, a line end, the answer.
    Plain,
    /// The prompt of LLM-Adapters' commonsense sets.
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
    /// The names of the answers to choose from.
    pub names: Vec<String>,
    /// The number of the right one.
    pub right: usize,
}

impl Question {
    /// All answers, as the model should give them.
    pub fn options(&self) -> impl Iterator<Item = String> {
        self.names.iter().map(|name| format!("the correct answer is {name}"))
    }
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
        names: names.into_iter().map(String::from).collect(),
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

/// The parts of a row: what is given and the answer.
fn parts(row: &Map<String, Value>, template: Template) -> Option<(String, String)> {
    let field = |name: &str| row.get(name).and_then(Value::as_str);
    if template == Template::Commonsense {
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

/// Rows of chat messages: how they become text is each model's own, and written in a language of templates.
const CHAT: [&str; 2] = ["messages", "conversations"];

fn parts_of(place: &str, row: &Value, template: Template) -> Outcome<(String, String)> {
    if let Some(parts) = row.as_object().and_then(|row| parts(row, template)) {
        return Ok(parts);
    }
    Err(Failure::input(match CHAT.iter().find(|name| row.get(name).is_some()) {
        Some(chat) => format!(
            "{place}: chat messages (`{chat}`) are not read, since every model has its own template for them; write each \
             conversation as `prompt` and `completion`, with the template's words in them"
        ),
        None => format!(
            "{place}: a row has the text field `text`, or `prompt` and `completion`, or `instruction` and `output` (and \
             perhaps `input`)"
        ),
    }))
}

/// The text of a row.
pub fn text(place: &str, row: &Value, style: Style) -> Outcome<String> {
    let (prompt, answer) = parts_of(place, row, style.template)?;
    Ok(prompt + &answer)
}

/// The tokens of a row, and which of them are to be learned.
pub fn example(place: &str, row: &Value, tokenizer: &Tokenizer, style: Style) -> Outcome<Example> {
    let (prompt, answer) = parts_of(place, row, style.template)?;
    let start: Vec<u32> = tokenizer.bos().into_iter().collect();
    let tokens = |text: &str| -> Outcome<Vec<u32>> {
        let tokens = if text.is_empty() { Vec::new() } else { tokenizer.encode(text, false)? };
        Ok([&start[..], &tokens].concat())
    };
    let given = tokens(&prompt)?;
    let (mut ids, given) = match style.template {
        Template::Plain => ([&given[..], &tokens(&answer)?[start.len()..]].concat(), given.len()),
        // LLM-Adapters tokenises the whole: the end of the prompt may join the beginning of the answer.
        Template::Commonsense => {
            let whole = tokens(&format!("{prompt}{answer}"))?;
            let common = given.iter().zip(&whole).take_while(|(a, b)| a == b).count();
            (whole, common)
        }
    };
    ids.extend(tokenizer.eos());
    if ids.len() < 2 || ids.len() == given {
        return Err(Failure::input(format!("{place}: there is nothing to learn in this row")));
    }
    let given = if style.loss_on == LossOn::All { start.len() } else { given };
    let learned = (0..ids.len()).map(|position| position >= given).collect();
    Ok(Example { ids, learned })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::task::Task;
    use super::super::tests::letters;
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
        let options: Vec<String> = found.options().collect();
        assert_eq!(options, ["the correct answer is true", "the correct answer is false"]);
        assert_eq!(found.right, 1);
        let refusal = |row: Value| question(&row).unwrap_err();
        assert!(refusal(json!({"instruction": instruction, "answer": "maybe"})).contains("`maybe` is not one of"));
        assert!(refusal(json!({"instruction": "Is it?", "answer": "true"})).contains("no `Answer format:`"));
        assert!(refusal(json!({"answer": "true"})).contains("`instruction`"));
    }

    /// Learned tokens of a row, as text.
    fn learned(row: Value, task: Task, loss_on: Option<LossOn>) -> String {
        let tokenizer = letters();
        let example = example("here", &row, &tokenizer, task.style(loss_on)).unwrap();
        let ids = example.ids.iter().zip(&example.learned).filter(|(_, learned)| **learned).map(|(&id, _)| id);
        tokenizer.decode(&ids.collect::<Vec<_>>(), false).unwrap().replace(' ', "")
    }

    #[test]
    fn the_loss_is_on_the_answer_or_on_all() {
        let row = || json!({"prompt": "ab", "completion": "ba"});
        assert_eq!(learned(row(), Task::Causal, None), "ba</s>");
        assert_eq!(learned(row(), Task::Causal, Some(LossOn::All)), "abba</s>");
        assert_eq!(learned(json!({"text": "ab"}), Task::Causal, Some(LossOn::Answer)), "ab</s>");
        let row = || json!({"instruction": "a", "output": "ba"});
        assert_eq!(learned(row(), Task::Commonsense, Some(LossOn::Answer)), "ba</s>");
        let whole = learned(row(), Task::Commonsense, None);
        assert!(whole.ends_with("ba</s>") && whole.len() > 200, "{whole}");
    }

    #[test]
    fn chat_messages_are_refused_with_the_way_out() {
        for name in ["messages", "conversations"] {
            let row = json!({ name: [{"role": "user", "content": "a"}] });
            let refused =
                example("x.jsonl line 3", &row, &letters(), Task::Causal.style(None)).unwrap_err().to_string();
            assert!(
                refused.starts_with(&format!("x.jsonl line 3: chat messages (`{name}`) are not read")),
                "{refused}"
            );
            assert!(refused.contains("`prompt` and `completion`"), "{refused}");
        }
    }
}
